from __future__ import annotations

from pathlib import Path

import loralib
import peft
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tests.adapters.clip import trained
from tests.adapters.families import FAMILIES
from vectoruniverse.adapters.apply import LoraAdapter, TowerTargets, inject_lora
from vectoruniverse.adapters.fused import FusedLoraLinear
from vectoruniverse.adapters.lora import LoraLinear
from vectoruniverse.adapters.peft_format import load_lora, save_lora
from vectoruniverse.adapters.svd import singular_values, truncate
from vectoruniverse.errors import ConfigError

# peft 0.21 asks transformers for a property under its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SUBSETS = [("q",), ("k",), ("v",), ("q", "k"), ("q", "v"), ("k", "v"), ("q", "k", "v")]
GPT2 = FAMILIES["gpt2"]


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def a_projection(kind: str, width: int = 8) -> nn.Module:
    """Fused query, key and value, all its numbers random; both kinds have the same function."""
    layer = Conv1D(3 * width, width) if kind == "conv1d" else nn.Linear(width, 3 * width)
    weight = rows(3 * width, width, seed=1)
    with torch.no_grad():
        layer.weight.copy_(weight.T if kind == "conv1d" else weight)
        layer.bias.copy_(rows(3 * width, seed=2))
    return layer


def filled(layer: FusedLoraLinear) -> FusedLoraLinear:
    with torch.no_grad():
        layer.lora_B.copy_(rows(*layer.lora_B.shape, seed=3))
    return layer


def a_fused(kind: str, parts: tuple[str, ...], **settings: object) -> FusedLoraLinear:
    generator = torch.Generator().manual_seed(5)
    return filled(
        FusedLoraLinear(
            a_projection(kind), parts=parts, **{"rank": 2, "alpha": 3.0, "generator": generator, **settings}
        )
    )


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("parts", SUBSETS)
def test_parts_of_a_fused_projection_are_adapted_as_layers_of_their_own(kind: str, parts: tuple[str, ...]) -> None:
    fused = a_fused(kind, parts)
    weight, bias = a_projection("linear").weight.detach(), a_projection("linear").bias.detach()
    x, direction = rows(2, 5, 8, seed=6), rows(2, 5, 24, seed=7)
    outputs, layers = [], {}
    for index, name in enumerate("qkv"):
        split = nn.Linear(8, 8)
        split.weight.data, split.bias.data = weight[index * 8 : index * 8 + 8], bias[index * 8 : index * 8 + 8]
        if name in parts:
            place = parts.index(name)
            split = layers[name] = LoraLinear(split, rank=2, alpha=3.0)
            split.lora_A.data, split.lora_B.data = fused.lora_A.data[place].clone(), fused.lora_B.data[place].clone()
        outputs.append(split(x))
    slow = torch.cat(outputs, dim=-1)
    torch.testing.assert_close(fused(x), slow, rtol=1e-5, atol=1e-5)
    (fused(x) * direction).sum().backward()
    (slow * direction).sum().backward()
    for place, name in enumerate(parts):
        torch.testing.assert_close(fused.lora_A.grad[place], layers[name].lora_A.grad)
        torch.testing.assert_close(fused.lora_B.grad[place], layers[name].lora_B.grad)
    delta = fused.delta_weight().view(3, 8, 8)
    for index, name in enumerate("qkv"):
        expected = layers[name].delta_weight() if name in parts else torch.zeros(8, 8)
        torch.testing.assert_close(delta[index], expected)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("parts", SUBSETS)
def test_values_and_gradients_are_loralib_s_merged_linear_s(kind: str, parts: tuple[str, ...]) -> None:
    ours = a_fused(kind, parts)
    enabled = [name in parts for name in "qkv"]
    theirs = loralib.MergedLinear(8, 24, r=2, lora_alpha=3, enable_lora=enabled, merge_weights=False)
    theirs.weight.data, theirs.bias.data = a_projection("linear").weight.data, a_projection("linear").bias.data
    theirs.lora_A.data, theirs.lora_B.data = ours.lora_A.data.flatten(0, 1), ours.lora_B.data.flatten(0, 1)
    x, direction = rows(4, 5, 8, seed=6), rows(4, 5, 24, seed=7)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    (ours(x) * direction).sum().backward()
    (theirs(x) * direction).sum().backward()
    torch.testing.assert_close(ours.lora_A.grad.flatten(0, 1), theirs.lora_A.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.lora_B.grad.flatten(0, 1), theirs.lora_B.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.delta_weight(), theirs.merge_AB() * theirs.scaling)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_a_fused_layer_merges_and_gives_every_bit_back(kind: str) -> None:
    layer = a_fused(kind, ("q", "v")).eval()
    weight, before, x = layer.base.weight, layer.base.weight.clone(), rows(3, 8)
    adapted = layer(x)
    layer.merge()
    torch.testing.assert_close(layer(x), adapted, rtol=1e-5, atol=1e-5)
    changed = layer.base.weight - before
    changed = changed.T if kind == "conv1d" else changed
    assert torch.count_nonzero(changed[8:16]) == 0  # the keys
    assert torch.count_nonzero(changed[:8]) and torch.count_nonzero(changed[16:])
    layer.unmerge()
    assert layer.base.weight is weight and torch.equal(weight, before)


