"""The parts of a sweep's record: its cells, what they say together, their learning rates and their adapters."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from vectoruniverse.errors import ConfigError
from vectoruniverse.metrics.intervals import Interval
from vectoruniverse.report.sweep.values import Values, cell_title
from vectoruniverse.runs.records import Part, RivalsRecord

REMEDY = "give the folder that vu sweep or vu sweep-rank made; the sweep's command, run again, writes it anew"


class CurvePoint(Part):
    """The metric on the evaluated rows after an epoch."""

    epoch: int
    step: int = 0
    value: float


class Tower(Part):
    """All updates of a tower, an ``adapters.svd.TowerSpectrum``."""

    effective_rank: float
    energy: list[float]


class CellRecord(Part):
    """One value with one seed; from ``data`` on, what only a finished cell has.

    Attributes:
        fold: which fold is its test part, counted from 0; None without folds.
        settings: what was tried or chosen for this cell beside its value, such as its learning rate.
        state: pending, running, finished, failed, stopped or interrupted.
        path: of the run, from the sweep's folder.
        data: fingerprint.
        metrics, intervals, trained_parameters, best_epoch, epoch, has_space, adapter: as in ``EvaluationRecord``.
        rank, alpha, scale: of LoRA.
        val: the metric on the validation rows, which choose among cells; None where those are reported.
        epochs: that were asked for.
        seconds, step_seconds: of the whole cell and of its training steps, of all its processes.
        effective_rank: of the embeddings.
        spectrum: of both towers' embeddings, shares of the eigenvalues, descending.
    """

    renamed: ClassVar[dict[str, str]] = {"judges_space": "has_space"}

    values: dict[str, Any]
    seed: int
    fold: int | None = None
    settings: dict[str, Any] = Field({})
    name: str
    state: str
    message: str | None = None
    run: str | None = None
    path: str | None = None
    data: str = ""
    metrics: dict[str, float] = Field({})
    val: float | None = None
    intervals: dict[str, dict[str, list[float]]] = Field({})
    trained_parameters: int | None = None
    rank: int | None = None
    alpha: float | None = None
    scale: float | None = None
    best_epoch: int | None = None
    epoch: int | None = None
    has_space: bool = True
    epochs: int | None = None
    seconds: float | None = None
    step_seconds: float | None = None
    peak_memory_bytes: int | None = None
    effective_rank: float | None = None
    adapter: dict[str, Tower] | None = None
    spectrum: list[float] = Field([])
    curve: list[CurvePoint] = Field([])

    @property
    def kept(self) -> int | None:
        """Epoch of the kept weights."""
        return self.best_epoch if self.epoch is None else self.epoch

    @property
    def title(self) -> str:
        """For people, such as ``rank 4, seed 0``."""
        return cell_title(self.values, self.seed, self.fold)


class Value(Part):
    """Statistics of one value, over seeds and queries; see ``metrics.sweeps.ValueSummary``.

    ``val`` is the mean over seeds on the validation rows, optimistic where they choose; None where they are reported.
    """

    values: dict[str, Any]
    mean: Interval
    gain: Interval
    shortfall: Interval
    seed_spread: float | None
    val: float | None = None
    trained_parameters: int | None = None
    seconds: float | None = None
    peak_memory_bytes: float | None = None


class Statistics(Part):
    """All values, evaluated on the same queries with the same seeds; see ``metrics.sweeps.SweepSummary``.

    Attributes:
        groups: how many are drawn; fewer than ``queries`` where some are drawn together.
        left_out: values and seed of cells whose seed not every value has.
        ordered: whether values are numbers of one key.
        chosen_on: part of the rows that picked ``best``: ``val``, or the reported ones, which makes it optimistic.
        answer: all of it in sentences.
    """

    metric: str
    level: float
    queries: int
    groups: int | None = None
    seeds: list[int]
    left_out: list[tuple[dict[str, Any], int]] = Field([])
    base: Interval
    ordered: bool = True
    chosen_on: str | None = None
    values: list[Value]
    best: dict[str, Any]
    smallest_not_worse: dict[str, Any] | None
    answer: str


class Choice(Part):
    """The learning rate that validation rows chose for a value; ``at_edge``: a rate beside it has not been tried."""

    values: dict[str, Any]
    fold: int | None = None
    rate: float
    at_edge: bool = False


class RateSearch(Part):
    """How each value came to its own learning rate; see ``sweep.rates``.

    Attributes:
        asked: ``auto``, or the rates that were named.
        own: the experiment's.
        short, long: epochs of a trial in the first round and the second; equal where there was one.
        cost: epochs of all trials and cells of LoRA as a multiple of those at one rate.
        choices: for each value.
        trials: short runs with ``settings`` ``train.lr`` and ``train.epochs``, of the first seed.
    """

    asked: str
    own: float
    short: int
    long: int
    cost: float | None = None
    choices: list[Choice] = Field([])
    trials: list[CellRecord] = Field([])

    def chosen(self, values: Values, fold: int | None = None) -> Choice | None:
        """The choice for a value, once there is one."""
        return next((one for one in self.choices if (one.values, one.fold) == (values, fold)), None)


class Beside(Part):
    """A model that is no value of the sweep, beside one that is, over the same queries and seeds.

    Attributes:
        values: what it is: ``adapter.method: full``, or ``adapter.rank_pattern``.
        reference: the value that it is compared with.
        difference: its mean above the reference's.
        val: its mean on the validation rows.
    """

    values: dict[str, Any]
    reference: dict[str, Any]
    seeds: list[int]
    mean: Interval
    difference: Interval
    val: float | None = None


class BestRivals(Part):
    """The rivals that cost nothing beside the best value with one seed, as that run tells them."""

    run: str
    seed: int
    rivals: RivalsRecord


class Pattern(Part):
    """Ranks by layer at the cost of a uniform ``rank``, from the singular values of the adapter of ``run``."""

    run: str
    rank: int
    rank_pattern: dict[str, int]


class NotComparable(Part):
    """Why there are no statistics."""

    reason: str


class Layer(Part):
    """One adapted layer's update; ``parameters_per_rank``: what a direction costs, 0 where that is not known."""

    singular_values: list[float]
    effective_rank: float
    parameters_per_rank: int = 0


