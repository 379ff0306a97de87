"""What a ramp and probes of learning rates say: where training broke, which rates to try, and which is recommended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

AT_REST = 5
"""First steps of the ramp, up to a rate of 7e-7: what differs between them is noise."""

AT_CHANCE = 3
"""Steps in a row at chance, or without most of the directions, that end the ramp."""

NEARLY = 0.95
"""Share of the best rate's gain that makes a lesser rate as good, which is the safer one over a longer training."""

HALF_DECADES = tuple(float(f"{digit}e{power}") for power in range(-8, 1) for digit in (1, 3))

Told = Literal["learns", "unclear", "worse", "above chance", "collapses", "diverges"]


@dataclass(frozen=True, slots=True)
class RampStep:
    """One step of the ramp: its rate, loss of its batch, moving average up to it; what chance would reach; its rank."""

    lr: float
    loss: float
    smoothed: float
    chance: float | None = None
    effective_rank: float | None = None

    @property
    def is_at_chance(self) -> bool:
        """Whether the moving average is what a model reaches that tells nothing apart."""
        return self.chance is not None and abs(self.smoothed - self.chance) < 0.02 * self.chance

    @property
    def is_near_chance(self) -> bool:
        """Whether the loss of its own batch is nearly that."""
        return self.chance is not None and abs(self.loss - self.chance) < 0.1 * self.chance


@dataclass(frozen=True, slots=True)
class Probe:
    """One short training.

    Attributes:
        lr: its peak rate.
        told: ``learns`` when the loss fell credibly, and below chance; ``above chance`` when it fell, but not so far;
            ``unclear`` within noise.
        loss: mean over the held batches after it; None where it diverged.
        gain: by how much that is below the start or below chance, whichever is less.
        error: standard error of the gain over the held batches.
        effective_rank: mean over the held batches; None without an embedding space.
    """

    lr: float
    told: Told
    loss: float | None = None
    gain: float | None = None
    error: float | None = None
    effective_rank: float | None = None


def broke(ramp: list[RampStep], at_start: np.ndarray, min_share: float) -> float | None:
    """The rate from which on a ramp only lost: what it had gained, all but chance, or its directions.

    None while there is no such rate. Moving averages are late, so the rate lies before the last step.
    """
    if len(ramp) <= AT_REST:
        return None
    found = [_lost_gain(ramp, at_start), _fell_to_chance(ramp), _collapsed(ramp, min_share)]
    return min((lr for lr in found if lr is not None), default=None)


def _lost_gain(ramp: list[RampStep], at_start: np.ndarray) -> float | None:
    """The moving average lost all that it had gained, and more than noise explains."""
    resting = [step.loss for step in ramp[:AT_REST]]
    noise = 4 * max(float(np.std(resting)), float(np.std(at_start)))
    lowest = min(ramp, key=lambda step: step.smoothed)
    gained = float(np.mean(resting)) - lowest.smoothed
    if ramp[-1].smoothed - lowest.smoothed <= max(noise, gained):
        return None
    return lowest.lr if gained > noise else ramp[-1].lr


def _fell_to_chance(ramp: list[RampStep]) -> float | None:
    """The moving average came from elsewhere and rests at chance."""
    if any(step.is_at_chance for step in ramp[:AT_REST]) or not all(step.is_at_chance for step in ramp[-AT_CHANCE:]):
        return None
    return next((step.lr for step in reversed(ramp) if not step.is_near_chance), ramp[-1].lr)


def _collapsed(ramp: list[RampStep], min_share: float) -> float | None:
    """Several batches in a row lack most of the directions of the first; half of what it takes began it."""
    if any(step.effective_rank is None for step in ramp):
        return None
    shares = [(step.effective_rank or 0.0) / (ramp[0].effective_rank or 1.0) for step in ramp]
    if max(shares[-AT_CHANCE:]) >= min_share:
        return None
    healthy = [step.lr for step, share in zip(ramp, shares, strict=True) if share >= (1 + min_share) / 2]
    return healthy[-1] if healthy else ramp[0].lr


def candidates(asked: float, broke_at: float) -> list[float]:
    """The rate asked for, and the greatest four of two in each decade that are at most half of the one that broke."""
    below = [lr for lr in HALF_DECADES if lr <= broke_at / 2][-4:]
    return sorted({asked, *(lr for lr in below if not _is_near(lr, asked))})


def beyond(probes: list[Probe]) -> float | None:
    """The next rate to try: beside the best where no neighbour was tried, or below rates that are all too great."""
    least = min(probes, key=lambda probe: probe.lr)
    if (best := _best(probes)) is None:
        is_too_great = least.told in ("diverges", "collapses", "worse")
        return max((lr for lr in HALF_DECADES if lr < least.lr / 1.3), default=None) if is_too_great else None
    below = [lr for lr in HALF_DECADES if lr < best.lr / 1.3][-1:]
    above = [lr for lr in HALF_DECADES if lr > best.lr * 1.3][:1]
    sides = [(lr, 0.0, best.lr) for lr in below] + [(lr, best.lr, math.inf) for lr in above]
    for lr, low, high in sides:
        tried = [probe.lr for probe in probes if low < probe.lr < high]
        if not any(lr / 1.3 <= one if high == best.lr else one <= lr * 1.3 for one in tried):
            return lr
    return None


def recommended(probes: list[Probe]) -> float | None:
    """The least rate that learns nearly as much as the best; None where none learns."""
    gains = {probe.lr: probe.gain for probe in probes if probe.told == "learns" and probe.gain is not None}
    return min((lr for lr, gain in gains.items() if gain >= NEARLY * max(gains.values())), default=None)


def _best(probes: list[Probe]) -> Probe | None:
    learned = [(probe.loss, probe.lr, probe) for probe in probes if probe.told == "learns" and probe.loss is not None]
    return min(learned)[2] if learned else None


def _is_near(one: float, other: float) -> bool:
    return abs(math.log(one / other)) < math.log(1.3)