def test_a_part_starts_the_same_whichever_others_are_adapted_and_step_zero_is_the_base() -> None:
    def fresh(*parts: str) -> FusedLoraLinear:
        generator = torch.Generator().manual_seed(5)
        return FusedLoraLinear(a_projection("linear"), parts=parts, rank=2, alpha=3.0, dropout=0.5, generator=generator)

    alone, both = fresh("v"), fresh("q", "v")
    assert torch.equal(alone.lora_A[0], both.lora_A[1])
    assert not torch.equal(both.lora_A[0], both.lora_A[1])
    x = rows(3, 8)
    assert torch.equal(both(x), both.base(x))
    assert repr(fresh("q", "v")).startswith("FusedLoraLinear(q+v of 8 -> 24, rank=2, alpha=3, scale=1.5")


def test_autocast_gives_the_base_s_dtype_and_fp32_gradients() -> None:
    layer = a_fused("conv1d", ("k",))
    layer.base.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(rows(3, 8))
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert layer.lora_A.grad.dtype == torch.float32
    assert layer.lora_A.grad.abs().max() > 0


def of_gpt2(model: nn.Module, *layers: str, **settings: object) -> LoraAdapter:
    targets = [TowerTargets("", layers, "adapter.text_targets")]
    return trained(inject_lora(model, targets, **{"rank": 3, "alpha": 4.5, **settings}))


@pytest.mark.parametrize("settings", [{}, {"rank_stabilized": True}])
@pytest.mark.parametrize("names", [("c_attn.q", "c_attn.v"), ("c_attn.v", "c_proj"), ("c_attn.q",)])
def test_peft_loads_parts_of_a_fused_projection_as_the_same_function(
    tmp_path: Path, names: tuple[str, ...], settings: dict[str, bool]
) -> None:
    model = GPT2.model()
    base = GPT2.rows(model)
    adapter = of_gpt2(model, *names, **settings)
    adapted = GPT2.rows(model)
    assert not torch.allclose(adapted, base, atol=1e-2)
    save_lora(adapter, tmp_path, base_model="gpt2")
    theirs = peft.PeftModel.from_pretrained(GPT2.model(), tmp_path)
    torch.testing.assert_close(GPT2.rows(theirs), adapted, rtol=1e-5, atol=1e-5)
    again = GPT2.model()
    loaded = load_lora(again, tmp_path)
    torch.testing.assert_close(GPT2.rows(again), adapted, rtol=1e-5, atol=1e-5)
    for path, layer in adapter.layers.items():
        torch.testing.assert_close(loaded.layers[path].delta_weight(), layer.delta_weight())
    adapter.merge()
    torch.testing.assert_close(GPT2.rows(model), adapted, rtol=1e-5, atol=1e-5)
    adapter.remove()
    assert torch.equal(GPT2.rows(model), base)
    assert all(torch.equal(value, GPT2.model().state_dict()[key]) for key, value in model.state_dict().items())


def test_the_spectrum_of_a_fused_update_is_that_of_its_whole_product() -> None:
    model = GPT2.model()
    adapter = of_gpt2(model, "c_attn.q", "c_attn.k")
    short = truncate(adapter, 2)
    for path, values in singular_values(adapter).items():
        slow = torch.linalg.svdvals(adapter.layers[path].delta_weight().double())
        torch.testing.assert_close(values, slow[:6], rtol=1e-4, atol=1e-5)
        assert slow[6:].sum() < 1e-4
    paths = list(adapter.layers)
    deltas = {path: layer.delta_weight() for path, layer in adapter.layers.items()}
    adapter.remove()
    cut = LoraAdapter(model, paths, rank=short.rank, alpha=short.alpha)
    cut.load_state_dict(short.state)
    for path, layer in cut.layers.items():
        u, s, vh = torch.linalg.svd(deltas[path], full_matrices=False)
        torch.testing.assert_close(layer.delta_weight(), (u[:, :2] * s[:2]) @ vh[:2], rtol=1e-4, atol=1e-4)


class Attention(nn.Module):
    """Names of projections as timm, OpenCLIP and others have them."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.in_proj, self.query_key_value = nn.Linear(8, 24), nn.Linear(8, 24), nn.Linear(8, 24)
        self.Wqkv = nn.Linear(8, 16)  # grouped-query: keys and values are narrower
        self.multi = nn.MultiheadAttention(8, 2)


def inject(model: nn.Module, *names: str) -> LoraAdapter:
    return inject_lora(model, [TowerTargets("", names, "adapter.text_targets")], rank=1, alpha=1.0)


def test_fused_linear_layers_take_parts_by_name() -> None:
    adapter = inject(Attention(), "qkv.v", "qkv.q", "in_proj.k")
    assert {path: layer.parts for path, layer in adapter.layers.items()} == {"qkv": ("q", "v"), "in_proj": ("k",)}


@pytest.mark.parametrize(
    ("names", "message", "remedy"),
    [
        (("query_key_value.q",), "not known to be query, key and value one after the other", "whole layer"),
        (("Wqkv.q",), "output width 16 is not three times its input width 8", "whole layer"),
        (("qkv.w",), "no layer of the model is called 'qkv.w'", "Choose from Wqkv"),
        (("qkv", "qkv.q"), "qkv is named whole and in parts", "not both"),
        (("multi.q",), "'multi.q' names multi in the model, a MultiheadAttention", "calls no layers"),
    ],
)
def test_parts_that_are_not_there_are_refused(names: tuple[str, ...], message: str, remedy: str) -> None:
    model = Attention()
    with pytest.raises(ConfigError, match=message) as caught:
        inject(model, *names)
    assert caught.value.key == "adapter.text_targets"
    assert remedy in str(caught.value.remedy)
    assert not any(isinstance(module, LoraLinear) for module in model.modules())
