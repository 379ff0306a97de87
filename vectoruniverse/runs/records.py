"""What the JSON files of a run hold: ``state.json``, ``environment.json`` and ``evaluation.json``.

Beside them stand ``base.json`` (``runs.base_record``), ``rows.json`` (``tasks.recorded_rows``) and, in each checkpoint,
its manifest, its pointers and the trainer's state (``training.checkpoint``, ``training.position``).

A run made by an earlier version still opens: what it does not tell has a default.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from vectoruniverse.runs.files import Record
from vectoruniverse.runs.label_records import LabelsRecord


def finite(value: object) -> float | None:
    """The value as a float; None where it is no number, or none that a float can be."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


# one damaged fact must hide neither the others nor the run itself from a list
Text = Annotated[str | None, PlainValidator(_text)]
Whole = Annotated[int | None, PlainValidator(_whole)]
Number = Annotated[float | None, PlainValidator(finite)]


class RunState(Record):
    """How a run fares; what is damaged or not known is None.

    Attributes:
        state: a ``State``, or what another version wrote.
        started, resumed, ended: UTC, ISO 8601; of the first process, the last one after it, and the last that ended.
        pid, process, host: the last process, see ``runs.process``.
        metric: name of the monitored metric.
        best: its best value.
        epoch: epoch of the kept checkpoint.
        epochs: epochs that were asked for.
        message: why the run ended so.
        seconds, step_seconds, evaluation_seconds: wall-clock time of all processes of the run, of these in training
            steps, and in evaluations between them; of a process that finished, until the model was evaluated, without
            writing the report; of one that was killed, up to its last checkpoint.
        device: where and in which format it computed.
        peak_memory_bytes: of the last process.
        threads: how many computed; every process of the run takes as many.
    """

    version: Whole = 1
    state: Text = None
    started: Text = None
    resumed: Text = None
    ended: Text = None
    pid: Whole = None
    process: Whole = None
    host: Text = None
    metric: Text = None
    best: Number = None
    epoch: Whole = None
    epochs: Whole = None
    message: Text = None
    seconds: Number = None
    step_seconds: Number = None
    evaluation_seconds: Number = None
    device: Text = None
    peak_memory_bytes: Whole = None
    threads: Whole = None

    @model_validator(mode="before")
    @classmethod
    def _keep_scalars(cls, values: Any) -> Any:
        """Of facts that this version does not know, those that can be written again."""
        return {key: value for key, value in values.items() if key in cls.model_fields or _is_scalar(value)}


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | bool) or finite(value) is not None


class PrecisionRecord(Record):
    """What ``train.precision: auto`` became, and why.

    Attributes:
        device: kind of device that it was measured on.
        chosen: format.
        usual: format of such a device, which is taken unless another is faster beyond noise.
        seconds: format → median time of a block of the model, forward and backward; empty where there was no choice.
        rounds: how many passes were timed in each format, in turns.
        block: sizes of that block, and the rows and tokens of a pass.
    """

    device: str
    chosen: str
    usual: str
    seconds: dict[str, float] = Field({})
    rounds: int = 0
    block: dict[str, int | str] = Field({})

    @property
    def words(self) -> str:
        """The choice and its figures in a line, such as ``fp32: 4.1 ms a block, bf16 5.9 ms``."""
        if not self.seconds:
            return f"{self.chosen}, the usual format of {self.device}"
        others = [f"{name} {1e3 * took:.1f} ms" for name, took in self.seconds.items() if name != self.chosen]
        return ", ".join([f"{self.chosen}: {1e3 * self.seconds[self.chosen]:.1f} ms a block", *others])


class Environment(Record):
    """What a run ran on; of its variables and arguments none that holds a secret.

    Attributes:
        packages: versions, by name.
        cpu: ``name`` and ``count``.
        cuda: ``version`` and ``devices``, each with ``name``, ``capability`` and ``memory_bytes``.
        git: ``commit`` of a checkout, and whether tracked files are ``changed``; None outside of one.
        precision: what ``train.precision: auto`` became; None where a format was named.
    """

    python: str
    platform: str
    packages: dict[str, str]
    cpu: dict[str, str | int | None]
    cuda: dict[str, Any]
    git: dict[str, str | bool] | None
    command: list[str]
    variables: dict[str, str]
    precision: PrecisionRecord | None = None


class Part(Record):
    """Base of a part of a record; a fact that nobody told does not stand in the file."""

    @model_serializer(mode="wrap")
    def _told(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if key in self.model_fields_set}


class Estimate(NamedTuple):
    """A number and its interval, as ``metrics.intervals.Interval`` has them."""

    estimate: float
    low: float
    high: float


class Kept(Part):
    """Both sides at one adapter scale, from 0 (the base) to 1.

    Attributes:
        new, old: the metric on the new rows and on those that the base knew.
        new_change, old_change: by how much it differs from the base's, paired row by row.
        new_share: of the best along the path.
        old_share: of the base's, at most 1; 1 where the base had nothing to lose.
        kept: harmonic mean of both shares.
    """

    scale: float
    new: Estimate
    old: Estimate
    new_change: Estimate | None = None
    old_change: Estimate | None = None
    new_share: float
    old_share: float
    kept: float = 0.0


class ForgettingRecord(Part):
    """What a run gained on the new rows and lost on those that the base knew, along its adapter's scale.

    ``run``, ``values`` and ``seed`` tell which cell of a sweep it is of, ``rows_chosen`` is the experiment's
    ``forgetting``, ``rule`` tells how ``best_scale`` was chosen, and ``kept_scale`` is that of the saved adapter.
    ``intruders`` counts the new top directions of the adapted weights at scale 1 (None without LoRA), and
    ``without_intruders`` tells both sides with their singular values set to 0, where there are any.
    """

    run: str = ""
    values: dict[str, Any] = Field({})
    seed: int = 0
    rows_chosen: dict[str, Any] = Field({})
    metric: str
    new_rows: int
    old_rows: int
    curve: list[Kept]
    best_scale: float
    kept_scale: float = 1.0
    intruders: int | None = None
    without_intruders: Kept | None = None
    rule: str


