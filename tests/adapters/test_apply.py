from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from torch import nn
from transformers import ChineseCLIPConfig, ChineseCLIPModel, SiglipConfig, SiglipModel

from tests.adapters.clip import a_clip, a_saved_adapter, both, embeddings, loss, trained
from vectoruniverse.adapters.apply import TowerTargets, also_train, inject_lora, parameter_table, train_everything
from vectoruniverse.adapters.lora import LoraLinear
from vectoruniverse.adapters.peft_format import load_lora
from vectoruniverse.errors import ConfigError

# peft 0.21 asks transformers for a property under its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {**WIDTH, "image_size": 32, "patch_size": 16}
TEXT = {**WIDTH, "vocab_size": 100, "max_position_embeddings": 16}
MARKS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_outputs_and_gradients_are_peft_s(rank_stabilized: bool) -> None:
    ours = a_clip()
    adapter = trained(inject_lora(ours, both(*ATTENTION), rank=4, alpha=6.0, rank_stabilized=rank_stabilized))
    config = peft.LoraConfig(r=4, lora_alpha=6, use_rslora=rank_stabilized, target_modules=list(ATTENTION))
    theirs = peft.get_peft_model(a_clip(), config)
    peft.set_peft_model_state_dict(theirs, adapter.state_dict())
    torch.testing.assert_close(embeddings(ours), embeddings(theirs), rtol=1e-5, atol=1e-5)
    loss(ours).backward()
    loss(theirs).backward()
    compared = 0
    for path, layer in adapter.layers.items():
        peer = theirs.base_model.model.get_submodule(path)
        for ours_p, theirs_p in ((layer.lora_A, peer.lora_A.default), (layer.lora_B, peer.lora_B.default)):
            assert ours_p.grad.abs().max() > 0
            torch.testing.assert_close(ours_p.grad, theirs_p.weight.grad, rtol=1e-5, atol=1e-5)
            compared += 1
    assert compared == 2 * len(ATTENTION) * 2 * WIDTH["num_hidden_layers"]


def test_step_zero_is_the_base_bit_for_bit() -> None:
    model = a_clip()
    before = embeddings(model)
    inject_lora(model, both(*ATTENTION, "mlp.fc1"), rank=4, alpha=8.0, dropout=0.3)
    assert torch.equal(embeddings(model), before)


def test_frozen_weights_do_not_move() -> None:
    model = a_clip()
    adapter = inject_lora(model, both("q_proj"), rank=2, alpha=2.0)
    frozen = {name: value.clone() for name, value in model.state_dict().items() if "lora_" not in name}
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1, weight_decay=0.5)
    before = loss(model)
    before.backward()
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    optimizer.step()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in frozen.items())
    assert not torch.equal(loss(model), before)


def test_names_match_whole_components_within_their_tower() -> None:
    targets = [TowerTargets("vision_model", ("self_attn.q_proj", "1.mlp.fc1"), "v"), TowerTargets("", ("q_proj",), "m")]
    adapter = inject_lora(a_clip(), targets, rank=1, alpha=1.0)
    layers = "encoder.layers"
    assert sorted(adapter.layers) == [
        f"text_model.{layers}.0.self_attn.q_proj",
        f"text_model.{layers}.1.self_attn.q_proj",
        f"vision_model.{layers}.0.self_attn.q_proj",
        f"vision_model.{layers}.1.mlp.fc1",
        f"vision_model.{layers}.1.self_attn.q_proj",
    ]


def test_chinese_clip_s_towers_take_their_own_names() -> None:
    torch.manual_seed(0)
    model = ChineseCLIPModel(ChineseCLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)).eval()
    targets = [
        TowerTargets("vision_model", ("q_proj", "v_proj"), "adapter.vision_targets"),
        TowerTargets("text_model", ("query", "key", "value"), "adapter.text_targets"),
    ]
    adapter = trained(inject_lora(model, targets, rank=2, alpha=2.0))
    assert sum(path.startswith("text_model.") for path in adapter.layers) == 6
    loss(model).backward()
    assert all(layer.lora_A.grad.norm() > 0 for layer in adapter.layers.values())
    adapter.remove()
    with pytest.raises(ConfigError) as caught:
        inject_lora(model, both("q_proj"), rank=2, alpha=2.0)
    assert caught.value.key == "adapter.text_targets"
    assert caught.value.remedy == "Choose from dense, key, query, value."


def test_siglip_s_pooling_head_which_never_calls_its_out_proj_is_left_alone() -> None:
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=TEXT | MARKS, vision_config=VISION)).eval()
    adapter = trained(inject_lora(model, both("out_proj"), rank=2, alpha=2.0))
    assert len(adapter.layers) == 4
    loss(model).backward()
    assert all(layer.lora_B.grad.abs().max() > 0 for layer in adapter.layers.values())
    adapter.remove()
    with pytest.raises(ConfigError, match=r"'head\.attention\.out_proj'"):
        inject_lora(model, [TowerTargets("vision_model", ("head.attention.out_proj",), "k")], rank=2, alpha=2.0)


