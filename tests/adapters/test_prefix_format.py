from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from tests.adapters.clip import a_clip, both
from tests.adapters.families import FAMILIES, IDS, TEXT
from vectoruniverse.adapters.apply import inject_lora
from vectoruniverse.adapters.prefix import inject_prefix
from vectoruniverse.adapters.prefix_format import load_prefix, save_prefix
from vectoruniverse.errors import ConfigError, DataError, UserError

# peft 0.21 asks transformers for a property, and gives it the keys and values, under old names
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:`{name}` is deprecated:FutureWarning")
    for name in ("is_gradient_checkpointing", "past_key_values")
]

P = 3
MASK = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


def states(model: nn.Module) -> Tensor:
    return model(**IDS, attention_mask=MASK).last_hidden_state


def saved(folder: Path, family: str = "bert", projection: int | None = None) -> Tensor:
    model = FAMILIES[family].model()
    adapter = inject_prefix(model, length=P, projection=projection, seed=1)
    save_prefix(adapter, folder, base_model="tiny", revision="main")
    return states(model).detach()


def edit(folder: Path, **entries: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def rewrite(folder: Path, **tensors: Tensor) -> None:
    safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors")


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("projection", [None, 5])
def test_peft_reads_what_is_saved_here_to_the_same_outputs(tmp_path: Path, family: str, projection: int | None) -> None:
    wanted = saved(tmp_path, family, projection)
    theirs = peft.PeftModel.from_pretrained(FAMILIES[family].model(), tmp_path)
    torch.testing.assert_close(states(theirs), wanted, **CLOSE)
    assert theirs.peft_config["default"].base_model_name_or_path == "tiny"
    assert theirs.peft_config["default"].revision == "main"
    assert {file.name for file in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    tensors = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {"prompt_embeddings": (P, 2 * 2 * 32)}


def test_peft_reads_the_prefix_of_a_tower_within_a_model(tmp_path: Path) -> None:
    model = nn.ModuleDict({"text": FAMILIES["bert"].model(), "head": nn.Linear(32, 2)})
    save_prefix(inject_prefix(model, "text", length=P), tmp_path, base_model="tiny")
    theirs = peft.PeftModel.from_pretrained(FAMILIES["bert"].model(), tmp_path)
    torch.testing.assert_close(states(theirs), states(model["text"]), **CLOSE)
    assert theirs.peft_config["default"].auto_mapping["base_model_class"] == "BertModel"


@pytest.mark.parametrize("projection", [False, True])
def test_a_folder_written_by_peft_is_loaded_and_removed_without_a_trace(tmp_path: Path, projection: bool) -> None:
    config = peft.PrefixTuningConfig(
        task_type="FEATURE_EXTRACTION", num_virtual_tokens=P, prefix_projection=projection, encoder_hidden_size=5
    )
    theirs = peft.get_peft_model(FAMILIES["bert"].model(), config).eval()
    theirs.save_pretrained(tmp_path)
    model = FAMILIES["bert"].model()
    before = states(model)
    adapter = load_prefix(model, "", tmp_path)
    torch.testing.assert_close(states(model), states(theirs), **CLOSE)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["prefix.embedding"]
    adapter.remove()
    assert torch.equal(states(model), before)


@pytest.mark.parametrize("projection", [None, 5])
def test_a_tower_comes_back_as_it_was(tmp_path: Path, projection: int | None) -> None:
    model, again = a_clip(), a_clip()
    adapter = inject_prefix(model, "text_model", length=P, projection=projection)
    wanted = states(model.text_model)
    adapter.remove()
    save_prefix(adapter, tmp_path, base_model="tiny")
    loaded = load_prefix(again, "text_model", tmp_path)
    torch.testing.assert_close(loaded.keys_and_values(), adapter.keys_and_values())
    torch.testing.assert_close(states(again.text_model), wanted, **CLOSE)
    save_prefix(loaded, tmp_path / "twice", base_model="tiny")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


def test_half_precision_files_are_loaded_in_fp32(tmp_path: Path) -> None:
    saved(tmp_path)
    stored = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")["prompt_embeddings"].bfloat16()
    rewrite(tmp_path, prompt_embeddings=stored)
    adapter = load_prefix(FAMILIES["bert"].model(), "", tmp_path)
    assert torch.equal(adapter.prefix.embedding, stored.float())
    assert adapter.prefix.embedding.dtype == torch.float32


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"peft_type": "LORA"}, "peft_type is 'LORA'"),
        ({"num_virtual_tokens": 4}, r"is \(3, 128\), not \(4, 128\)"),
        ({"num_virtual_tokens": 10**12}, r"is \(3, 128\), not"),
        ({"num_virtual_tokens": 0}, "has 0, which cannot be"),
        ({"num_virtual_tokens": True}, "has True, which cannot be"),
        ({"num_virtual_tokens": "3"}, "has '3', which cannot be"),
        ({"num_virtual_tokens": None}, "has None, which cannot be"),
        ({"num_attention_heads": 2}, "another base model: num_attention_heads is 2, and here it is 4"),
        ({"num_layers": 12}, "another base model: num_layers is 12, and here it is 2"),
        ({"token_dim": 768}, "another base model: token_dim is 768, and here it is 32"),
        ({"num_transformer_submodules": 2}, "num_transformer_submodules is 2"),
        ({"modules_to_save": ["classifier"]}, "sets modules_to_save"),
        ({"something_new": 1}, "sets something_new"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path: Path, entries: dict[str, object], message: str) -> None:
    saved(tmp_path)
    edit(tmp_path, **entries)
    refuse(tmp_path, message)


