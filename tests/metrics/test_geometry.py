from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vectoruniverse.errors import DivergedError
from vectoruniverse.metrics.geometry import effective_rank, geometry, mean_cosine, spectrum, uniformity


def random_rows(rows: int, width: int, *, seed: int = 0) -> Tensor:
    return normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_alignment_and_uniformity_are_those_of_wang_and_isola() -> None:
    image, text = random_rows(23, 5), random_rows(23, 5, seed=1)
    metrics = geometry(image, text)
    assert metrics["alignment"] == pytest.approx(float((image - text).norm(p=2, dim=1).pow(2).mean()), rel=1e-6)
    for modality, rows in (("image", image), ("text", text)):
        theirs = torch.pdist(rows, p=2).pow(2).mul(-2).exp().mean().log()
        assert metrics[f"{modality}/uniformity"] == pytest.approx(float(theirs), rel=1e-6)


@pytest.mark.parametrize("stripe", [1, 50, 23 * 7, 1 << 20])
def test_uniformity_does_not_depend_on_the_stripe(stripe: int) -> None:
    rows = random_rows(23, 5)
    assert uniformity(rows, stripe=stripe) == pytest.approx(uniformity(rows), rel=1e-6)


def test_mean_cosine_is_that_of_the_double_loop() -> None:
    rows = random_rows(9, 4) + 0.2
    slow = [float(rows[i] @ rows[j]) for i in range(9) for j in range(9) if i != j]
    assert mean_cosine(rows) == pytest.approx(sum(slow) / len(slow), rel=1e-5)


def test_a_space_drawn_by_hand() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    metrics = geometry(image, text)
    assert metrics["alignment"] == pytest.approx(1.0)  # distances √2 and 0
    assert metrics["modality_gap"] == pytest.approx(math.sqrt(0.5))  # (½, ½) to (0, 1)
    assert metrics["image/mean_norm"] == pytest.approx(math.sqrt(0.5))
    assert metrics["text/mean_norm"] == pytest.approx(1.0)
    assert (metrics["image/mean_cosine"], metrics["text/mean_cosine"]) == pytest.approx((0.0, 1.0))
    assert metrics["image/uniformity"] == pytest.approx(-4.0)  # one pair, at squared distance 2
    assert metrics["text/uniformity"] == pytest.approx(0.0, abs=1e-6)
    assert (metrics["image/effective_rank"], metrics["text/effective_rank"]) == pytest.approx((2.0, 1.0))
    assert metrics["largest_eigenvalue_share"] == pytest.approx(0.75)  # three of four rows on one axis
    assert metrics["effective_rank"] == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


@pytest.mark.parametrize("shape", [(30, 8), (8, 30), (8, 8), (1, 5), (20_000, 3)])
def test_spectrum_is_the_squared_singular_values(shape: tuple[int, int]) -> None:
    rows = random_rows(*shape) + 0.1
    squares = torch.linalg.svdvals(rows.double()).square()
    shares = spectrum(rows)
    torch.testing.assert_close(shares, squares / squares.sum(), rtol=1e-9, atol=1e-12)
    assert bool((shares.diff() <= 0).all())


def test_effective_rank_counts_directions() -> None:
    axes = torch.eye(6)
    assert effective_rank(axes) == pytest.approx(6.0)
    assert effective_rank(axes[:3].repeat(5, 1)) == pytest.approx(3.0)
    assert effective_rank(torch.cat([axes[:1], -axes[:1]])) == pytest.approx(1.0)  # two opposite points: one direction


def test_effective_rank_of_rows_without_direction_is_zero_and_of_one_row_is_one() -> None:
    assert effective_rank(torch.zeros(3, 4)) == effective_rank(torch.zeros(0, 4)) == 0.0
    assert effective_rank(torch.tensor([[3.0, 4.0]])) == pytest.approx(1.0)


def test_effective_rank_takes_rows_that_carry_gradients_and_halves() -> None:
    rows = torch.eye(4, dtype=torch.bfloat16).requires_grad_()
    assert effective_rank(rows) == pytest.approx(4.0)


def test_embeddings_without_geometry_are_refused() -> None:
    rows = random_rows(4, 3)
    broken = rows.clone()
    broken[2, 0] = torch.nan
    with pytest.raises(DivergedError, match="1 of 4 text embeddings"):
        geometry(rows, broken)
    with pytest.raises(DivergedError):
        effective_rank(broken)
    with pytest.raises(ValueError, match="norm 1"):
        geometry(rows * 3, rows)
    with pytest.raises(ValueError, match="2 rows or more"):
        geometry(rows[:1], rows[:1])
    with pytest.raises(ValueError, match="all embeddings are zero"):
        spectrum(torch.zeros(3, 2))
