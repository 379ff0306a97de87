from __future__ import annotations

import math

import numpy as np
import pytest

from vectoruniverse.report.learning import learning_signs, sign_lines

CHANCE = math.log(64)
FIND, TRAIN = "vu find-lr --config run/config.yaml", "vu train --config run/config.yaml --set"


def history(losses, scores=(), ranks=None, **logged):
    """What a run of these logged losses and of these epochs writes; ``logged`` is in every line of a step."""
    lines = [
        {"step": 10 * i + 1, "train/loss": loss, "train/chance": CHANCE, "train/effective_rank": rank, **logged}
        for i, (loss, rank) in enumerate(zip(losses, ranks or [9.0] * len(losses), strict=True))
    ]
    return lines + [{"step": 10 * i, "epoch": i, "val/recall@5": score} for i, score in enumerate(scores)]


def signs(*args, outcome="unclear", **logged):
    found = learning_signs(history(*args, **logged), config="run/config.yaml", monitor="recall@5", outcome=outcome)
    return [(sign.said, sign.command) for sign in found]


LEARNED = [4.0, 3.5, 3.0, 2.5, 2.2, 2.0]
FLAT = [4.1, 4.2, 4.15, 4.17, 4.16, 4.155]


def test_a_run_that_learned_shows_no_sign():
    assert signs(LEARNED, [0.1, 0.3, 0.5], outcome="better") == []
    assert (
        signs(LEARNED, [0.1, 0.3, 0.5], outcome="better", **{"train/clipped_share": 1.0, "train/grad_norm": 9.0}) == []
    )


def test_a_loss_at_chance_is_named_with_its_mean_and_the_number_of_rows():
    (said, command), *others = signs(FLAT)
    assert said == (
        f"the loss stayed at chance: mean {np.mean(FLAT[3:]):.3f} over the last 3 logged steps; "
        "a model that tells nothing apart has 4.159 (ln 64)"
    )
    assert command == FIND and others == []


def test_a_loss_above_chance_is_told_apart_from_one_at_chance():
    (said, command), *_ = signs([11.0, 10.5, 11.2, 10.9])
    assert said.startswith("the loss stayed above chance: mean 11.050") and command == FIND


@pytest.mark.parametrize("losses", [FLAT[:3], [4.1, 4.0, 3.9, 3.8, 3.7, 3.7]])
def test_of_too_few_steps_and_of_a_loss_below_chance_nothing_is_said(losses):
    assert signs(losses) == []


def test_noise_around_chance_is_no_learning_and_a_small_certain_fall_is_some():
    random = np.random.default_rng(0)
    assert signs(list(CHANCE + 0.3 * random.standard_normal(400)))
    assert not signs(list(CHANCE - 0.15 + 0.3 * random.standard_normal(4000)))


def test_no_gain_on_held_out_rows_is_named_with_both_numbers():
    assert signs(LEARNED, [0.2, 0.15, 0.1, 0.12], outcome="worse") == [
        ("recall@5 gained nothing in 3 epochs: 0.200 before the first, 0.120 after the last", FIND)
    ]
    assert signs(LEARNED, [0.2, 0.23, 0.1, 0.12], outcome="unclear") == [
        ("recall@5 gained nothing beyond noise in 3 epochs: 0.200 before the first, 0.230 at best (epoch 1)", FIND)
    ]
    assert signs(LEARNED, [0.2, 0.23, 0.1], outcome=None) == [], "a run that was stopped may have gained"


def test_epochs_without_a_gain_after_the_best_are_counted():
    said = "recall@5 gained nothing in the last 4 of 6 epochs: 0.500 after epoch 2, 0.400 after the last"
    scores = [0.1, 0.3, 0.5, 0.45, 0.4, 0.4, 0.4]
    assert signs(LEARNED, scores, outcome="better") == [(said, f"{TRAIN} train.epochs=2")]
    assert signs(LEARNED, scores[:5], outcome="better") == []


def test_an_effective_rank_that_falls_is_named_and_of_a_better_run_only_a_collapse():
    fallen, less = [9.0, 6.0, 3.0, 2.0, 2.0, 2.0], [9.0, 8.0, 7.0, 6.0, 6.0, 6.0]
    assert signs(LEARNED, ranks=fallen, outcome="better") == [
        ("the effective rank of batches fell from 9.0 to 2.0", FIND)
    ]
    assert signs(LEARNED, ranks=less) == [("the effective rank of batches fell from 9.0 to 6.0", FIND)]
    assert signs(LEARNED, ranks=less, outcome="better") == []


def test_a_gradient_clipped_at_nearly_every_step_is_named_with_its_share_and_norm():
    logged = {"train/clipped_share": 0.98, "train/grad_norm": 7.1}
    assert signs(LEARNED, **logged) == [
        ("the gradient was clipped at 98% of the steps; its median norm is 7.1", f"{TRAIN} train.clip_grad_norm=7")
    ]
    assert signs(LEARNED, **{**logged, "train/clipped_share": 0.9}) == []


def test_a_logit_scale_at_its_bound_is_named_however_the_run_went():
    ((said, command),) = signs(LEARNED, outcome="better", **{"train/logit_scale": 100.0})
    assert said == "the logit scale stood at its bound of 100 for the last half of the run"
    assert command == f"{TRAIN} adapter.train_logit_scale=false --set loss.temperature=0.02"
    assert signs(LEARNED, outcome="better", **{"train/logit_scale": 60.0}) == []


def test_a_command_that_several_signs_share_is_told_once():
    found = learning_signs(history(FLAT, [0.2, 0.1]), config="run/config.yaml", monitor="recall@5", outcome="worse")
    lines = sign_lines(found)
    assert [FIND in line for line in lines] == [False, True]
    assert len(lines) == 2


def test_numbers_that_are_none_are_left_to_whoever_told_them():
    assert signs(["NaN"] * 6, ranks=["NaN"] * 6) == []
    assert learning_signs([], config="c", monitor="recall@5") == []
