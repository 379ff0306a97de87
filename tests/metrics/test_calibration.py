"""Platt's calibration: scikit-learn's where it shrinks to nothing, and a general minimiser's where it does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from vectoruniverse.metrics.calibration import fit_logistic


def rows(seed: int, scores: int, rare: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.random(200) < rare
    truth[:2] = True, False
    return random.normal(size=(200, scores)) + truth[:, None], truth


@pytest.mark.parametrize("scores", [1, 2])
@pytest.mark.parametrize("strength", [0.01, 1.0, 30.0])
def test_it_is_scikit_learns_logistic_regression(scores: int, strength: float) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    for seed in range(3):
        x, truth = rows(seed, scores, rare=0.3 if seed else 0.02)
        theirs = linear.LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10_000).fit(x, truth)
        found = fit_logistic(x, truth, strength=strength)
        assert found.slopes == pytest.approx(theirs.coef_[0], abs=1e-5)
        assert found.intercept == pytest.approx(theirs.intercept_[0], abs=1e-5)
        assert found.probabilities(x) == pytest.approx(theirs.predict_proba(x)[:, 1], abs=1e-5)


def test_slopes_shrink_towards_those_that_are_given() -> None:
    x, truth = rows(5, 2)
    towards = np.array([4.0, -1.0])

    def cost(w: np.ndarray) -> float:
        shares = expit(x @ w[:2] + w[2]).clip(1e-300, 1 - 1e-16)
        return float(-np.log(np.where(truth, shares, 1 - shares)).sum() + 2.5 * np.square(w[:2] - towards).sum())

    expected = minimize(cost, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).x
    found = fit_logistic(x, truth, towards, 5.0)
    assert [*found.slopes, found.intercept] == pytest.approx(expected, abs=1e-5)
    assert fit_logistic(x, truth, towards, 1e9).slopes == pytest.approx(towards, abs=1e-5)


def test_the_mean_probability_is_the_share_of_rows_with_the_label() -> None:
    x, truth = rows(7, 1, rare=0.05)
    assert fit_logistic(x, truth).probabilities(x).mean() == pytest.approx(truth.mean(), abs=1e-8)


def test_classes_that_a_line_parts_and_extreme_starts_stay_finite() -> None:
    x = np.linspace(-1, 1, 20)[:, None]
    found = fit_logistic(x, x[:, 0] > 0.9, 500.0, 1e-4)
    assert np.isfinite([*found.slopes, found.intercept]).all()
    assert (found.probabilities(x) > 0.5).tolist() == (x[:, 0] > 0.9).tolist()


def test_a_label_of_all_rows_or_of_none_is_refused() -> None:
    for truth in (np.ones(4, bool), np.zeros(4, bool)):
        with pytest.raises(ValueError, match="rows with the label and of rows without"):
            fit_logistic(np.zeros((4, 1)), truth)
