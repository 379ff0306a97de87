from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from vectoruniverse.adapters.lora import LoraAdapter, LoraLinear
from vectoruniverse.errors import ConfigError, DataError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def a_linear(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Linear:
    layer = nn.Linear(12, 20)
    with torch.no_grad():
        layer.weight.copy_(rows(20, 12, seed=seed) / 4)
        layer.bias.copy_(rows(20, seed=seed + 1))
    return layer.to(dtype)


def a_trained_layer(dtype: torch.dtype = torch.float32, **settings: object) -> LoraLinear:
    layer = LoraLinear(a_linear(dtype=dtype), **{"rank": 3, "alpha": 6.0, "generator": seeded(), **settings})
    with torch.no_grad():
        layer.lora_B.copy_(rows(20, 3, seed=5))
    return layer


def a_tower(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4)).to(dtype)


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_output_and_gradients_are_the_formula_s() -> None:
    layer = a_trained_layer()
    x = rows(2, 5, 12).requires_grad_()
    weight, bias = layer.base.weight, layer.base.bias
    a, b = (p.detach().clone().requires_grad_() for p in (layer.lora_A, layer.lora_B))
    x_slow = x.detach().clone().requires_grad_()
    slow = x_slow @ (weight + 6.0 / 3 * (b @ a)).T + bias
    fast = layer(x)
    torch.testing.assert_close(fast, slow)
    direction = rows(2, 5, 20, seed=9)
    (fast * direction).sum().backward()
    (slow * direction).sum().backward()
    for ours, theirs in ((layer.lora_A, a), (layer.lora_B, b), (x, x_slow)):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert layer.base.weight.grad is None


@pytest.mark.parametrize(("stabilized", "scale"), [(False, 8 / 4), (True, 8 / math.sqrt(4))])
def test_scale_is_alpha_over_rank_or_its_root(stabilized: bool, scale: float) -> None:
    layer = LoraLinear(a_linear(), rank=4, alpha=8, rank_stabilized=stabilized)
    with torch.no_grad():
        layer.lora_B.fill_(1.0)
    torch.testing.assert_close(layer.delta_weight(), scale * layer.lora_A.sum(0).detach().expand(20, 12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_first_forward_is_the_base_s_bit_for_bit(dtype: torch.dtype, autocast: bool) -> None:
    base = a_linear(dtype=dtype)
    layer = LoraLinear(base, rank=3, alpha=6)
    x = rows(7, 12).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch.equal(layer(x), base(x))
        assert layer(x).dtype == base(x).dtype


def test_initial_values_are_loralib_s_distribution_and_a_function_of_the_generator() -> None:
    first, again, other = (LoraLinear(a_linear(), rank=64, alpha=1, generator=seeded(s)) for s in (3, 3, 4))
    assert torch.equal(first.lora_A, again.lora_A)
    assert not torch.equal(first.lora_A, other.lora_A)
    bound = 1 / math.sqrt(12)  # kaiming_uniform with a = √5
    assert 0.95 * bound < first.lora_A.abs().max().item() <= bound
    assert torch.count_nonzero(first.lora_B) == 0


def test_merged_weight_is_base_plus_update_and_unmerge_restores_every_bit() -> None:
    layer = a_trained_layer().eval()
    weight, before = layer.base.weight, layer.base.weight.clone()
    x = rows(7, 12)
    unmerged = layer(x)
    layer.merge()
    layer.merge()
    assert layer.merged
    assert torch.equal(layer.base.weight, before + layer.delta_weight())
    torch.testing.assert_close(layer(x), unmerged, rtol=1e-5, atol=1e-5)
    assert torch.equal(layer(x), layer.base(x))
    layer.unmerge()
    layer.unmerge()
    assert layer.base.weight is weight
    assert torch.equal(weight, before)
    assert torch.equal(layer(x), unmerged)


def test_merging_in_bf16_rounds_once_and_gives_the_bits_back() -> None:
    layer = a_trained_layer(torch.bfloat16)
    before = layer.base.weight.clone()
    with torch.autocast("cpu", torch.bfloat16):
        layer.merge()
    expected = before.float() + 2.0 * layer.lora_B.detach() @ layer.lora_A.detach()
    torch.testing.assert_close(layer.base.weight, expected.bfloat16(), rtol=0, atol=0)
    layer.unmerge()
    assert torch.equal(layer.base.weight, before)


def test_merging_leaves_a_module_that_shares_the_weight_alone() -> None:
    layer = a_trained_layer()
    tied = nn.Linear(12, 20)
    tied.weight = layer.base.weight
    before = tied.weight.clone()
    layer.merge()
    assert torch.equal(tied.weight, before)


def test_mode_changes_do_not_merge_and_training_while_merged_is_refused() -> None:
    layer = a_trained_layer()
    before = layer.base.weight.clone()
    layer.eval()
    layer.train()
    assert not layer.merged
    assert torch.equal(layer.base.weight, before)
    layer.merge()
    with pytest.raises(RuntimeError, match="unmerge"):
        layer(rows(2, 12))


def test_dropout_touches_only_the_input_of_the_update_and_only_in_training() -> None:
    layer = a_trained_layer(dropout=0.5)
    x = torch.ones(4000, 12)
    torch.manual_seed(0)
    update = layer(x) - layer.base(x)
    assert not torch.equal(update[0], update[1])
    torch.testing.assert_close(update.mean(0), layer.delta_weight().sum(1), rtol=0.1, atol=0.1)
    layer.eval()
    torch.testing.assert_close(layer(x) - layer.base(x), x @ layer.delta_weight().T)
    assert not LoraLinear(a_linear().eval(), rank=1, alpha=1, dropout=0.5).training


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_beside_a_bf16_base_are_fp32_and_near_those_of_fp32(autocast: bool) -> None:
    reference, layer = a_trained_layer(), a_trained_layer(torch.bfloat16)
    x = rows(64, 12)
    reference(x).square().mean().backward()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x if autocast else x.bfloat16())
    assert y.dtype == torch.bfloat16
    y.float().square().mean().backward()
    for ours, exact in ((layer.lora_A, reference.lora_A), (layer.lora_B, reference.lora_B)):
        assert ours.dtype == ours.grad.dtype == torch.float32
        assert torch.linalg.norm(ours.grad - exact.grad) < 0.02 * torch.linalg.norm(exact.grad)


def test_repr_is_one_readable_line() -> None:
    layer = a_trained_layer(dropout=0.1)
    assert repr(layer) == "LoraLinear(12 -> 20, rank=3, alpha=6, scale=2, dropout=0.1)"
    layer.merge()
    assert repr(layer).endswith("merged)")


def test_an_adapter_trains_only_its_own_parameters() -> None:
    model = a_tower()
    adapter = LoraAdapter(model, ["0", "2"], rank=2, alpha=2)
    frozen = {name: value for name, value in bits(model).items() if "lora_" not in name}
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model(rows(6, 8)).square().sum().backward()
        optimizer.step()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in adapter.parameters()}
    assert same(frozen, {name: value for name, value in bits(model).items() if name in frozen})
    assert all(torch.count_nonzero(layer.lora_B) for layer in adapter.layers.values())


