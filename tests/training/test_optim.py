from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from vectoruniverse.training.optim import adamw, constant, cosine, cosine_restarts, parameter_groups


def test_restarts_print_what_the_note_printed():
    lr = cosine_restarts(peak=5e-5, base=1e-5, period=70, warmup=17, decay=0.9)
    # the note steps its scheduler before it prints, so its first line is step 1
    assert lr(1) == pytest.approx(1.2352941176470589e-05, rel=1e-12)
    assert lr(11) == pytest.approx(3.5882352941176474e-05, rel=1e-12)
    assert lr(21) == pytest.approx(4.944045828160822e-05, rel=1e-12)


def test_restarts_start_again_from_a_lower_peak():
    lr = cosine_restarts(peak=5e-5, base=1e-5, period=70, warmup=17, decay=0.9)
    assert [lr(70 * n) for n in range(3)] == pytest.approx([1e-5] * 3)
    assert [lr(70 * n + 17) for n in range(3)] == pytest.approx([5e-5, 4.5e-5, 4.05e-5])


def test_a_peak_that_decayed_below_the_base_stays_on_it():
    lr = cosine_restarts(peak=2e-5, base=1e-5, period=10, warmup=2, decay=0.5)
    assert {lr(step) for step in range(30, 40)} == {1e-5}


def test_cosine_warms_up_and_ends_at_its_final_share():
    lr = cosine(peak=1.0, steps=100, warmup=0.1, final=0.2)
    values = [lr(step) for step in range(101)]
    assert values[0] == pytest.approx(1 / 11)
    assert max(values) == values[10] == 1.0
    assert values[55] == pytest.approx(0.6)
    assert values[100] == pytest.approx(0.2)
    assert all(a >= b for a, b in itertools.pairwise(values[10:]))


def test_constant_stays():
    lr = constant(peak=3.0, steps=10, warmup=0.2)
    assert [lr(step) for step in range(4)] == pytest.approx([1.0, 2.0, 3.0, 3.0])


def test_decay_spares_biases_norms_embeddings_and_scalars():
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "norm": nn.LayerNorm(4), "linear": nn.Linear(4, 4)})
    model.register_parameter("logit_scale", nn.Parameter(torch.tensor(1.0)))
    decayed, plain = parameter_groups(model.named_parameters(), model.modules(), 0.1)
    assert [p is model["linear"].weight for p in decayed["params"]] == [True]
    assert decayed["weight_decay"] == 0.1
    assert len(plain["params"]) == 5 and plain["weight_decay"] == 0.0


def test_decay_is_decoupled_and_applies_to_its_group_alone():
    model = nn.Linear(3, 3)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    optimizer = adamw(parameter_groups(model.named_parameters(), model.modules(), 0.5), fused=False)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(model.weight, weight * (1 - 0.1 * 0.5))
    assert torch.equal(model.bias, bias)