class Cut(Part):
    """The largest adapter cut to a lower rank, and its paired difference from the run that was trained at it, if any.

    The intervals of an adapter's differences hold at once. The metric stands under its own name.
    """

    rank: int
    minus_trained: Interval | None

    def score(self, metric: str) -> float:
        """Estimate of the metric."""
        found = (self.model_extra or {}).get(metric)
        if not isinstance(found, list | tuple) or not found or not isinstance(found[0], int | float):
            raise ConfigError(f"the truncation to rank {self.rank} lacks {metric}", remedy=REMEDY)
        return float(found[0])


class AdapterRecord(Part):
    """What the adapter of the largest rank says with one seed, beside runs (by rank) of the same seed."""

    run: str = ""
    seed: int
    rank: int
    metric: str
    layers: dict[str, Layer]
    towers: dict[str, Tower]
    truncated: list[Cut]
    compared_with: dict[str, str] = Field({})


class Data(Part):
    """What all cells were trained and evaluated on.

    Attributes:
        fingerprint: None where cells differ in it.
        rows: evaluated; None before any cell is done.
        split: part of the rows that cells report: ``test``, or ``val`` where there are no test rows.
        evaluated_on: ``held-out``, or ``training`` where a cell learned from the rows that it is evaluated on.
    """

    renamed: ClassVar[dict[str, str]] = {"judged": "evaluated_on"}

    root: str
    fingerprint: str | None
    rows: int | None
    split: str = "val"
    evaluated_on: str | None = None


class Base(Part):
    """The model before training; spectra of image, text, both: shares of the eigenvalues, descending."""

    metrics: dict[str, float]
    spectra: dict[str, list[float]] = Field({})


class Timing(Part):
    """Where the time of the last call that trained went; evaluations are those between steps, the last is a share."""

    cells: int
    seconds: float
    step_seconds: float
    evaluation_seconds: float = 0.0
    analysis_seconds: float = 0.0
    outside_steps: float
