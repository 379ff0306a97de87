from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from tests.adapters.clip import a_clip, a_saved_adapter, both, edit, embeddings, trained
from vectoruniverse.adapters.apply import also_train, inject_lora
from vectoruniverse.adapters.lora import LoraAdapter, LoraLinear
from vectoruniverse.adapters.peft_format import load_lora, save_lora
from vectoruniverse.errors import ConfigError, DataError, UserError

# peft 0.21 asks transformers for a property under its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {**WIDTH, "image_size": 32, "patch_size": 16}
TEXT = {**WIDTH, "vocab_size": 100, "max_position_embeddings": 16}
MARKS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_peft_loads_what_is_saved_here_with_modules_trained_in_full(tmp_path: Path, rank_stabilized: bool) -> None:
    model = a_clip()
    adapter = trained(inject_lora(model, both(*ATTENTION), rank=4, alpha=6.5, rank_stabilized=rank_stabilized))
    for parameter in also_train(model, ["visual_projection"]):
        parameter.data.neg_()[0].zero_()
    save_lora(adapter, tmp_path, base_model="tiny", extra={"visual_projection": model.visual_projection})
    theirs = peft.PeftModel.from_pretrained(a_clip(), tmp_path)
    assert torch.count_nonzero(embeddings(theirs)[:4, 0]) == 0
    torch.testing.assert_close(embeddings(theirs), embeddings(model), rtol=1e-5, atol=1e-5)
    assert {file.name for file in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert theirs.peft_config["default"].base_model_name_or_path == "tiny"


def test_peft_adapts_no_other_layer_where_one_path_ends_with_another(tmp_path: Path) -> None:
    def a_model() -> nn.Module:
        torch.manual_seed(0)
        return nn.ModuleDict({"q": nn.Linear(4, 4), "inner": nn.ModuleDict({"q": nn.Linear(4, 4)})})

    model = a_model()
    save_lora(LoraAdapter(model, ["q"], rank=1, alpha=1), tmp_path, base_model="two")
    theirs = peft.PeftModel.from_pretrained(a_model(), tmp_path)
    adapted = [name for name, module in theirs.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
    assert adapted == ["base_model.model.q"]


def test_a_folder_written_by_peft_is_loaded_and_removed_without_a_trace(tmp_path: Path) -> None:
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=True,
        target_modules=r"vision_model\..*\.(q_proj|fc1)|text_model\..*\.v_proj",
        modules_to_save=["visual_projection"],
        init_lora_weights=False,
    )
    theirs = peft.get_peft_model(a_clip(), config).eval()
    with torch.no_grad():
        theirs.base_model.model.visual_projection.modules_to_save.default.weight.neg_()[0].zero_()
    theirs.save_pretrained(tmp_path)
    model = a_clip()
    before, bits = embeddings(model), {name: value.clone() for name, value in model.state_dict().items()}
    adapter = load_lora(model, tmp_path)
    assert len(adapter.layers) == 6
    assert not torch.allclose(embeddings(model), before)
    torch.testing.assert_close(embeddings(model), embeddings(theirs), rtol=1e-5, atol=1e-5)
    adapter.merge()
    torch.testing.assert_close(embeddings(model), embeddings(theirs), rtol=1e-5, atol=1e-5)
    adapter.remove()
    assert model.state_dict().keys() == bits.keys()
    assert all(torch.equal(value, bits[name]) for name, value in model.state_dict().items())
    assert torch.equal(embeddings(model), before)


def test_a_folder_written_here_gives_the_same_bits(tmp_path: Path) -> None:
    expected = a_saved_adapter(tmp_path, dropout=0.25, rank_stabilized=True)
    model = a_clip()
    adapter = load_lora(model, tmp_path)
    assert torch.equal(embeddings(model), expected)
    assert (adapter.rank, adapter.alpha, adapter.dropout, adapter.rank_stabilized) == (4, 6.0, 0.25, True)


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        ({"peft_type": "IA3"}, ConfigError, "peft_type is 'IA3'"),
        ({"use_dora": True}, ConfigError, "lacks base_model.*lora_magnitude_vector"),
        ({"bias": "all"}, ConfigError, "sets bias"),
        ({"init_lora_weights": "olora"}, ConfigError, "sets init_lora_weights"),
        ({"rank_pattern": {"q_proj": 2}}, ConfigError, "shape"),
        ({"trainable_token_indices": [1]}, ConfigError, "sets trainable_token_indices"),
        ({"lora_bias": True}, ConfigError, "sets lora_bias"),
        ({"invented_later": {"x": 1}}, ConfigError, "sets invented_later"),
        ({"r": "4"}, DataError, "r: has '4'"),
        ({"r": 2}, ConfigError, "shape"),
        ({"lora_alpha": float("nan")}, DataError, "lora_alpha: has nan"),
        ({"lora_dropout": 1.0}, DataError, "lora_dropout: has 1.0"),
        ({"modules_to_save": "visual_projection"}, DataError, "modules_to_save"),
        ({"modules_to_save": ["visual_projection"]}, DataError, "lacks visual_projection"),
        ({"target_modules": [1]}, DataError, "target_modules"),
        ({"layers_to_transform": ["0"]}, DataError, "layers_to_transform"),
        ({"auto_mapping": ["CLIPModel"]}, DataError, "auto_mapping"),
    ],
)
def test_a_configuration_with_settings_that_are_not_understood_is_refused(
    tmp_path: Path, entries: dict[str, object], error: type[UserError], message: str
) -> None:
    a_saved_adapter(tmp_path)
    edit(tmp_path, **entries)
    model = a_clip()
    with pytest.raises(error, match=message) as caught:
        load_lora(model, tmp_path)
    assert Path(str(caught.value.file)).parent == tmp_path
    assert caught.value.remedy
    assert not any(isinstance(module, LoraLinear) for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def change_weights(folder: Path, change: dict[str, Tensor | None]) -> None:
    file = folder / "adapter_model.safetensors"
    state = safetensors.torch.load_file(file) | change
    safetensors.torch.save_file({key: value for key, value in state.items() if value is not None}, file)


Q = "base_model.model.vision_model.encoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({f"{Q}.lora_B.weight": None}, ConfigError, "lacks base_model.*lora_B"),
        ({f"{Q}.lora_B.weight": torch.full((32, 4), torch.inf)}, DataError, "finite"),
        ({f"{Q}.lora_A.weight": torch.zeros(4, 48)}, ConfigError, r"shape \(4, 48\), and \(4, 32\) is needed"),
        ({"base_model.model.vision_model.w.lora_A.weight": torch.zeros(4, 4)}, ConfigError, "another base model: 1"),
        ({"base_model.model.visual_projection.weight": torch.zeros(16, 32)}, DataError, "neither LoRA's nor in"),
        ({f"{Q}.weight": torch.zeros(32, 32)}, DataError, "neither LoRA's nor in"),
        ({"q_proj.weight": torch.zeros(1)}, DataError, "no key of peft's"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_the_model_stays_as_it_was(
    tmp_path: Path, change: dict[str, Tensor | None], error: type[UserError], message: str
) -> None:
    a_saved_adapter(tmp_path)
    change_weights(tmp_path, change)
    model = a_clip()
    before = embeddings(model)
    with pytest.raises(error, match=message) as caught:
        load_lora(model, tmp_path)
    assert Path(str(caught.value.file)).name == "adapter_model.safetensors"
    assert not any(isinstance(module, LoraLinear) for module in model.modules())
    assert torch.equal(embeddings(model), before)


def without_tensors_of(folder: Path, layer: str) -> None:
    change_weights(folder, {f"base_model.model.{layer}.lora_{name}.weight": None for name in "AB"})


def test_an_adapter_that_lacks_a_layer_is_refused(tmp_path: Path) -> None:
    a_saved_adapter(tmp_path)
    without_tensors_of(tmp_path, "text_model.encoder.layers.1.self_attn.v_proj")
    model = a_clip()
    message = r"model\.safetensors: lacks 1 of the layers .* such as text_model\.encoder\.layers\.1\.self_attn\.v_proj"
    with pytest.raises(DataError, match=message):
        load_lora(model, tmp_path)
    assert not any(isinstance(module, LoraLinear) for module in model.modules())


def test_a_layer_that_the_expression_written_here_names_may_not_be_missing(tmp_path: Path) -> None:
    def a_model() -> nn.Module:
        paths = [f"layer_{index}" for index in range(40)]  # an expression longer than strangers may write
        return nn.ModuleDict(
            {path: nn.Linear(4, 4) for path in paths} | {"inner": nn.ModuleDict({"layer_0": nn.Tanh()})}
        )

    model = a_model()
    save_lora(LoraAdapter(model, [f"layer_{index}" for index in range(40)], rank=1, alpha=1), tmp_path, base_model="x")
    assert '"layer_0|layer_1|' in (tmp_path / "adapter_config.json").read_text()
    assert len(load_lora(a_model(), tmp_path).layers) == 40
    without_tensors_of(tmp_path, "layer_7")
    with pytest.raises(DataError, match="such as layer_7"):
        load_lora(a_model(), tmp_path)


@pytest.mark.parametrize(
    ("entries", "layers", "missing"),
    [
        ({"target_modules": ["q_proj", "fc1"]}, 8, "text_model.encoder.layers.1.mlp.fc1"),
        ({"target_modules": "all-linear"}, 26, "text_model.encoder.layers.1.mlp.fc1"),
        ({"target_modules": r".*text_model\..*\.(q_proj|v_proj)"}, 4, "text_model.encoder.layers.0.self_attn.v_proj"),
        ({"target_modules": ["q_proj"], "layers_to_transform": 1}, 2, "text_model.encoder.layers.1.self_attn.q_proj"),
        (
            {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "layers"},
            2,
            "vision_model.encoder.layers.0.self_attn.q_proj",
        ),
        (
            {"target_modules": ["q_proj", "k_proj"], "exclude_modules": r"vision_model\..*"},
            4,
            "text_model.encoder.layers.0.self_attn.k_proj",
        ),
        (
            {"target_modules": ["fc2"], "exclude_modules": ["layers.0.mlp.fc2"]},
            2,
            "text_model.encoder.layers.1.mlp.fc2",
        ),
        (
            {"target_modules": ["q_proj", "text_projection"], "modules_to_save": ["text_projection"]},
            4,
            "text_model.encoder.layers.0.self_attn.q_proj",
        ),
    ],
)
def test_what_peft_adapts_is_whole_and_without_one_layer_is_not(
    tmp_path: Path, entries: dict[str, Any], layers: int, missing: str
) -> None:
    peft.get_peft_model(a_clip(), peft.LoraConfig(r=2, **entries)).save_pretrained(tmp_path)
    assert len(load_lora(a_clip(), tmp_path).layers) == layers
    without_tensors_of(tmp_path, missing)
    with pytest.raises(DataError, match=re.escape(missing)):
        load_lora(a_clip(), tmp_path)


def test_an_adapter_made_on_one_tower_loads_on_both_and_is_whole_there(tmp_path: Path) -> None:
    tower = CLIPVisionModelWithProjection(a_clip().config.vision_config)
    peft.get_peft_model(tower, peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    assert len(load_lora(a_clip(), tmp_path).layers) == 2
    without_tensors_of(tmp_path, "vision_model.encoder.layers.0.self_attn.q_proj")
    with pytest.raises(DataError, match="such as vision_model"):
        load_lora(a_clip(), tmp_path)


@pytest.mark.parametrize("expression", ["(.*.*)*q_proj", "((("])
def test_an_expression_that_could_take_for_ever_is_not_matched(tmp_path: Path, expression: str) -> None:
    a_saved_adapter(tmp_path)
    edit(tmp_path, target_modules=expression)
    assert len(load_lora(a_clip(), tmp_path).layers) == 8


def test_an_adapter_for_another_base_model_is_refused(tmp_path: Path) -> None:
    a_saved_adapter(tmp_path)
    with pytest.raises(ConfigError, match="another base model: 8 of its layers"):
        load_lora(nn.Sequential(nn.Linear(32, 32)), tmp_path)


@pytest.mark.parametrize("make", [Path.mkdir, pytest.param(getattr(os, "mkfifo", None), id="fifo")])
def test_weights_that_are_no_file_are_called_so(tmp_path: Path, make: Any) -> None:
    a_saved_adapter(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.unlink()
    make(weights)
    with pytest.raises(DataError, match=r"adapter_model\.safetensors: is no regular file"):
        load_lora(a_clip(), tmp_path)


def test_damaged_missing_and_pickled_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"adapter_config\.json: is missing"):
        load_lora(a_clip(), tmp_path)
    a_saved_adapter(tmp_path)
    weights, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(DataError, match="cannot be read"):
        load_lora(a_clip(), tmp_path)
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(DataError, match="is missing") as caught:
        load_lora(a_clip(), tmp_path)
    assert "can execute code" in str(caught.value.remedy)
    for text in ("{", "[" * 100_000, "\xff"):
        config.write_text(text, encoding="latin-1")
        with pytest.raises(DataError, match="not valid JSON"):
            load_lora(a_clip(), tmp_path)