@pytest.mark.parametrize(
    ("name", "message", "remedy"),
    [
        ("qproj", "no layer of vision_model is called 'qproj'", "Did you mean 'q_proj'? Choose from fc1, fc2, k_proj,"),
        ("proj", "no layer of vision_model is called 'proj'", "q_proj"),
        ("", "no layer of vision_model is called ''", "q_proj"),
        ("self_attn", "'self_attn' names encoder.layers.0.self_attn in vision_model, a CLIPAttention", "q_proj"),
        ("patch_embedding", "a Conv2d and no linear layer", "q_proj"),
    ],
)
def test_a_name_that_means_no_linear_layer_is_refused(name: str, message: str, remedy: str) -> None:
    model = a_clip()
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")) as caught:
        inject_lora(model, both("q_proj", name), rank=1, alpha=1.0)
    assert caught.value.key == "adapter.vision_targets"
    assert remedy in str(caught.value.remedy)
    assert not any(isinstance(module, LoraLinear) for module in model.modules())


def test_an_unknown_tower_and_no_names_at_all_are_refused() -> None:
    with pytest.raises(ConfigError, match="no tower 'image_model'"):
        inject_lora(a_clip(), [TowerTargets("image_model", ("q_proj",), "k")], rank=1, alpha=1.0)
    with pytest.raises(ConfigError, match="adapt nothing"):
        inject_lora(a_clip(), both(), rank=1, alpha=1.0)


def test_a_second_adapter_is_refused(tmp_path: Path) -> None:
    a_saved_adapter(tmp_path)
    model = a_clip()
    inject_lora(model, both("q_proj"), rank=1, alpha=1.0)
    with pytest.raises(RuntimeError, match="already"):
        inject_lora(model, both("v_proj"), rank=1, alpha=1.0)
    with pytest.raises(RuntimeError, match="already"):
        load_lora(model, tmp_path)


def test_a_bf16_clip_under_autocast_has_gradients_near_fp32_s() -> None:
    exact, model = a_clip(), a_clip(torch.bfloat16)
    reference, adapter = (trained(inject_lora(m, both(*ATTENTION), rank=4, alpha=1.0)) for m in (exact, model))
    loss(exact).backward()
    with torch.autocast("cpu", torch.bfloat16):
        loss(model).backward()
    ours, theirs = (torch.cat([p.grad.flatten() for p in a.parameters()]) for a in (adapter, reference))
    assert ours.dtype == torch.float32
    assert torch.linalg.norm(ours - theirs) < 0.05 * torch.linalg.norm(theirs)


def test_named_parameters_and_modules_are_trained_in_fp32_beside_the_adapter() -> None:
    model = a_clip(torch.bfloat16)
    adapter = inject_lora(model, both("q_proj"), rank=1, alpha=1.0)
    chosen = also_train(model, ["logit_scale", "text_projection"])
    assert [id(p) for p in chosen] == [id(model.logit_scale), id(model.text_projection.weight)]
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in [*chosen, *adapter.parameters()]}
    assert all(p.dtype == torch.float32 for p in chosen)
    with pytest.raises(ConfigError, match="'visual_proj'") as caught:
        also_train(model, ["visual_proj"])
    assert "Did you mean 'visual_projection'?" in str(caught.value.remedy)


def test_full_fine_tuning_trains_every_parameter_in_fp32() -> None:
    model = a_clip(torch.bfloat16).requires_grad_(False)
    assert len(train_everything(model)) == len(list(model.parameters()))
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


def test_the_parameter_table_counts_what_the_model_holds() -> None:
    model = a_clip()
    inject_lora(model, both("q_proj")[:1], rank=4, alpha=1.0)
    also_train(model, ["logit_scale"])
    rows = {row.part: row for row in parameter_table(model)}
    assert list(rows) == ["text_model", "vision_model", "visual_projection", "text_projection", "logit_scale", "total"]
    assert (rows["vision_model"].adapted_layers, rows["vision_model"].trainable) == (2, 2 * 4 * (32 + 32))
    assert (rows["text_model"].adapted_layers, rows["text_model"].trainable) == (0, 0)
    assert rows["total"].total == sum(p.numel() for p in model.parameters())
    assert rows["total"].trainable == 2 * 4 * 64 + 1
    assert rows["logit_scale"].share == 1.0
    assert rows["vision_model"].share == 512 / rows["vision_model"].total


def test_the_parameter_table_counts_a_shared_parameter_once() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    model["head"].weight = model["embed"].weight
    assert [(row.part, row.total) for row in parameter_table(model)] == [("embed", 15), ("head", 5), ("total", 20)]
