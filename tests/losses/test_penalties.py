from __future__ import annotations

import pytest
import torch
from torch import nn

from vectoruniverse.losses.penalties import l1_penalty, l2_penalty, penalised
from vectoruniverse.training.optim import adamw, parameter_groups


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.linear, self.norm = nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.group, self.attention = nn.GroupNorm(2, 4), nn.MultiheadAttention(4, 2)
        self.scale = nn.Parameter(torch.tensor(1.0))


def test_penalties_and_their_gradients_are_those_of_the_formulas():
    weights = [torch.tensor([[1.0, -2.0], [0.0, 0.5]], requires_grad=True), torch.tensor([[-3.0]], requires_grad=True)]
    assert l1_penalty(weights).item() == 6.5
    assert l2_penalty(weights).item() == 1 + 4 + 0.25 + 9
    first = torch.autograd.grad(l1_penalty(weights), weights)
    assert [g.tolist() for g in first] == [[[1.0, -1.0], [0.0, 1.0]], [[-1.0]]]
    second = torch.autograd.grad(l2_penalty(weights), weights)
    assert [g.tolist() for g in second] == [[[2.0, -4.0], [0.0, 1.0]], [[-6.0]]]
    assert l1_penalty([]).item() == l2_penalty([]).item() == 0.0


def test_the_very_weights_that_would_decay_are_penalised():
    model = Model()
    decayed, plain = parameter_groups(model.named_parameters(), model.modules(), 0.1)
    chosen = penalised(dict(model.named_parameters()), model.modules())
    assert list(chosen) == ["linear.weight", "attention.in_proj_weight", "attention.out_proj.weight"]
    assert {id(p) for p in chosen.values()} == {id(p) for p in decayed["params"]}
    assert {id(p) for p in chosen.values()} & {id(p) for p in plain["params"]} == set()


def test_only_what_is_trained_is_penalised():
    model = Model()
    assert list(penalised({"linear.weight": model.linear.weight}, model.modules())) == ["linear.weight"]


def descend(penalty, factor, steps=4000, rate=0.01):
    """Minimise ½ Σ (w - target)² + factor · penalty(w) by plain gradient descent."""
    target, w = torch.tensor([[2.0, 0.3, -0.05]]), torch.zeros(1, 3, requires_grad=True)
    for _ in range(steps):
        (gradient,) = torch.autograd.grad((w - target).square().sum() / 2 + factor * penalty([w]), [w])
        with torch.no_grad():
            w -= rate * gradient
    return w[0].detach()


def test_l1_leaves_small_weights_at_zero_and_l2_shrinks_all_alike():
    # soft threshold: sign(t) max(|t| - λ, 0), reached up to the length of a step about zero
    assert descend(l1_penalty, 0.4).tolist() == pytest.approx([1.6, 0.0, 0.0], abs=0.01 * (0.4 + 0.3))
    # ridge: t / (1 + 2 λ)
    assert descend(l2_penalty, 0.4).tolist() == pytest.approx([2 / 1.8, 0.3 / 1.8, -0.05 / 1.8], rel=1e-4)


def step(loss_of, weight_decay):
    """One AdamW step on a linear layer whose gradients come from the penalty alone."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    optimizer = adamw(parameter_groups(layer.named_parameters(), layer.modules(), weight_decay), fused=False)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    (loss_of(layer) + 0.0 * layer.bias.sum()).backward()
    optimizer.step()
    return before, layer.weight.detach()


def test_a_penalty_goes_through_adam_and_decoupled_decay_does_not():
    # Adam's first step is the gradient's sign, so the size of an L2 gradient is lost ...
    before, after = step(lambda layer: 0.5 * l2_penalty([layer.weight]), 0.0)
    assert torch.allclose(after, before - 0.1 * before.sign(), atol=1e-4)
    # ... and decay shrinks every weight by the same share
    before, after = step(lambda layer: 0.0 * l2_penalty([layer.weight]), 0.5)
    assert torch.allclose(after, before * (1 - 0.1 * 0.5))
