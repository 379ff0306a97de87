from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from tests.models.test_text_training import build
from vectoruniverse.adapters.apply import TowerTargets, inject_lora
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.models.heads import TextClassifier, load_head, read_head, save_head

FIRST = ["the red circle", "a green square on the left", "red"]
SECOND = ["is on the right", "left", "the circle is red and on the left"]
NAMES = ["no", "yes", "원"]


def pairs(model):
    one, two = model.encoders
    return [one.tokenize_pairs(FIRST, SECOND), two.tokenize_pairs(SECOND, FIRST)]


def forward(model, inputs, rows=(0, 1, 2)):
    return model(model.pad(inputs, np.array(rows)))


def test_logits_of_a_pair_are_the_linear_layer_of_both_bert_s_poolers():
    model = TextClassifier({"first": build(), "second": build(seed=1)}, 3, dropout=0.5, seed=0).eval()
    inputs = pairs(model)
    expected = []
    for row in range(3):
        pooled = [
            encoder.model(
                input_ids=torch.from_numpy(tokens.ids[row])[None],
                token_type_ids=torch.from_numpy(tokens.segments[row])[None],
            ).pooler_output
            for encoder, tokens in zip(model.encoders, inputs, strict=True)
        ]
        expected.append(torch.cat(pooled, dim=1) @ model.classifier.weight.T + model.classifier.bias)
    logits = forward(model, inputs)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, torch.cat(expected), atol=1e-5, rtol=1e-5)
    pooled = model.embed(inputs, batch_size=2)
    torch.testing.assert_close(model.logits(pooled), logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.predict(inputs, batch_size=1), logits.softmax(dim=1), atol=1e-5, rtol=1e-5)


def test_a_sequence_classifier_pools_one_text():
    model = TextClassifier({"encoder": build(pooling="mean")}, 3, dropout=0.0, seed=0).eval()
    inputs = [model.encoders[0].tokenize(FIRST)]
    pooled = model.encoders[0].embed_texts(inputs[0], batch_size=8)
    expected = pooled @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(forward(model, inputs), expected, atol=1e-5, rtol=1e-5)


def test_the_head_drops_out_in_training_alone():
    model = TextClassifier({"encoder": build(dropout=0.0)}, 3, dropout=0.5, seed=0)
    inputs = [model.encoders[0].tokenize(FIRST)]
    assert not torch.equal(forward(model.train(), inputs), forward(model, inputs))
    # what is evaluated is never dropped, whatever the mode
    assert torch.equal(model.predict(inputs, batch_size=8), model.predict(inputs, batch_size=8))
    assert torch.equal(forward(model.eval(), inputs), forward(model, inputs))


def test_head_weights_are_a_function_of_the_seed_alone():
    encoder = build()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        first = TextClassifier({"encoder": encoder}, 3, dropout=0.0, seed=5).classifier
        assert torch.equal(torch.random.get_rng_state(), before), "the global generator is not asked"
        torch.manual_seed(2)
        again, other = (TextClassifier({"encoder": encoder}, 3, dropout=0.0, seed=seed).classifier for seed in (5, 6))
    assert torch.equal(first.weight, again.weight) and not torch.equal(first.weight, other.weight)
    assert first.weight.dtype == torch.float32 and not first.bias.any()
    assert 0.01 < float(first.weight.detach().std()) < 0.03


def test_the_head_stays_float32_on_an_encoder_that_computes_in_bfloat16():
    encoder = build(dtype=torch.bfloat16)
    encoder.module.to(torch.bfloat16)
    model = TextClassifier({"encoder": encoder}, 3, dropout=0.0, seed=0)
    logits = forward(model, [encoder.tokenize(FIRST)])
    assert model.classifier.weight.dtype == logits.dtype == torch.float32


def test_what_is_trained_is_the_head_and_the_adapters_by_stable_names():
    encoders = build(), build(seed=1)
    for encoder in encoders:
        inject_lora(encoder.module, [TowerTargets("", ("query",), "adapter.targets")], rank=1, alpha=1.0)
    model = TextClassifier(dict(zip(("first", "second"), encoders, strict=True)), 2, dropout=0.0, seed=0)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    path = "model.encoder.layer.{}.attention.self.query.lora_{}"
    lora = [
        f"{part}.{path.format(block, letter)}" for part in ("first", "second") for block in (0, 1) for letter in "AB"
    ]
    assert trained == [*lora, "classifier.weight", "classifier.bias"]


def test_a_shared_encoder_is_one_set_of_weights_that_reads_both_orders():
    encoder = build()
    model = TextClassifier({"first": encoder, "second": encoder}, 2, dropout=0.0, seed=0).eval()
    names = [name for name, _ in model.named_parameters()]
    assert not any(name.startswith("second.") for name in names) and model.classifier.in_features == 64
    inputs = pairs(model)
    pooled = model.embed(inputs, batch_size=8)
    assert not torch.allclose(pooled[:, :32], pooled[:, 32:], atol=1e-3)
    forward(model, inputs)[:, 0].sum().backward()
    assert encoder.model.embeddings.word_embeddings.weight.grad.abs().max() > 0


