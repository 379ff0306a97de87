from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import nn
from transformers import AutoModel

from tests.models.text_models import TEXTS, embed, load, save_encoder
from vectoruniverse.errors import ConfigError
from vectoruniverse.models.scratch import random_like

TRANSFORMER = '[{{"type": "sentence_transformers.models.Transformer", "path": ""}}, {}]'


def save_with_dense(folder, plain, mode="mean", activation=None, max_tokens=8):
    """What distiluse looks like: pooling, a dense layer that narrows the vectors, and normalisation."""
    torch.manual_seed(0)
    dense = Dense(32, 12, activation_function=activation or nn.Tanh())
    parts = [Transformer(str(save_encoder(plain, "distilbert")), max_seq_length=max_tokens), Pooling(32, mode), dense]
    model = SentenceTransformer(modules=[*parts, Normalize()], device="cpu")
    model.save(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="module")
def distiluse(tmp_path_factory):
    root = tmp_path_factory.mktemp("distiluse")
    return save_with_dense(root / "folder", root / "plain")


def edit(folder, file, **changes):
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(config | changes))


@pytest.mark.parametrize("mode", ["mean", "cls"])
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Identity(), nn.GELU()], ids=lambda layer: type(layer).__name__)
def test_vectors_behind_a_dense_layer_are_sentence_transformers_own(mode, activation, tmp_path):
    folder = save_with_dense(tmp_path / "folder", tmp_path / "plain", mode, activation)
    texts = [*TEXTS, "red " * 20]
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts, convert_to_tensor=True)
    encoder = load(folder)
    tokens = encoder.tokenize(texts)
    assert (encoder.pooling, encoder.width, encoder.max_tokens, tokens.truncated) == (mode, 12, 8, [4])
    assert torch.allclose(encoder.embed_texts(tokens, batch_size=2), expected, atol=1e-5)


def test_older_folders_with_the_model_in_a_subfolder_are_read(tmp_path):
    save_encoder(tmp_path / "0_Transformer", "bert")
    (tmp_path / "0_Transformer" / "sentence_bert_config.json").write_text(
        '{"max_seq_length": 5, "do_lower_case": true}'
    )
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 32, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    )
    kinds = {"0_Transformer": "Transformer", "1_Pooling": "Pooling"}
    listing = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (tmp_path / "modules.json").write_text(json.dumps(listing))
    encoder = load(tmp_path)
    assert (encoder.pooling, encoder.max_tokens) == ("cls", 5)
    expected = SentenceTransformer(str(tmp_path), device="cpu").encode(["a red circle", "one"], convert_to_tensor=True)
    assert torch.allclose(embed(encoder, ["a red circle", "one"]), expected, atol=1e-5)


