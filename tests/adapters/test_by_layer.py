"""Ranks, alphas, blocks and learning rates by layer, against peft's own."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from torch import nn

from tests.adapters.clip import a_clip, both, check_all_ways, edit, embeddings, trained
from tests.adapters.families import FAMILIES
from vectoruniverse.adapters.apply import TowerTargets, inject_lora, lora_plus_groups
from vectoruniverse.adapters.lora import LoraLinear
from vectoruniverse.adapters.peft_format import load_lora, save_lora
from vectoruniverse.errors import ConfigError, UserError

# peft 0.21 asks transformers for a property under its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

NAMES = ("q_proj", "fc1")

# ---- ranks and alphas by layer ---------------------------------------------------------------------------------------

RANKS = {"fc1": 2, r"layers\.1\.self_attn\.q_proj": 6}
ALPHAS = {r"^vision_model\..*q_proj": 9.0, "fc1": 1.0}


def test_patterns_choose_the_ranks_and_alphas_that_peft_chooses(tmp_path: Path) -> None:
    ours = a_clip()
    adapter = trained(inject_lora(ours, both(*NAMES), rank=4, alpha=6.0, rank_pattern=RANKS, alpha_pattern=ALPHAS))
    config = peft.LoraConfig(r=4, lora_alpha=6, rank_pattern=RANKS, alpha_pattern=ALPHAS, target_modules=list(NAMES))
    theirs = peft.get_peft_model(a_clip(), config)
    for path, layer in adapter.layers.items():
        peer = theirs.base_model.model.get_submodule(path)
        assert (layer.rank, layer.scale) == (peer.r["default"], peer.scaling["default"]), path
    assert {layer.rank for layer in adapter.layers.values()} == {2, 4, 6}
    peft.set_peft_model_state_dict(theirs, adapter.state_dict())
    theirs.save_pretrained(tmp_path / "theirs")
    check_all_ways(ours, adapter, tmp_path / "ours")
    model = a_clip()
    load_lora(model, tmp_path / "theirs")
    torch.testing.assert_close(embeddings(model), embeddings(theirs.eval()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("k_proj", "fits no adapted layer"),
        ("(", "no regular expression"),
        ("(a+)+b", "for ever"),
        (".*" * 5, "for ever"),
        ("(|)" * 60, "for ever"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(pattern: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        inject_lora(a_clip(), both("q_proj"), rank=2, alpha=2.0, alpha_pattern={pattern: 1.0})
    assert caught.value.key == "adapter.alpha_pattern"
    if pattern != "k_proj":  # a stranger's file may name layers that are not adapted, as in peft
        save_lora(inject_lora(a_clip(), both("q_proj"), rank=2, alpha=2.0), tmp_path, base_model="tiny")
        edit(tmp_path, alpha_pattern={pattern: 1.0})
        with pytest.raises(ConfigError, match=message):
            load_lora(a_clip(), tmp_path)


@pytest.mark.parametrize(
    "entries",
    [
        {"r": 10**12},
        {"rank_pattern": {"q_proj": 10**12}},
        {"rank_pattern": {"q_proj": -1}},
        {"alpha_pattern": {"q_proj": "4"}},
        {"alpha_pattern": [1]},
        {"use_dora": True},
        {"use_dora": "yes"},
        {"init_lora_weights": {"x": 1}},
    ],
)
def test_a_stranger_s_numbers_are_checked_before_anything_is_made(tmp_path: Path, entries: dict[str, object]) -> None:
    save_lora(inject_lora(a_clip(), both("q_proj"), rank=2, alpha=2.0), tmp_path, base_model="tiny")
    edit(tmp_path, **entries)
    model = a_clip()
    with pytest.raises(UserError) as caught:
        load_lora(model, tmp_path)
    assert Path(str(caught.value.file)).parent == tmp_path
    assert not any(isinstance(module, LoraLinear) for module in model.modules())


# ---- some blocks only ------------------------------------------------------------------------------------------------


def test_blocks_are_chosen_per_tower() -> None:
    targets = [
        TowerTargets("vision_model", ("q_proj", "fc1"), "v", layers_to_transform=(1,)),
        TowerTargets("text_model", ("q_proj",), "t"),
    ]
    assert sorted(inject_lora(a_clip(), targets, rank=1, alpha=1.0).layers) == [
        "text_model.encoder.layers.0.self_attn.q_proj",
        "text_model.encoder.layers.1.self_attn.q_proj",
        "vision_model.encoder.layers.1.mlp.fc1",
        "vision_model.encoder.layers.1.self_attn.q_proj",
    ]


def test_blocks_are_those_that_peft_counts() -> None:
    family = FAMILIES["bert"]
    target = [TowerTargets("", ("query",), "t", layers_to_transform=(1,))]
    adapter = inject_lora(family.model(), target, rank=1, alpha=1.0)
    theirs = peft.get_peft_model(
        family.model(), peft.LoraConfig(r=1, target_modules=["query"], layers_to_transform=[1])
    )
    adapted = [name for name, module in theirs.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
    assert [f"base_model.model.{path}" for path in adapter.layers] == adapted


def test_a_block_that_is_not_there_is_refused() -> None:
    target = TowerTargets("vision_model", ("q_proj",), "v", layers_to_transform=(0, 2), blocks_key="adapter.blocks")
    with pytest.raises(ConfigError, match="vision_model has no block 2") as caught:
        inject_lora(a_clip(), [target], rank=1, alpha=1.0)
    assert (caught.value.key, caught.value.remedy) == ("adapter.blocks", "There are 0 to 1.")


# ---- LoRA+ -----------------------------------------------------------------------------------------------------------


def test_lora_plus_gives_each_parameter_peft_s_learning_rate() -> None:
    adapter = inject_lora(a_clip(), both(*NAMES), rank=4, alpha=6.0, dora=True)
    config = peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=list(NAMES))
    theirs = peft.get_peft_model(a_clip(), config)
    head = nn.Parameter(torch.zeros(3, 3))
    wanted = {"weight_decay": 0.1}
    groups = lora_plus_groups([adapter], [{"params": [*adapter.parameters(), head], **wanted}], ratio=16.0)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1]
    mine = {id(p): group["lr_ratio"] * 1e-3 for group in groups for p in group["params"]}
    assert mine.pop(id(head)) == 1e-3
    optimizer = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0)
    its = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for path, layer in adapter.layers.items():
        peer = theirs.base_model.model.get_submodule(path)
        assert mine.pop(id(layer.lora_A)) == its[id(peer.lora_A.default.weight)] == 1e-3
        assert mine.pop(id(layer.lora_B)) == its[id(peer.lora_B.default.weight)] == 16e-3
        assert mine.pop(id(layer.lora_magnitude_vector)) == its[id(peer.lora_magnitude_vector.default.weight)]
    assert not mine
    one = lora_plus_groups([adapter], [{"params": [head]}], ratio=16.0)
    assert one == [{"params": [head], "lr_ratio": 1.0}]
