"""Rows beside their labels: fusion, kernel and divergence against the formulas, row by row and label by label."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vectoruniverse.losses.label_kl import label_kl
from vectoruniverse.models.fusion import FUSIONS, build_fusion

WIDTH, ROWS, TAU, SIGMA = 12, 5, 0.3, 0.7
LABELS = [{0, 2}, {1}, set(), {0, 1, 3}, {2}]
SMOOTHING = {"forward": 0.0, "reverse": 0.2}


def draws(*shape: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_()


def moved_fusion(name: str) -> torch.nn.Module:
    """With all its weights away from where they start, so that each has a say."""
    fusion = build_fusion(name, WIDTH, seed=0).double()
    for place, parameter in enumerate(fusion.parameters()):
        parameter.data += 0.5 * draws(*parameter.shape, seed=place).detach()
    return fusion


def which_has(labels: list[set[int]], count: int = 4) -> Tensor:
    return torch.tensor([[c in own for c in range(count)] for own in labels])


def slow_norm(v: Tensor) -> Tensor:
    mean = sum(v) / len(v)
    return (v - mean) / torch.sqrt(sum((v - mean) ** 2) / len(v) + 1e-5)


def slow_mlp(fusion, i: Tensor, t: Tensor) -> Tensor:
    hidden = fusion.hidden.weight @ slow_norm(torch.cat([i, t])) + fusion.hidden.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return i + t + fusion.out.weight @ hidden + fusion.out.bias


def slow_gate(fusion, i: Tensor, t: Tensor) -> Tensor:
    gate = 1 / (1 + torch.exp(-(fusion.gate.weight @ slow_norm(torch.cat([i, t])) + fusion.gate.bias)))
    return gate * i + (1 - gate) * t


def slow_attention(fusion, i: Tensor, t: Tensor) -> Tensor:
    layer = fusion.attention
    heads = layer.num_heads
    assert heads == 4  # the greatest that divides both 12 and 8
    d, total = WIDTH // heads, torch.zeros(WIDTH, dtype=torch.float64)

    def project(part: int, v: Tensor) -> Tensor:
        some = slice(part * WIDTH, (part + 1) * WIDTH)
        return layer.in_proj_weight[some] @ slow_norm(v) + layer.in_proj_bias[some]

    for z in (i, t):
        seen = []
        for head in range(heads):
            own = slice(head * d, (head + 1) * d)
            weights = [torch.exp(project(0, z)[own] @ project(1, other)[own] / math.sqrt(d)) for other in (i, t)]
            values = [project(2, other)[own] for other in (i, t)]
            seen.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
        total = total + z + layer.out_proj.weight @ torch.cat(seen) + layer.out_proj.bias
    return total / 2


SLOW = {"concat_mlp": slow_mlp, "gated_sum": slow_gate, "cross_attention": slow_attention}


def slow_divergence(x: Tensor, names: Tensor, own: set[int], kernel: str, direction: str, smoothing: float) -> Tensor:
    """Of one row's fused vector."""
    x = x / torch.sqrt(x @ x)
    values = [x @ y if kernel == "dot" else torch.exp(-((x - y) @ (x - y)) / (2 * SIGMA**2)) for y in names]
    whole = sum(torch.exp(k / TAU) for k in values)
    total = torch.zeros((), dtype=torch.float64)
    for c, k in enumerate(values):
        p, q = torch.exp(k / TAU) / whole, (1 - smoothing) * (c in own) / len(own) + smoothing / len(names)
        if direction == "reverse":
            total = total + p * (torch.log(p) - math.log(q))
        elif q > 0:
            total = total + q * (math.log(q) - torch.log(p))
    return total