def test_removing_gives_back_the_same_modules_the_same_bits_and_the_same_freezing() -> None:
    model = a_tower()
    model[1].requires_grad_(False)
    modules, before = list(model.modules()), bits(model)
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    adapter = LoraAdapter(model, ["0", "2"], rank=2, alpha=2)
    with torch.no_grad():
        adapter.layers["0"].lora_B.fill_(1.0)
    adapter.merge()
    adapter.overwrite({"1.weight": torch.full((8,), 3.0)})
    assert not same(before, {name.replace(".base", ""): v for name, v in bits(model).items() if "lora_" not in name})
    adapter.remove()
    adapter.remove()
    assert [id(module) for module in model.modules()] == [id(module) for module in modules]
    assert same(bits(model), before)
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable


def test_a_layer_starts_the_same_whatever_else_is_adapted() -> None:
    both = LoraAdapter(a_tower(), ["0", "2"], rank=2, alpha=2, seed=7)
    alone = LoraAdapter(a_tower(), ["2"], rank=2, alpha=2, seed=7)
    other = LoraAdapter(a_tower(), ["2"], rank=2, alpha=2, seed=8)
    assert torch.equal(both.layers["2"].lora_A, alone.layers["2"].lora_A)
    assert not torch.equal(both.layers["0"].lora_A, both.layers["2"].lora_A)
    assert not torch.equal(alone.layers["2"].lora_A, other.layers["2"].lora_A)


def test_the_scale_factor_runs_from_the_base_to_the_full_adapter() -> None:
    model = a_tower()
    x = rows(3, 8)
    base = model(x).detach()
    adapter = LoraAdapter(model, ["2"], rank=2, alpha=2)
    with torch.no_grad():
        adapter.layers["2"].lora_B.fill_(1.0)
    full = model(x)
    adapter.set_scale(0.5)
    torch.testing.assert_close(model(x), (base + full) / 2)
    adapter.set_scale(0.0)
    assert torch.equal(model(x), base)
    adapter.merge()
    with pytest.raises(RuntimeError, match="unmerge"):
        adapter.set_scale(1.0)


def test_state_round_trips_under_peft_s_keys() -> None:
    source, target = (LoraAdapter(a_tower(), ["0"], rank=2, alpha=2, seed=seed) for seed in (1, 2))
    assert set(source.state_dict()) == {"base_model.model.0.lora_A.weight", "base_model.model.0.lora_B.weight"}
    target.load_state_dict(source.state_dict())
    assert same(source.state_dict(), target.state_dict())


def test_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    adapter = LoraAdapter(a_tower(), ["0"], rank=2, alpha=2)
    before = copy.deepcopy(adapter.state_dict())
    a, b = before
    fitting = {key: torch.ones_like(value) for key, value in before.items()}
    with pytest.raises(ConfigError, match=r"lacks base_model\.model\.0\.lora_B"):
        adapter.load_state_dict({a: fitting[a]})
    with pytest.raises(ConfigError, match="other layers: base_model"):
        adapter.load_state_dict({**fitting, "base_model.model.9.lora_A.weight": fitting[a]})
    with pytest.raises(ConfigError, match=r"shape \(8, 3\), and \(8, 2\) is needed"):
        adapter.load_state_dict({**fitting, b: torch.ones(8, 3)})
    with pytest.raises(DataError, match="finite"):
        adapter.load_state_dict({**fitting, b: torch.full((8, 2), math.nan)})
    assert same(before, adapter.state_dict())
    adapter.merge()
    with pytest.raises(RuntimeError, match="unmerge"):
        adapter.load_state_dict(fitting)


def test_a_generator_of_its_own_leaves_the_global_one_alone() -> None:
    base = a_linear()
    state = torch.get_rng_state()
    LoraLinear(base, rank=2, alpha=1, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)
