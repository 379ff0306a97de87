from __future__ import annotations

import pytest

from vectoruniverse.report.verdict import answer, rivals_words, verdict
from vectoruniverse.runs.records import RivalRecord, RivalsRecord

BASE = {"effective_rank": 9.0, "largest_eigenvalue_share": 0.3, "image/mean_cosine": 0.3, "text/mean_cosine": 0.3}


@pytest.mark.parametrize(
    ("after", "difference", "outcome"),
    [
        (0.4, [0.3, 0.2, 0.35], "better"),
        (0.05, [-0.05, -0.09, -0.01], "worse"),
        (0.12, [0.02, -0.01, 0.05], "unclear"),
        (0.12, [0.02, 0.0, 0.05], "unclear"),
        (0.4, None, "better"),
        (0.05, None, "worse"),
        (0.1, None, "unchanged"),
    ],
)
def test_better_and_worse_are_claimed_only_clear_of_zero(
    after: float, difference: list[float] | None, outcome: str
) -> None:
    intervals = {"recall@5": {"difference": difference}} if difference else None
    assert answer("recall@5", {"recall@5": 0.1}, {"recall@5": after}, intervals).outcome == outcome


def test_answer_says_by_how_much() -> None:
    told = answer("mrr", {"mrr": 0.132}, {"mrr": 0.487}, {"mrr": {"difference": [0.355, 0.301, 0.402]}})
    assert told.headline == "Better: mrr went from 13.2 % to 48.7 %"
    assert told.detail == "Change +35.5 points, 95 % interval +30.1 to +40.2: clear of zero."
    assert "No interval" in answer("mrr", {"mrr": 0.1}, {"mrr": 0.2}).detail


def test_a_good_space_is_healthy_in_one_sentence() -> None:
    assert verdict(BASE, BASE | {"effective_rank": 41.2}) == ["healthy: effective rank 41.2 (base 9.0)"]
    assert verdict({}, {"effective_rank": 41.2}) == ["healthy: effective rank 41.2"]
    assert verdict({}, {}) == ["not evaluated: there are no numbers about the space"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"effective_rank": 4.4}, "collapsed: effective rank 4.4 (base 9.0)"),
        ({"largest_eigenvalue_share": 0.41}, "one direction holds 41 % of the variance (base 30 %)"),
        ({"image/mean_cosine": 0.97}, "pictures lie in a narrow cone: mean cosine 0.97 (base 0.30)"),
        ({"text/mean_cosine": 0.51}, "texts lie in a narrow cone: mean cosine 0.51 (base 0.30)"),
        ({"modality_gap": 0.8}, "pictures and texts stand apart: modality gap 0.80"),
        ({"alignment": float("nan")}, "not finite: alignment"),
    ],
)
def test_each_illness_has_its_sentence(change: dict[str, float], sentence: str) -> None:
    assert verdict(BASE, BASE | change) == [sentence]


def test_a_space_of_one_direction_has_collapsed_whatever_its_base_was() -> None:
    assert verdict({"effective_rank": 1.1}, {"effective_rank": 1.2}) == ["collapsed: effective rank 1.2 (base 1.1)"]


def test_collapse_while_training_is_told_with_its_step_and_its_end() -> None:
    ranks: list[float | str] = [10.0, "NaN", 6.0, 4.9, 2.0]
    history = [{"step": 40 * i, "train/effective_rank": rank} for i, rank in enumerate(ranks)]
    sentence = "collapsed at step 120: effective rank of batches fell from 10.0 to 2.0"
    assert verdict(BASE, BASE, history) == [sentence]
    recovered = [*history, {"step": 400, "train/effective_rank": 9.0}]
    assert verdict(BASE, BASE, recovered) == [f"{sentence}, and recovered by step 400"]
    assert verdict(BASE, BASE, history[:3])[0].startswith("healthy")


def test_the_worst_comes_first() -> None:
    ill = BASE | {"effective_rank": 1.2, "largest_eigenvalue_share": 0.97, "modality_gap": 0.9}
    assert [sentence.split()[0] for sentence in verdict(BASE, ill)] == ["collapsed:", "one", "pictures"]


@pytest.mark.parametrize(
    ("best", "ahead", "said"),
    [
        (
            "CCA",
            [0.123, 0.08, 0.161],
            "It beats the best rival that costs nothing (CCA, 61.3 %) by 12.3 points, 95 % interval 8.0 to 16.1.",
        ),
        (
            "CCA",
            [-0.372, -0.417, -0.326],
            (
                "It loses to the best rival that costs nothing (CCA, 61.3 %) by 37.2 points, 95 % interval 32.6 to 41.7"
                ": "
                "linear algebra on the base's vectors does better than this training."
            ),
        ),
        (
            "base",
            [0.01, -0.02, 0.04],
            (
                "It is not clearly better than the best rival that costs nothing (the base itself): +1.0 points, 95 % "
                "interval -2.0 to +4.0."
            ),
        ),
        ("CCA", None, None),
    ],
)
def test_the_best_rival_that_costs_nothing_is_beaten_only_clear_of_zero(
    best: str, ahead: list[float] | None, said: str | None
) -> None:
    rival = RivalRecord(how="", reached={"recall@5": 0.613}, adapted_ahead={"recall@5": ahead} if ahead else {})
    models = {"base": rival, "CCA": rival, "adapted": rival}
    rivals = RivalsRecord(chosen_by="recall@5", fitted_on=9, best={"recall@5": best}, models=models)
    assert rivals_words(rivals, "recall@5") == said
    assert rivals_words(rivals, "mrr") is None