def test_a_saved_head_comes_back_bit_for_bit_with_its_classes(tmp_path):
    file = tmp_path / "new" / "head.safetensors"
    model = TextClassifier({"encoder": build()}, 3, dropout=0.0, seed=0)
    save_head(model, file, NAMES)
    other = TextClassifier({"encoder": build()}, 3, dropout=0.0, seed=1)
    assert load_head(other, file) == read_head(file).names == tuple(NAMES)
    assert torch.equal(other.classifier.weight, model.classifier.weight)
    assert other.classifier.weight.requires_grad
    save_head(other, file, NAMES[::-1])
    assert read_head(file).names == tuple(NAMES[::-1])
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_head_of_another_shape_is_refused_and_changes_nothing(tmp_path):
    file = tmp_path / "head.safetensors"
    save_head(TextClassifier({"encoder": build()}, 2, dropout=0.0, seed=0), file, ["a", "b"])
    model = TextClassifier({"encoder": build()}, 3, dropout=0.0, seed=1)
    before = model.classifier.weight.detach().clone()
    with pytest.raises(ConfigError, match=r"2 classes on 32 numbers, and 3 on 32 are needed"):
        load_head(model, file)
    assert torch.equal(model.classifier.weight, before)


WEIGHT, BIAS = torch.zeros(2, 4), torch.zeros(2)
BAD = {
    "no classes": ({"weight": WEIGHT, "bias": BIAS}, {}, "names no classes"),
    "no JSON": ({"weight": WEIGHT, "bias": BIAS}, {"classes": "["}, "names no classes"),
    "too deep JSON": ({"weight": WEIGHT, "bias": BIAS}, {"classes": "[" * 100_000}, "names no classes"),
    "no list": ({"weight": WEIGHT, "bias": BIAS}, {"classes": '"ab"'}, "names no classes"),
    "numbers": ({"weight": WEIGHT, "bias": BIAS}, {"classes": "[1, 2]"}, "names no classes"),
    "one class twice": ({"weight": WEIGHT, "bias": BIAS}, {"classes": '["a", "a"]'}, "names no classes"),
    "half a character": ({"weight": WEIGHT, "bias": BIAS}, {"classes": '["a", "\\ud800"]'}, "names no classes"),
    "more classes": ({"weight": WEIGHT, "bias": BIAS}, {"classes": '["a", "b", "c"]'}, "do not fit together"),
    "other bias": ({"weight": WEIGHT, "bias": torch.zeros(3)}, {"classes": '["a", "b"]'}, "do not fit together"),
    "a vector": ({"weight": BIAS, "bias": torch.ones(2)}, {"classes": '["a", "b"]'}, "do not fit together"),
    "NaN": ({"weight": WEIGHT * float("nan"), "bias": BIAS}, {"classes": '["a", "b"]'}, "not finite float32"),
    "integers": ({"weight": WEIGHT, "bias": BIAS.int()}, {"classes": '["a", "b"]'}, "not finite float32"),
    "another tensor": (
        {"weight": WEIGHT, "bias": BIAS, "c": torch.ones(2)},
        {"classes": '["a", "b"]'},
        "not the weight and",
    ),
    "no bias": ({"weight": WEIGHT}, {"classes": '["a", "b"]'}, "not the weight and"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_no_head_is_refused_by_name(case, tmp_path):
    tensors, metadata, said = BAD[case]
    file = tmp_path / "head.safetensors"
    file.write_bytes(safetensors.torch.save(tensors, metadata=metadata))
    with pytest.raises(DataError, match=said) as caught:
        read_head(file)
    assert caught.value.file == file and caught.value.remedy


@pytest.mark.parametrize("content", [None, b"", b"\x80\x04pickle", b"\xff" * 64])
def test_a_file_that_is_no_safetensors_is_refused(content, tmp_path):
    file = tmp_path / "head.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_head(file)


def test_a_half_written_head_is_refused(tmp_path):
    file = tmp_path / "head.safetensors"
    save_head(TextClassifier({"encoder": build()}, 3, dropout=0.0, seed=0), file, NAMES)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match="cannot be read"):
        read_head(file)


def test_class_names_are_readable_in_the_file(tmp_path):
    file = tmp_path / "head.safetensors"
    save_head(TextClassifier({"encoder": build()}, 3, dropout=0.0, seed=0), file, NAMES)
    with safetensors.safe_open(file, framework="pt") as stream:
        assert json.loads(stream.metadata()["classes"]) == NAMES


def test_classes_are_read_in_canonical_form_where_that_keeps_them_apart(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "축구") for form in ("NFC", "NFD"))
    save_head(TextClassifier({"encoder": build()}, 2, dropout=0.0, seed=0), tmp_path / "one", [decomposed, "b "])
    assert read_head(tmp_path / "one").names == (composed, "b")
    save_head(TextClassifier({"encoder": build()}, 2, dropout=0.0, seed=0), tmp_path / "two", [decomposed, composed])
    assert read_head(tmp_path / "two").names == (decomposed, composed)


def test_any_linear_head_of_torch_fits_the_format(tmp_path):
    layer, file = nn.Linear(32, 3), tmp_path / "head.safetensors"
    content = {name: p.detach() for name, p in layer.named_parameters()}
    file.write_bytes(safetensors.torch.save(content, metadata={"classes": json.dumps(NAMES)}))
    model = TextClassifier({"encoder": build()}, 3, dropout=0.0, seed=0)
    load_head(model, file)
    assert torch.equal(model.classifier.weight, layer.weight)
