from __future__ import annotations

import numpy as np
import pytest

from vectoruniverse.metrics.intervals import intervals_at_once, mean_interval
from vectoruniverse.runs.outcomes import Outcomes
from vectoruniverse.sweep import analysis


def test_differences_of_an_adapter_from_those_trained_at_lower_ranks_hold_at_once(monkeypatch):
    random = np.random.default_rng(0)
    drawn, (cut, trained) = np.arange(90) // 3, random.integers(2, size=(2, 3, 90)).astype(float)
    by_run = {rank: Outcomes(np.zeros(90), trained[i], drawn) for i, rank in enumerate((1, 2, 4))}
    monkeypatch.setattr(analysis, "outcomes", lambda run, metric: by_run[run])
    rows = dict(zip((1, 2, 4), cut, strict=True))
    found = analysis._beside_trained(rows, "recall@5", 4, {rank: rank for rank in (1, 2, 4)})
    gaps = intervals_at_once([cut[i] - trained[i] for i in range(3)], drawn)
    assert [one.minus_trained for one in found] == [pytest.approx(gap) for gap in gaps]
    reached = [mean_interval(one, drawn, share=True).estimate for one in cut]
    assert [one.score("recall@5") for one in found] == pytest.approx(reached)
    alone = analysis._beside_trained(rows, "recall@5", 4, {2: 2})
    assert [one.minus_trained is None for one in alone] == [True, False, True]
    assert alone[1].minus_trained == pytest.approx(mean_interval(cut[1] - trained[1], drawn))
