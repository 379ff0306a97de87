"""Which learning rate learns: a ramp finds where training breaks, then short probes compare the rates below.

The learning-rate range test (arXiv:1506.01186) multiplies the rate at every step. With contrastive losses and small
batches its loss is too noisy to choose by, since every step has other rows; but where it breaks is plain. The rates
below are then compared by probes: trainings of equal length, from the same start, over the same batches, with the loss
of training rows that no probe learns from, always in the same batches, so that differences are paired. Rows that the
experiment holds out are not touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice

import numpy as np
import torch

from vectoruniverse.errors import DataError, DivergedError
from vectoruniverse.metrics.geometry import effective_rank
from vectoruniverse.training.batches import batches
from vectoruniverse.training.loop import Trainer
from vectoruniverse.training.optim import Schedule, cosine
from vectoruniverse.training.position import restore_parameters
from vectoruniverse.training.rate_rules import Probe, RampStep, Told, beyond, broke, candidates, recommended
from vectoruniverse.training.task import StepLoss, Task

RAMP_FROM, RAMP_TO, RAMP_STEPS = 1e-7, 1.0, 36
PROBE_STEPS = 20
WARM_UP = 0.1
"""Share of a probe's steps; then one cosine down to 0, as a whole training has it."""

SMOOTHING = 0.7
"""Weight of what was, in the moving averages over the ramp."""
HELD_BATCHES, HELD_ROWS = 4, 256
"""What the probes are compared on: so many batches, more of small ones, and at most a quarter of the rows."""
FEWEST_ROWS = 16
CERTAIN = 2.0
"""Standard errors that a mean over so few batches must be away from 0."""
MATTERS = 0.01
"""Share of the loss that a gain must reach to be worth the name, however certain it is."""
MOST_FURTHER = 3
"""Probes beyond the first ones, where the best rate is the least or the greatest of them."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured.

    Attributes:
        asked: the rate in the experiment.
        recommended: the least rate that gains nearly as much as the best one; None where none learns.
        broke_at: rate at which the ramp stopped, since the loss rose or the space collapsed; None: it never did.
        start: mean loss of the held batches before the first step.
        chance: their loss for a model that tells no row from another; None where nobody knows it.
        start_rank: their mean effective rank before the first step.
        probes: by rate.
        ramp: its steps.
        steps: updates of each probe.
        held_rows, held_batches: what probes are compared on.
        updates: made in all, and forgotten.
    """

    asked: float
    recommended: float | None
    broke_at: float | None
    start: float
    chance: float | None
    start_rank: float | None
    probes: list[Probe]
    ramp: list[RampStep]
    steps: int
    held_rows: int
    held_batches: int
    updates: int


@dataclass(slots=True)
class _Held:
    """Losses (K,) and effective ranks (K,) of the held batches, and what chance would reach."""

    losses: np.ndarray
    ranks: np.ndarray | None
    chances: np.ndarray | None

    @property
    def rank(self) -> float | None:
        return None if self.ranks is None else float(self.ranks.mean())

    @property
    def to_beat(self) -> np.ndarray:
        """A loss above chance that falls to it has learned nothing: a collapsed space reaches chance."""
        return self.losses if self.chances is None else np.minimum(self.losses, self.chances)


