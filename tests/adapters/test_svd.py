from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.adapters.clip import a_clip, both, embeddings, trained
from vectoruniverse.adapters.apply import inject_lora
from vectoruniverse.adapters.lora import LoraAdapter
from vectoruniverse.adapters.svd import (
    effective_rank,
    energy,
    intruders,
    singular_values,
    tower_spectra,
    truncate,
    without_intruders,
)
from vectoruniverse.errors import DivergedError


def rows(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def a_model() -> nn.ModuleDict:
    """Layers that are wide, tall, and narrower than the rank."""
    return nn.ModuleDict({"v": nn.Linear(30, 12), "t": nn.Linear(10, 24), "tiny": nn.Linear(3, 40)})


def an_adapter(model: nn.Module | None = None, **settings: object) -> LoraAdapter:
    adapter = LoraAdapter(model or a_model(), ["v", "t", "tiny"], **{"rank": 5, "alpha": 7.0, **settings})
    with torch.no_grad():
        for seed, layer in enumerate(adapter.layers.values()):
            layer.lora_B.copy_(rows(*layer.lora_B.shape, seed=seed))
    return adapter


def slow_svdvals(adapter: LoraAdapter, path: str) -> Tensor:
    layer = adapter.layers[path]
    product = layer.lora_B.detach().double() @ layer.lora_A.detach().double()
    return torch.linalg.svdvals(product * layer.scale * layer.factor)


@pytest.mark.parametrize("settings", [{}, {"rank_stabilized": True}, {"rank": 1}, {"rank": 30}])
def test_singular_values_are_those_of_the_whole_product(settings: dict[str, object]) -> None:
    adapter = an_adapter(**settings)
    found = singular_values(adapter)
    assert list(found) == ["v", "t", "tiny"]
    for path, values in found.items():
        slow = slow_svdvals(adapter, path)
        layer = adapter.layers[path]
        assert values.dtype == torch.float64
        assert len(values) == min(layer.rank, layer.in_features, layer.out_features)
        torch.testing.assert_close(values, slow[: len(values)], rtol=1e-12, atol=1e-12)
        assert slow[len(values) :].sum() < 1e-12
        theirs = torch.linalg.svdvals(layer.delta_weight())[: len(values)]  # what forward adds, in fp32
        torch.testing.assert_close(values.float(), theirs, rtol=1e-4, atol=1e-5)


def test_singular_values_follow_the_factor_of_set_scale() -> None:
    adapter = an_adapter()
    whole = singular_values(adapter)
    adapter.set_scale(0.25)
    half = singular_values(adapter)
    for path, values in whole.items():
        torch.testing.assert_close(half[path], values / 4)


def test_effective_rank_and_energy_of_spectra_that_a_person_can_check() -> None:
    assert effective_rank(torch.tensor([3.0, 0.0, 0.0])) == pytest.approx(1.0)
    assert effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3.0)
    shares = [0.8, 0.2]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert effective_rank(torch.tensor([2.0, 1.0])) == pytest.approx(expected)
    assert energy(torch.tensor([2.0, 1.0, 0.0])).tolist() == pytest.approx([0.8, 1.0, 1.0])


def test_towers_are_told_apart_by_whole_components() -> None:
    values = {
        "vision.a": torch.tensor([2.0, 1.0]),
        "vision.b": torch.tensor([1.0]),
        "vision_two.a": torch.tensor([9.0]),
        "text.a": torch.tensor([1.0, 1.0]),
    }
    found = tower_spectra(values, ["vision", "text", "audio", ""])
    assert list(found) == ["vision", "text", ""]
    assert (found["vision"].layers, found["text"].layers, found[""].layers) == (2, 1, 4)
    assert found["vision"].norm == pytest.approx(math.sqrt(6))
    assert found["vision"].energy == pytest.approx((5 / 6, 1.0))
    assert found["text"].effective_rank == pytest.approx(2.0)
    assert found["vision"].smallest_effective_rank == pytest.approx(1.0)
    assert found["vision"].largest_effective_rank == pytest.approx(effective_rank(values["vision.a"]))
    middle = (found["vision"].smallest_effective_rank + found["vision"].largest_effective_rank) / 2
    assert found["vision"].effective_rank == pytest.approx(middle)


@pytest.mark.parametrize("rank", [1, 2, 4, 5, 9])
@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_truncation_is_the_best_approximation_and_loads(rank: int, rank_stabilized: bool) -> None:
    adapter = an_adapter(rank_stabilized=rank_stabilized)
    short = truncate(adapter, rank)
    other = LoraAdapter(a_model(), ["v", "t", "tiny"], rank=short.rank, alpha=short.alpha)
    other.load_state_dict(short.state)
    for path, layer in other.layers.items():
        whole = adapter.layers[path].delta_weight().double()
        u, s, vh = torch.linalg.svd(whole, full_matrices=False)
        best = (u[:, :rank] * s[:rank]) @ vh[:rank]
        torch.testing.assert_close(layer.delta_weight().double(), best, rtol=1e-4, atol=1e-5)
        # balanced: both factors have the same Gram matrix, diag(σ)
        gram_a, gram_b = layer.lora_A @ layer.lora_A.T, layer.lora_B.T @ layer.lora_B
        torch.testing.assert_close(gram_a, gram_b, rtol=1e-4, atol=1e-4)


