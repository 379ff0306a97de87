"""Embedding distillation beside loops over rows, in value and gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from vectoruniverse.losses.distillation import distillation


@pytest.mark.parametrize("distance", ["cosine", "squared"])
@pytest.mark.parametrize("count", [1, 2])
def test_distillation_is_what_a_loop_over_views_and_rows_gives(distance, count):
    generator = torch.Generator().manual_seed(3)
    raw = [torch.randn(5, 4, generator=generator, dtype=torch.float32, requires_grad=True) for _ in range(count)]
    teacher = normalize(torch.randn(5, 4, generator=generator), dim=-1)
    value = distillation([normalize(one, dim=-1) for one in raw], teacher, distance=distance)
    value.backward()

    def slow(views):
        total = 0.0
        for view in views:
            for row, target in zip(view, teacher.double().numpy(), strict=True):
                unit = row / np.sqrt((row**2).sum())
                total += 1 - unit @ target if distance == "cosine" else ((unit - target) ** 2).sum()
        return total / (count * 5)

    plain = [one.detach().double().numpy() for one in raw]
    assert float(value.detach()) == pytest.approx(slow(plain), abs=1e-6)
    for view, one in enumerate(raw):
        for at in np.ndindex(5, 4):
            up, down = [each.copy() for each in plain], [each.copy() for each in plain]
            up[view][at] += 1e-5
            down[view][at] -= 1e-5
            assert float(one.grad[at]) == pytest.approx((slow(up) - slow(down)) / 2e-5, abs=1e-5)


def test_what_is_the_teacher_s_costs_nothing_and_the_teacher_gets_no_gradient():
    rows = normalize(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), dim=-1).requires_grad_()
    for distance in ("cosine", "squared"):
        value = distillation([rows], rows, distance=distance)
        assert float(value.detach()) == pytest.approx(0.0, abs=1e-6)
    teacher = rows.detach().clone().requires_grad_()
    distillation([rows], teacher, distance="cosine").backward()
    assert teacher.grad is None and rows.grad is not None
