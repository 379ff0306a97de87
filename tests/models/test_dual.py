from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from tests.models.models import SAVE, save_clip
from vectoruniverse.errors import ConfigError
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.dual import load_dual_encoder

TEXTS = ["a red circle", "the green square on the left", "blue"]


def load(folder, dtype=torch.float32, attention="eager"):
    return load_dual_encoder(str(folder), Compute(torch.device("cpu"), dtype, attention))


@pytest.fixture(scope="module", params=sorted(SAVE))
def family(request, tmp_path_factory):
    return SAVE[request.param](tmp_path_factory.mktemp("models") / request.param), request.param


def test_vectors_are_those_of_plain_transformers(family):
    folder, name = family
    encoder, plain = load(folder), AutoModel.from_pretrained(folder).eval()
    encoder.model.eval()
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if name == "siglip":
        inputs = {"input_ids": tokenizer(TEXTS, padding="max_length", max_length=12, return_tensors="pt")["input_ids"]}
    else:
        inputs = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    with torch.no_grad():
        theirs = F.normalize(plain.get_text_features(**inputs).pooler_output, dim=-1)
        ours = encoder.encode_texts(encoder.pad(encoder.tokenize(TEXTS), range(len(TEXTS))))
        assert torch.allclose(ours, theirs, atol=1e-5)
        theirs = F.normalize(plain.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        assert torch.allclose(encoder.encode_images(pixels), theirs, atol=1e-5)


def test_a_text_has_the_same_vector_beside_longer_texts(family):
    encoder = load(family[0])
    encoder.model.eval()
    tokens = encoder.tokenize(TEXTS)
    with torch.no_grad():
        together = encoder.encode_texts(encoder.pad(tokens, range(len(TEXTS))))
        alone = torch.cat([encoder.encode_texts(encoder.pad(tokens, [i])) for i in range(len(TEXTS))])
    assert torch.allclose(together, alone, atol=1e-5)


def test_both_attention_kernels_and_bf16_agree(family):
    folder, _ = family
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        reference = load(folder).encode_images(pixels)
        assert torch.allclose(load(folder, attention="sdpa").encode_images(pixels), reference, atol=1e-5)
        half = load(folder, torch.bfloat16).encode_images(pixels)
    assert half.dtype == torch.float32
    assert (half * reference).sum(1).min() > 0.999


def test_the_kernel_of_a_gpu_gives_the_same_texts_and_no_mask_makes_it_wait(family):
    eager, encoder = load(family[0]), load(family[0], attention="sdpa")
    encoder.model.eval(), eager.model.eval()
    batch = eager.pad(eager.tokenize(TEXTS), range(len(TEXTS)))
    with torch.no_grad():
        assert torch.allclose(encoder.encode_texts(batch), eager.encode_texts(batch), atol=1e-5)
    encoder.model.to("meta")
    assert encoder.encode_texts(encoder.pad(encoder.tokenize(TEXTS), range(len(TEXTS)))).is_meta


def test_long_texts_are_cut_and_counted_and_keep_their_end_mark(family):
    encoder = load(family[0])
    tokenized = encoder.tokenize(["red", "red " * 50, "blue"])
    assert tokenized.truncated == [1]
    assert len(tokenized.ids[1]) == encoder.max_tokens
    assert tokenized.ids[1][-1] == tokenized.ids[0][-1]


def test_special_tokens_written_in_a_title_are_plain_characters(tmp_path):
    encoder = load(save_clip(tmp_path))
    (ids,) = encoder.tokenize(["red <|endoftext|> circle"]).ids
    end = encoder.tokenizer.eos_token_id
    assert (ids == end).sum() == 1 and ids[-1] == end


def test_the_picture_input_is_what_the_processor_declares(tmp_path):
    save_clip(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    declared = json.loads(file.read_text()) | {"image_mean": [0.1, 0.2, 0.3], "resample": 2}
    file.write_text(json.dumps(declared))
    picture = load(tmp_path).picture
    assert (picture.size, picture.mean, picture.resample) == (32, (0.1, 0.2, 0.3), "bilinear")


def test_the_logit_scale_stays_within_its_bounds(tmp_path):
    encoder = load(save_clip(tmp_path))
    for value, bounded in ((10.0, math.log(100)), (-1.0, 0.0), (2.0, 2.0)):
        with torch.no_grad():
            encoder.model.logit_scale.fill_(value)
        encoder.clamp_logit_scale()
        assert encoder.model.logit_scale.item() == pytest.approx(bounded)
    assert encoder.logit_scale.item() == pytest.approx(math.exp(2.0))


def test_a_frozen_logit_scale_is_left_alone(tmp_path):
    encoder = load(save_clip(tmp_path))
    encoder.model.requires_grad_(False)
    with torch.no_grad():
        encoder.model.logit_scale.fill_(9.0)
    encoder.clamp_logit_scale()
    assert encoder.model.logit_scale.item() == 9.0


def test_a_clip_has_no_logit_bias_and_says_what_to_set(tmp_path):
    with pytest.raises(ConfigError, match="no logit_bias") as error:
        _ = load(save_clip(tmp_path)).logit_bias
    assert "loss.bias" in str(error.value.remedy)


def test_saving_and_loading_gives_the_same_vectors(tmp_path):
    encoder = load(save_clip(tmp_path / "a"))
    encoder.save(tmp_path / "b")
    again = load(tmp_path / "b")
    rows = encoder.tokenize(TEXTS)
    assert all(np.array_equal(a, b) for a, b in zip(rows.ids, again.tokenize(TEXTS).ids, strict=True))
    assert torch.equal(encoder.embed_texts(rows, batch_size=2), again.embed_texts(rows, batch_size=2))


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no config") as error:
        load(tmp_path / "nothing")
    assert error.value.key == "model"


def test_a_name_that_cannot_be_fetched_says_what_would_do():
    with pytest.raises(ConfigError, match="cannot load 'nobody/nothing'") as error:
        load("nobody/nothing")
    assert "tiny-clip" in str(error.value.remedy)


def test_a_model_without_two_towers_is_refused(tmp_path):
    from transformers import CLIPVisionModel

    save_clip(tmp_path)
    CLIPVisionModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no image and text tower"):
        load(tmp_path)


def test_weights_that_would_have_to_be_unpickled_are_refused(tmp_path):
    save_clip(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="cannot load"):
        load(tmp_path)


def test_code_that_comes_with_a_model_never_runs(tmp_path):
    save_clip(tmp_path)
    proof = tmp_path / "it_ran"
    (tmp_path / "modeling_evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "modeling_evil.Evil", "AutoModel": "modeling_evil.Evil"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="cannot load"):
        load(tmp_path)
    assert not proof.exists()