@dataclass(slots=True)
class LrFinder:
    """The ramp and the probes; afterwards every trained parameter has its first value again.

    Attributes:
        task: what is learned.
        build: a new trainer, with an optimizer of its own, for a schedule; it logs the effective rank of every step.
            Its strata are dealt out as in training; what it mines for batches is not, as that encodes all rows.
        batch_size: most rows of a batch.
        seed: of the order of rows, and of dropout.
        min_share: a space with less than this share of its first effective rank has collapsed.
        tell: is told the updates done, how many there will be, and what is going on.
    """

    task: Task
    build: Callable[[Schedule], Trainer]
    batch_size: int
    seed: int
    min_share: float
    tell: Callable[[int, int, str], None]
    done: int = 0
    total: int = 0
    _held: list[np.ndarray] = field(default_factory=list)
    _rest: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    _first: dict[str, torch.Tensor] = field(default_factory=dict)

    def find(self, asked: float, steps: int = PROBE_STEPS) -> Rates:
        """Measure; ``asked`` is always among the probes, each of so many ``steps``.

        Raises:
            DataError: there are too few training rows to set some of them apart.
        """
        self._held, self._rest = divide(self.task.train_rows, self.batch_size, self.seed)
        self._first = {name: p.detach().clone() for name, p in self.task.trained().items()}
        for module in self.task.modules():
            module.train()
        self.total = RAMP_STEPS + steps * 5
        try:
            start = self._evaluate()
            ramp, broke_at = self._ramp(start)
            probes = self._probes(asked, steps, start, broke_at)
        finally:
            self._restore()
        return Rates(
            asked, recommended(probes), broke_at, float(start.losses.mean()),
            None if start.chances is None else float(start.chances.mean()), start.rank,
            probes, ramp, steps, sum(map(len, self._held)), len(self._held), self.done,
        )  # fmt: skip

    def _ramp(self, start: _Held) -> tuple[list[RampStep], float | None]:
        """Multiply the rate at every step, until training breaks; the rate at which it did."""
        factor = (RAMP_TO / RAMP_FROM) ** (1 / (RAMP_STEPS - 1))
        trainer = self.build(lambda step: RAMP_FROM * factor**step)
        ramp: list[RampStep] = []
        average = 0.0
        for step, (rows, epoch) in enumerate(islice(self._batches(trainer), RAMP_STEPS)):
            lr = trainer.schedule(step)
            try:
                values = self._update(trainer, rows, epoch, f"ramp: lr {lr:.1e}")
            except DivergedError:
                return ramp, lr
            weight = 1 - SMOOTHING ** (step + 1)  # of averages that began at 0
            average = SMOOTHING * average + (1 - SMOOTHING) * values["loss"]
            logged = (values.get("chance"), values.get("effective_rank"))
            ramp.append(RampStep(lr, values["loss"], average / weight, *logged))
            if (at := broke(ramp, start.losses, self.min_share)) is not None:
                return ramp, at
        return ramp, None

    def _probes(self, asked: float, steps: int, start: _Held, broke_at: float | None) -> list[Probe]:
        """The rates below where the ramp broke, and further ones while the best is at an end of those tried."""
        rates = candidates(asked, broke_at or RAMP_TO)
        self.total = self.done + steps * len(rates)
        probes = {lr: self._probe(lr, steps, start) for lr in rates}
        for _ in range(MOST_FURTHER):
            further = beyond(list(probes.values()))
            if further is None:
                break
            self.total = self.done + steps
            probes[further] = self._probe(further, steps, start)
        return [probes[lr] for lr in sorted(probes)]

    def _probe(self, lr: float, steps: int, start: _Held) -> Probe:
        """A whole small training at one rate, from the first parameters."""
        self._restore()
        trainer = self.build(cosine(peak=lr, steps=steps, warmup=WARM_UP, final=0.0))
        try:
            for rows, epoch in islice(self._batches(trainer), steps):
                self._update(trainer, rows, epoch, f"probe: lr {lr:.1e}")
        except DivergedError:
            return Probe(lr, "diverges")
        found = self._evaluate()
        if not np.isfinite(found.losses).all():
            return Probe(lr, "diverges")
        gains = start.to_beat - found.losses
        gain, error = float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains)))
        told = self._told(found, start, gain, error)
        return Probe(lr, told, float(found.losses.mean()), gain, error, found.rank)

    def _told(self, found: _Held, start: _Held, gain: float, error: float) -> Told:
        """What a probe's losses and effective ranks say."""
        if found.rank is not None and start.rank is not None and found.rank < self.min_share * start.rank:
            return "collapses"
        if gain > max(CERTAIN * error, MATTERS * abs(float(start.to_beat.mean()))):
            return "learns"
        falls = start.losses - found.losses
        if found.chances is not None and found.losses.mean() > found.chances.mean() and _is_certain(falls):
            return "above chance"
        return "worse" if _is_certain(-falls) and -gain > MATTERS * abs(float(start.losses.mean())) else "unclear"

    def _update(self, trainer: Trainer, rows: np.ndarray, epoch: int, what: str) -> dict[str, float]:
        values = trainer.train_step(rows, epoch)
        self.done += 1
        self.tell(self.done, max(self.done, self.total), f"{what}  loss {values['loss']:.3f}")
        return values

    def _batches(self, trainer: Trainer) -> Iterator[tuple[np.ndarray, int]]:
        """Training batches with their epoch, without end; the same for the ramp and every probe."""
        strata = None if trainer.strata is None else trainer.strata.among(self._rest)
        for epoch in count():
            for rows in batches(len(self._rest), self.batch_size, self.seed, epoch, strata):
                yield self._rest[rows], epoch

    def _evaluate(self) -> _Held:
        """The loss of the held batches as the loop computes it, with the same views and dropout every time."""
        found: list[StepLoss] = []
        with torch.no_grad():
            for number, rows in enumerate(self._held):
                torch.manual_seed(self.seed + number)
                found.append(self.task.loss(rows, 0))
        losses = np.array([float(one.total) for one in found])
        ranks = [effective_rank(one.embeddings) for one in found if one.embeddings is not None]
        chances = [float(one.chance) for one in found if one.chance is not None]
        return _Held(losses, np.array(ranks) if ranks else None, np.array(chances) if chances else None)

    def _restore(self) -> None:
        """The first parameters, without gradients: those of a diverged step are not finite."""
        trained = self.task.trained()
        restore_parameters(trained, self._first)
        for parameter in trained.values():
            parameter.grad = None


def divide(rows: int, batch_size: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Positions of the held batches, two at least, and of the rows that are learned from.

    Raises:
        DataError: there are too few.
    """
    if rows < FEWEST_ROWS:
        raise DataError(
            f"{rows} training rows are too few to set some of them apart", remedy=f"give at least {FEWEST_ROWS}"
        )
    order = np.random.default_rng((seed, rows)).permutation(rows)
    held = min(max(HELD_BATCHES * batch_size, HELD_ROWS), rows // 4)
    return np.array_split(order[:held], max(2, math.ceil(held / batch_size))), np.sort(order[held:])


def _is_certain(differences: np.ndarray) -> bool:
    """Whether the mean of paired differences is above 0 by more than their noise."""
    return float(differences.mean()) > CERTAIN * float(differences.std(ddof=1)) / math.sqrt(len(differences))