def test_truncation_error_is_what_the_energy_leaves() -> None:
    adapter = an_adapter()
    kept = tower_spectra(singular_values(adapter), [""])[""]
    for rank in (1, 2, 3, 4):
        short = truncate(adapter, rank)
        other = LoraAdapter(a_model(), ["v", "t", "tiny"], rank=rank, alpha=short.alpha)
        other.load_state_dict(short.state)
        error = sum(
            float((layer.delta_weight() - other.layers[path].delta_weight()).double().square().sum())
            for path, layer in adapter.layers.items()
        )
        assert error / kept.norm**2 == pytest.approx(1 - kept.energy[rank - 1], abs=1e-6)


def test_truncating_changes_nothing_of_the_adapter_and_goes_on_while_merged() -> None:
    adapter = an_adapter()
    before = {key: value.clone() for key, value in adapter.state_dict().items()}
    apart = truncate(adapter, 2)
    adapter.merge()
    merged = truncate(adapter, 2)
    assert all(torch.equal(apart.state[key], merged.state[key]) for key in apart.state)
    assert all(torch.equal(value, before[key]) for key, value in adapter.state_dict().items())


def test_a_model_with_a_truncated_adapter_answers_as_with_the_whole_where_nothing_is_cut() -> None:
    model = a_clip()
    base = embeddings(model)
    adapter = trained(inject_lora(model, both("q_proj", "out_proj"), rank=4, alpha=8.0))
    whole, short, cut = embeddings(model), truncate(adapter, 6), truncate(adapter, 1)
    adapter.remove()
    for made, near in ((short, True), (cut, False)):
        again = inject_lora(model, both("q_proj", "out_proj"), rank=made.rank, alpha=made.alpha)
        again.load_state_dict(made.state)
        assert torch.allclose(embeddings(model), whole, rtol=1e-4, atol=1e-5) is near
        again.remove()
    assert torch.equal(embeddings(model), base)


def test_an_adapter_that_learned_nothing_has_no_directions() -> None:
    adapter = LoraAdapter(a_model(), ["v", "t", "tiny"], rank=5, alpha=5.0)  # lora_B is zero
    values = singular_values(adapter)
    assert all(float(v.abs().max()) == 0.0 for v in values.values())
    tower = tower_spectra(values, [""])[""]
    assert (tower.norm, tower.effective_rank, set(tower.energy)) == (0.0, 0.0, {0.0})
    short = truncate(adapter, 2)
    assert all(bool((tensor == 0).all()) for tensor in short.state.values())
    LoraAdapter(a_model(), ["v", "t", "tiny"], rank=2, alpha=short.alpha).load_state_dict(short.state)


def test_numbers_that_are_not_finite_are_told_with_the_layer() -> None:
    adapter = an_adapter()
    with torch.no_grad():
        adapter.layers["t"].lora_B[0, 0] = math.nan
    for call in (singular_values, lambda a: truncate(a, 2)):
        with pytest.raises(DivergedError, match="update of t is not finite"):
            call(adapter)


def slow_intruders(weight, update, top, threshold):
    """By loops over numpy's decompositions of the whole weights."""
    before, after = np.linalg.svd(weight, full_matrices=False)[0], np.linalg.svd(weight + update, full_matrices=False)
    new = []
    for j in range(min(top, len(after[1]))):
        nearest = max(abs(float(after[0][:, j] @ before[:, i])) for i in range(before.shape[1]))
        if nearest < threshold:
            new.append(j)
    taken = sum((after[1][j] * np.outer(after[0][:, j], after[2][j]) for j in new), np.zeros_like(weight))
    return len(new), weight + update - taken


@pytest.mark.parametrize("dora", [False, True])
def test_intruders_are_those_that_a_slow_comparison_of_all_directions_finds(dora):
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(12, 16, bias=False), nn.Linear(16, 9, bias=False)).double().float()
    adapter = LoraAdapter(model, ["0", "1"], rank=2, alpha=2.0, dora=dora)
    before = [layer.base.weight.detach().double().numpy().copy() for layer in adapter.layers.values()]
    assert not any(map(len, intruders(adapter).values())), "the base's own directions are none"
    for parameter in adapter.parameters():
        parameter.data += torch.randn_like(parameter)
    found, x = intruders(adapter, top=5, threshold=0.8), torch.randn(3, 12)
    updates = [layer.delta_weight().double().numpy() for layer in adapter.layers.values()]
    slow = [slow_intruders(weight, update, 5, 0.8) for weight, update in zip(before, updates, strict=True)]
    assert [len(one) for one in found.values()] == [count for count, _ in slow] and sum(count for count, _ in slow) > 0
    full = model(x).detach()
    with torch.no_grad(), without_intruders(adapter, found):
        model.eval()
        taken = model(x).double().numpy()
    assert taken == pytest.approx(x.double().numpy() @ slow[0][1].T @ slow[1][1].T, abs=1e-4)
    assert torch.equal(model(x), full)
    for layer, weight in zip(adapter.layers.values(), before, strict=True):
        assert np.array_equal(layer.base.weight.detach().double().numpy(), weight)