class BlendRecord(Part):
    """The scale between base (0) and adapted model (1) whose model is kept.

    Attributes:
        scale: the chosen one.
        split: the rows that chose it.
        metric: of which the curve tells.
        curve: at each ``scale`` the metric on the ``new`` rows and, where the base is known to know some, ``old`` ones.
        rule: how it was chosen.
    """

    scale: float
    split: str
    metric: str
    curve: list[dict[str, float]]
    rule: str


class RivalRecord(Record):
    """A model beside others on the same rows.

    Attributes:
        how: what was chosen of it, in words.
        reached: its metrics.
        adapted_ahead: metric → by how much the adapted model stands ahead of it, as [estimate, low, high].
    """

    how: str
    reached: dict[str, float]
    adapted_ahead: dict[str, Annotated[list[float], Field(min_length=3, max_length=3)]] = Field(default_factory=dict)


class RivalsRecord(Record):
    """The base, its rivals that cost nothing, and the adapted model on the same rows.

    Attributes:
        chosen_by: the metric that chose what a map of the space does.
        fitted_on: number of training rows that the rivals were fitted on.
        best: metric → the rival, or ``base``, that came first on the rows that choose.
        models: by name, ``base`` first and ``adapted`` last.
        at_once: whether the intervals of all leads in a metric hold at once; if not, each by itself.
    """

    chosen_by: str
    fitted_on: int
    best: dict[str, str]
    models: dict[str, RivalRecord]
    at_once: bool = False


def _bounded(intervals: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    lengths = {"base": 2, "adapted": 2, "difference": 3}
    if any(len(bounds) != lengths.get(name, len(bounds)) for one in intervals.values() for name, bounds in one.items()):
        raise ValueError("an interval is not [low, high], or a difference not [estimate, low, high]")
    return intervals


Intervals = Annotated[dict[str, dict[str, list[float]]], AfterValidator(_bounded)]


class Selection(Record):
    """The kept checkpoint beside its base on the rows that picked it, where others are reported.

    These numbers are optimistic: of several epochs the luckiest on these rows is kept.

    Attributes:
        split: ``val``.
        rows: number of rows.
        base, adapted: metrics of the two models.
        intervals: as of ``EvaluationRecord``.
    """

    split: str
    rows: int
    base: dict[str, float] = Field(default_factory=dict)
    adapted: dict[str, float]
    intervals: Intervals = Field(default_factory=dict)


class EvaluationRecord(Record):
    """The kept checkpoint beside its base, on the rows that are reported.

    Attributes:
        split: ``test``; ``val`` where there are no test rows; ``train``, or ``all`` of other data.
        evaluated_on: ``held-out``, or ``training`` where the model learned from the evaluated rows.
        rows: number of rows evaluated.
        rows_gone: how many of the run's rows were not there any more.
        data: fingerprint of the data.
        experiment: fingerprint of the settings.
        monitor: the metric that picked the checkpoint.
        best_epoch: epoch that reached the most.
        epoch: epoch of the kept checkpoint; None in records that do not tell them apart.
        has_space: whether the task has a space to speak about.
        trained_parameters: number of parameters that were trained.
        adapter: what LoRA says of itself, by tower; None without LoRA.
        base, adapted: metrics of the two models.
        intervals: metric → ``base`` and ``adapted`` as [low, high], ``difference`` as [estimate, low, high].
        intervals_drawn_by: what the rows have in common that count as one draw: a column, ``picture``,
            ``text`` or ``document``; ``row`` where it drew each alone.
        spectra: ``base`` and ``adapted`` → embedded inputs → singular values.
        blend: which scale of the adapter is kept; None where it is kept as it was trained.
        forgetting: what was gained and lost along the adapter's scale, where the experiment says what the base knew.
        rivals: what costs nothing beside the adapted model; None where nobody asked, or the task has none.
        labels: how well the labels of the rows were predicted; None where there are none.
        picked: whether the rows of ``val`` picked the epoch that is kept, or when training stopped.
        selection: the same models on the rows that picked the checkpoint; None where those are the reported ones.
    """

    renamed: ClassVar[dict[str, str]] = {"judged": "evaluated_on", "judges_space": "has_space"}

    version: Literal[1] = 1
    split: str
    evaluated_on: str = "held-out"
    rows: int
    rows_gone: int = 0
    data: str
    experiment: str = ""
    monitor: str
    best_epoch: int
    epoch: int | None = None
    has_space: bool = True
    trained_parameters: int | None = None
    adapter: dict[str, Any] | None = None
    base: dict[str, float] = Field(default_factory=dict)
    adapted: dict[str, float]
    intervals: Intervals = Field(default_factory=dict)
    intervals_drawn_by: str = "row"
    spectra: dict[str, dict[str, list[float]]] = Field(default_factory=dict)
    blend: BlendRecord | None = None
    forgetting: ForgettingRecord | None = None
    rivals: RivalsRecord | None = None
    labels: LabelsRecord | None = None
    picked: bool = True
    selection: Selection | None = None

    @property
    def rows_are(self) -> str:
        """What a person calls the rows."""
        return "test" if self.split == "test" else self.evaluated_on

    @property
    def kept(self) -> int:
        """Epoch of the kept checkpoint, whose numbers these are."""
        return self.best_epoch if self.epoch is None else self.epoch