@pytest.mark.parametrize(("name", "kernel", "direction"), [*product(FUSIONS, ("dot", "rbf"), SMOOTHING)])
def test_it_is_the_notes_formula_row_by_row_in_value_and_gradient(name, kernel, direction):
    fusion = moved_fusion(name)
    for smoothing in {SMOOTHING[direction], 0.2}:
        images, texts, names = draws(2, ROWS, WIDTH, seed=1), draws(2, ROWS, WIDTH, seed=2), draws(4, WIDTH, seed=3)
        i, t, y = (normalize(one, dim=-1) for one in (images, texts, names))
        found = label_kl(
            fusion(i, t), y, which_has(LABELS), weight=3.0, kernel=kernel,
            bandwidth=SIGMA if kernel == "rbf" else None, temperature=TAU, direction=direction, smoothing=smoothing,
        )  # fmt: skip
        each = [
            slow_divergence(SLOW[name](fusion, i[view, row], t[view, row]), y, own, kernel, direction, smoothing)
            for view in range(2)
            for row, own in enumerate(LABELS)
            if own
        ]
        expected = sum(each) / len(each)
        torch.testing.assert_close(found.total, 3.0 * expected, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(found.parts["label_kl"], expected.detach(), rtol=1e-6, atol=1e-9)
        leaves = [images, texts, names, *fusion.parameters()]
        gradients = (torch.autograd.grad(loss, leaves, retain_graph=True) for loss in (found.total, 3.0 * expected))
        for quick, obvious in zip(*gradients, strict=True):
            assert quick.abs().max() > 1e-6
            torch.testing.assert_close(quick, obvious, rtol=1e-6, atol=1e-9)


def divergence(fused, names, has, **settings):
    plain = {"weight": 1.0, "kernel": "dot", "bandwidth": None, "temperature": 0.1, "direction": "forward"}
    return label_kl(fused, names, has, **(plain | {"smoothing": 0.1} | settings))


def test_a_vector_at_its_own_label_far_from_others_is_at_no_distance():
    names = torch.eye(4, dtype=torch.float64)
    found = divergence(names[None], names, torch.eye(4, dtype=torch.bool), temperature=0.01, smoothing=0.0)
    assert found.total.item() == pytest.approx(0.0, abs=1e-9)
    assert found.chance == pytest.approx(math.log(4))


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_rows_without_labels_contribute_nothing_not_even_a_gradient(direction):
    fused, names = draws(1, ROWS, WIDTH, seed=1), normalize(draws(4, WIDTH, seed=2), dim=1)
    has = which_has(LABELS)
    found = divergence(fused, names, has, direction=direction)
    (gradient,) = torch.autograd.grad(found.total, fused)
    assert not gradient[0, 2].any() and gradient[0, [0, 1, 3, 4]].any(dim=1).all()
    labelled = has.any(dim=1)
    alone = divergence(fused[:, labelled], names, has[labelled], direction=direction)
    torch.testing.assert_close(found.total, alone.total)
    nothing = divergence(fused, names, torch.zeros_like(has), direction=direction, smoothing=0.1)
    assert nothing.total.item() == 0.0 and not torch.autograd.grad(nothing.total, fused)[0].any()


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_chance_is_what_vectors_have_that_all_look_alike(direction):
    alike = torch.ones(1, WIDTH) / WIDTH**0.5
    found = divergence(alike.expand(2, ROWS, -1), alike.expand(4, -1), which_has(LABELS), direction=direction)
    assert found.chance == pytest.approx(found.total.item(), abs=1e-6)


@pytest.mark.parametrize("name", FUSIONS)
def test_a_new_fusion_stands_half_way_between_its_two_and_its_weights_are_a_function_of_the_seed(name):
    i, t = (normalize(torch.randn(3, WIDTH), dim=-1) for _ in range(2))
    before = torch.get_rng_state()
    one, again, other = (build_fusion(name, WIDTH, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before), "nobody else's draws depend on it"
    torch.testing.assert_close(normalize(one(i, t), dim=-1), normalize(i + t, dim=-1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    drawn = any(p.any() for p in one.parameters())
    differs = any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert drawn == differs == (name != "gated_sum"), "the gate starts at 0 whatever the seed"
