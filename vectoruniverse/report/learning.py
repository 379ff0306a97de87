"""Whether a run learned, by what it logged: each sign that it did not, with what was measured and what to try next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vectoruniverse.report.verdict import Outcome
from vectoruniverse.tracking.series import Floats, Record, series

FEWEST_LINES = 4
"""Logged steps below which nothing is said of the loss."""

NEAR_CHANCE = 0.02
"""A mean loss within this share of chance is at chance, however exactly it is known."""

FALLEN = 0.7
"""Of a run that got no better, an effective rank below this share of its first is named."""

COLLAPSED = 0.5
"""Of any run."""

NEARLY_ALL = 0.95
"""Share of the steps."""

SCALE_BOUND = 100.0
"""Of a trained logit scale, as CLIP has it."""

PATIENCE = 3
"""Epochs without a gain, at the end of a run, that are worth a word; and half of all."""


@dataclass(frozen=True, slots=True)
class Sign:
    """Something that speaks against how a run was trained: what was measured, and one command to try."""

    said: str
    command: str


def sign_lines(signs: Sequence[Sign]) -> list[str]:
    """A line for each sign; a command that several have stands in the last of these."""
    last = {sign.command: sign for sign in signs}
    return [f"{sign.said}; try: {sign.command}" if last[sign.command] is sign else sign.said for sign in signs]


def learning_signs(
    history: Sequence[Record], *, config: str, monitor: str, outcome: Outcome | None = None
) -> list[Sign]:
    """The signs that a run did not learn, the weightiest first; none of a run that did.

    Args:
        history: records of ``metrics.jsonl``.
        config: the run's experiment file, as the shell takes it.
        monitor: the metric that picks the best epoch.
        outcome: what became of it on held-out rows; None: not known, as of a run that was stopped.
    """
    find, again = f"vu find-lr --config {config}", f"vu train --config {config} --set"
    found = [
        Sign(said, find)
        for said in (_loss(history, outcome), _rank(history, outcome), _no_gain(history, monitor, outcome))
        if said
    ]
    if _no_gain(history, monitor, outcome) is None:
        found += _stale(history, monitor, again)
    return found + _bounds(history, again, outcome)


def _loss(history: Sequence[Record], outcome: Outcome | None) -> str | None:
    """Loss at chance, or above it, over the last half of the logged steps."""
    lines = [record for record in history if {"train/loss", "train/chance"} <= record.keys()]
    losses, chances = (series(lines, key)[1] for key in ("train/loss", "train/chance"))
    if len(lines) < FEWEST_LINES or outcome == "better":
        return None
    half = len(lines) // 2
    losses, chances = losses[half:], chances[half:]
    above = losses - chances
    noise = max(2 * above.std(ddof=1) / math.sqrt(len(above)), NEAR_CHANCE * chances.mean())
    if not above.mean() >= -noise:  # a loss that is no number is the loop's to tell
        return None
    where = "stayed at" if above.mean() <= noise else "stayed above"
    return (
        f"the loss {where} chance: mean {losses.mean():.3f} over the last {len(lines) - half} logged steps; "
        f"a model that tells nothing apart has {_told_chance(chances)}"
    )


def _told_chance(chances: Floats) -> str:
    """Such as ``4.159 (ln 64)``, where it is the logarithm of a number of rows."""
    chance = float(chances.mean())
    rows = np.rint(np.exp(np.minimum(chances, 20.0)))
    if not np.allclose(chances, np.log(rows), rtol=0, atol=1e-6):
        return f"{chance:.3f}"
    fewest, most = int(rows.min()), int(rows.max())
    return f"{chance:.3f} (ln {fewest}{'' if fewest == most else f' to ln {most}'})"


def _rank(history: Sequence[Record], outcome: Outcome | None) -> str | None:
    """Effective rank of batches, at the end beside the start."""
    _, ranks = series(history, "train/effective_rank")
    ranks = ranks[np.isfinite(ranks)]
    if len(ranks) < FEWEST_LINES:
        return None
    last = float(ranks[-max(1, len(ranks) // 4) :].mean())
    if last >= (COLLAPSED if outcome == "better" else FALLEN) * ranks[0]:
        return None
    return f"the effective rank of batches fell from {ranks[0]:.1f} to {last:.1f}"


def _epochs(history: Sequence[Record], monitor: str) -> tuple[Floats, Floats]:
    """Epochs and the monitored metric, of which more is better."""
    lines = [record for record in history if f"val/{monitor}" in record and "epoch" in record]
    return series(lines, "epoch")[1], series(lines, f"val/{monitor}")[1]


def _no_gain(history: Sequence[Record], monitor: str, outcome: Outcome | None) -> str | None:
    """No epoch better than the base, or none credibly so."""
    epochs, scores = _epochs(history, monitor)
    if len(epochs) < 2 or epochs[0] != 0 or outcome == "better":
        return None
    best = int(np.argmax(scores))
    if outcome is None and best > 0:
        return None
    base, reached = scores[0], scores[best]
    if best == 0:
        return (
            f"{monitor} gained nothing in {epochs[-1]:.0f} epochs: "
            f"{base:.3f} before the first, {scores[-1]:.3f} after the last"
        )
    return (
        f"{monitor} gained nothing beyond noise in {epochs[-1]:.0f} epochs: "
        f"{base:.3f} before the first, {reached:.3f} at best (epoch {epochs[best]:.0f})"
    )


def _stale(history: Sequence[Record], monitor: str, again: str) -> list[Sign]:
    """The best epoch lies far back."""
    epochs, scores = _epochs(history, monitor)
    if len(epochs) < 2:
        return []
    best, last = int(epochs[int(np.argmax(scores))]), int(epochs[-1])
    if best == 0 or last - best < max(PATIENCE, last / 2):
        return []
    said = (
        f"{monitor} gained nothing in the last {last - best} of {last} epochs: "
        f"{scores.max():.3f} after epoch {best}, {scores[-1]:.3f} after the last"
    )
    return [Sign(said, f"{again} train.epochs={best}")]


def _bounds(history: Sequence[Record], again: str, outcome: Outcome | None) -> list[Sign]:
    """A gradient that is clipped at nearly every step, and a logit scale that can grow no more."""
    found = []
    _, shares = series(history, "train/clipped_share")
    _, norms = series(history, "train/grad_norm")
    if len(shares) >= FEWEST_LINES and shares[-1] >= NEARLY_ALL and outcome != "better":
        said = f"the gradient was clipped at {shares[-1]:.0%} of the steps; its median norm is {np.median(norms):.2g}"
        found.append(Sign(said, f"{again} train.clip_grad_norm={float(f'{np.quantile(norms, 0.9):.1g}'):g}"))
    _, scales = series(history, "train/logit_scale")
    if len(scales) >= FEWEST_LINES and (scales[len(scales) // 2 :] >= 0.999 * SCALE_BOUND).all():
        said = f"the logit scale stood at its bound of {SCALE_BOUND:g} for the last half of the run"
        found.append(Sign(said, f"{again} adapter.train_logit_scale=false --set loss.temperature=0.02"))
    return found