def test_texts_are_lowered_where_the_folder_says_so(tmp_path):
    folder = save_encoder(tmp_path, "bert")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": None}))
    listing = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    pooled = {"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}}
    (folder / "modules.json").write_text(json.dumps(listing))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": False} | pooled))
    assert load(folder).tokenize(["RED"]).ids[0].tolist() == [2, 1, 3]
    edit(folder, "sentence_bert_config.json", do_lower_case=True)
    assert load(folder).tokenize(["RED"]).ids[0].tolist() == [2, 8, 3]


def test_another_pooling_leaves_the_layers_behind_it(distiluse):
    encoder = load(distiluse, "cls")
    assert (encoder.pooling, encoder.width) == ("cls", 12)
    assert not torch.allclose(embed(encoder), embed(load(distiluse)), atol=1e-3)
    with pytest.raises(ConfigError, match="no pooler"):
        load(distiluse, "pooler")


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_a_saved_encoder_is_read_alike_by_everybody(pooling, tmp_path):
    encoder = load(save_encoder(tmp_path / "plain", "bert"), pooling)
    encoder.save(tmp_path / "saved")
    vectors = embed(encoder)
    again, peer = load(tmp_path / "saved"), SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert (again.pooling, again.max_tokens, peer.max_seq_length) == (pooling, 16, 16)
    assert torch.equal(embed(again), vectors)
    assert torch.allclose(peer.encode(TEXTS, convert_to_tensor=True), vectors, atol=1e-5)
    plain = AutoModel.from_pretrained(tmp_path / "saved").state_dict()
    assert all(torch.equal(value, plain[key]) for key, value in encoder.model.state_dict().items())


def test_a_saved_dense_layer_is_read_alike_by_everybody(distiluse, tmp_path):
    encoder = load(distiluse)
    encoder.save(tmp_path)
    assert torch.equal(embed(load(tmp_path)), embed(encoder))
    peer = SentenceTransformer(str(tmp_path), device="cpu")
    assert torch.allclose(peer.encode(TEXTS, convert_to_tensor=True), embed(encoder), atol=1e-5)


def test_the_same_architecture_with_random_weights_keeps_everything_else(distiluse):
    encoder = load(distiluse)
    first, again, other = random_like(encoder, 0), random_like(encoder, 0), random_like(encoder, 1)
    assert torch.equal(embed(first), embed(again))
    assert not torch.allclose(embed(first), embed(other), atol=1e-3)
    shapes = [{key: value.shape for key, value in each.module.state_dict().items()} for each in (encoder, first)]
    assert shapes[0] == shapes[1]
    assert (first.pooling, first.max_tokens, first.tokenizer) == ("mean", 8, encoder.tokenizer)
    old, new = encoder.module.state_dict(), first.module.state_dict()
    assert not any(torch.equal(old[key], new[key]) for key in old if key.endswith(("lin.weight", "linear.weight")))


def copy_of(folder, target):
    return shutil.copytree(folder, target / "copy")


@pytest.mark.parametrize(
    "name", ["os.system", "torch.hub.load", "torch.nn.Module", "torch.nn.modules.activation.Tanh()", "", None]
)
def test_an_activation_is_looked_up_and_never_imported(name, distiluse, tmp_path):
    folder = copy_of(distiluse, tmp_path)
    edit(folder, "2_Dense/config.json", activation_function=name)
    with pytest.raises(ConfigError, match=r"activation .* is not known"):
        load(folder)


def test_a_pickled_dense_layer_is_refused_with_the_way_out(distiluse, tmp_path):
    folder = copy_of(distiluse, tmp_path)
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"2_Dense has no model\.safetensors"):
        load(folder)


@pytest.mark.parametrize(
    "weights",
    [
        {"linear.weight": torch.zeros(12, 31)},
        {"linear.weight": torch.zeros(12)},
        {"linear.weight": torch.zeros(12, 32), "linear.bias": torch.zeros(3)},
        {"linear.weight": torch.zeros(12, 32), "more": torch.zeros(3)},
        {"linear.bias": torch.zeros(12)},
    ],
)
def test_a_dense_layer_that_does_not_fit_is_refused(weights, distiluse, tmp_path):
    folder = copy_of(distiluse, tmp_path)
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"one linear layer|takes vectors of 31 numbers, not 32"):
        load(folder)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("2_Dense/config.json", {"use_residual": True}, "of a kind"),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "of a kind"),
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "'max'"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "cls"]}, r"'mean\+cls'"),
        (
            "config_sentence_transformers.json",
            {"default_prompt_name": "query", "prompts": {"query": "query: "}},
            "prompt 'query: '",
        ),
    ],
)
def test_what_is_not_known_is_refused_and_not_left_out(file, changes, message, distiluse, tmp_path):
    folder = copy_of(distiluse, tmp_path)
    edit(folder, file, **changes)
    with pytest.raises(ConfigError, match=message):
        load(folder)


@pytest.mark.parametrize(
    "listing",
    [
        "{",
        "[" * 100_000,
        "{}",
        "[]",
        "[3]",
        '[{"type": "os.system", "path": ""}]',
        '[{"type": "sentence_transformers.models.Transformer", "path": "../elsewhere"}]',
        '[{"type": "sentence_transformers.models.Transformer", "path": "/etc"}]',
        '[{"type": "sentence_transformers.models.Transformer"}]',
        '[{"type": "sentence_transformers.models.BoW", "path": ""}]',
        TRANSFORMER.format('{"type": "sentence_transformers.models.CNN", "path": "1_CNN"}'),
        TRANSFORMER.format('{"type": "sentence_transformers.models.Dense", "path": "9_Dense"}'),
    ],
)
def test_a_damaged_or_hostile_list_of_parts_is_refused(listing, distiluse, tmp_path):
    folder = copy_of(distiluse, tmp_path)
    (folder / "modules.json").write_text(listing)
    with pytest.raises(ConfigError):
        load(folder)