def refuse(folder: Path, message: str) -> None:
    model = FAMILIES["bert"].model()
    bits = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=message) as refused:
        load_prefix(model, "", folder)
    assert refused.value.remedy
    assert str(folder) in str(refused.value)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.state_dict().keys() == bits.keys()
    assert all(torch.equal(value, bits[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"prompt_embeddings": torch.full((P, 128), torch.nan)}, "not finite floats"),
        ({"prompt_embeddings": torch.full((P, 128), torch.inf)}, "not finite floats"),
        ({"prompt_embeddings": torch.ones(P, 128, dtype=torch.long)}, "not finite floats"),
        ({"prompt_embeddings": torch.ones(P, 64)}, r"is \(3, 64\), not \(3, 128\)"),
        ({"prompt_embeddings": torch.ones(P * 128)}, r"is \(384,\), not \(3, 128\)"),
        ({"embedding": torch.ones(P, 128)}, "holds embedding, not prompt_embeddings alone"),
        ({"prompt_embeddings": torch.ones(P, 128), "classifier": torch.ones(1)}, "holds classifier, prompt_embeddings"),
        ({}, "not prompt_embeddings alone"),
    ],
)
def test_tensors_that_are_no_prefix_are_refused(tmp_path: Path, tensors: dict[str, Tensor], message: str) -> None:
    saved(tmp_path)
    rewrite(tmp_path, **tensors)
    refuse(tmp_path, message)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_damaged_and_missing_files_are_refused(tmp_path: Path, name: str) -> None:
    saved(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:30])
    refuse(tmp_path, "cannot be read|not valid JSON")
    (tmp_path / name).unlink()
    refuse(tmp_path, "is missing")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(DataError) as refused:
        load_prefix(FAMILIES["bert"].model(), "", tmp_path)
    assert "safe_serialization" in str(refused.value.remedy)


def test_a_model_without_positions_for_the_prefix_or_with_an_adapter_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    short = BertModel(BertConfig(**{**TEXT, "max_position_embeddings": P}))
    with pytest.raises(ConfigError, match="leaves no positions"):
        load_prefix(short, "", tmp_path)
    model = a_clip()
    lora = inject_lora(model, both("q_proj"), rank=2, alpha=2)
    with pytest.raises(RuntimeError, match="LoRA"):
        load_prefix(model, "text_model", tmp_path)
    lora.remove()
    load_prefix(model, "text_model", tmp_path)
    with pytest.raises(RuntimeError, match="already holds a prefix"):
        load_prefix(model, "text_model", tmp_path)
