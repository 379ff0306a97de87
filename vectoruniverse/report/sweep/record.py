"""A sweep's record, sweep.json, as its readers need it: checked, typed, and with what pages and figures ask of it.

What its keys mean is told in ``vectoruniverse.sweep.findings``, which writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.report.figures.swept import Swept
from vectoruniverse.runs.files import read_bytes

MAX_BYTES = 256 * 2**20
"""A larger file is no record of ours: ten thousand cells take about 100 MB."""

REMEDY = "give the folder that vu sweep or vu sweep-rank made; the sweep's command, run again, writes it anew"

Values = Mapping[str, Any]
"""Swept key → value."""


class Interval(NamedTuple):
    """An estimate and its confidence interval."""

    estimate: float
    low: float
    high: float


class Part(BaseModel):
    """Base of every part; what this version does not know is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class CurvePoint(Part):
    """The metric on the judged rows after an epoch."""

    epoch: int
    value: float


class Cell(Part):
    """One value with one seed; what only a finished cell has is empty before."""

    values: dict[str, Any]
    seed: int
    name: str
    state: str
    message: str | None = None
    run: str | None = None
    path: str | None = None
    metrics: dict[str, float] = {}
    trained_parameters: int | None = None
    epoch: int | None = Field(None, validation_alias=AliasChoices("epoch", "best_epoch"))
    judges_space: bool = True
    epochs: int | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    curve: list[CurvePoint] = []


class Value(Part):
    """Statistics of one value, over seeds and queries."""

    values: dict[str, Any]
    mean: Interval
    gain: Interval
    shortfall: Interval
    seed_spread: float | None
    trained_parameters: int | None = None
    seconds: float | None = None
    peak_memory_bytes: float | None = None


class Statistics(Part):
    """All values, judged on the same queries with the same seeds."""

    metric: str
    level: float
    queries: int
    groups: int | None = None
    seeds: list[int]
    base: Interval
    values: list[Value]
    best: dict[str, Any]
    smallest_not_worse: dict[str, Any] | None
    answer: str


class NotComparable(Part):
    """Why there are no statistics."""

    reason: str


class Layer(Part):
    """One adapted layer's update."""

    singular_values: list[float]
    effective_rank: float


class Tower(Part):
    """All updates of a tower."""

    effective_rank: float
    energy: list[float]


class Cut(Part):
    """The largest adapter cut to a lower rank; the metric stands under its own name."""

    model_config = ConfigDict(frozen=True, extra="allow")
    rank: int
    minus_trained: Interval | None

    def score(self, metric: str) -> float:
        """Estimate of the metric."""
        found = (self.model_extra or {}).get(metric)
        if not isinstance(found, list) or not found or not isinstance(found[0], int | float):
            raise ConfigError(f"the truncation to rank {self.rank} lacks {metric}", remedy=REMEDY)
        return float(found[0])


class Adapter(Part):
    """What the adapter of the largest rank says with one seed."""

    seed: int
    rank: int
    metric: str
    layers: dict[str, Layer]
    towers: dict[str, Tower]
    truncated: list[Cut]


class Kept(Part):
    """Both sides at one adapter scale."""

    scale: float
    new: Interval
    old: Interval
    new_share: float
    old_share: float


class Forgetting(Part):
    """The ledger of one cell."""

    values: dict[str, Any]
    seed: int
    metric: str
    new_rows: int
    old_rows: int
    curve: list[Kept]
    best_scale: float
    rule: str


class Data(Part):
    """What all cells were trained and judged on."""

    root: str
    fingerprint: str | None
    rows: int | None
    judged: str | None = None


class Base(Part):
    """The model before training."""

    metrics: dict[str, float]


class SweepRecord(Part):
    """The whole of it."""

    name: str
    state: str
    experiment: str
    config: dict[str, Any]
    over: dict[str, list[Any]]
    seeds: list[int]
    alpha: str | None
    metric: str
    data: Data
    base: Base | None
    cells: list[Cell]
    statistics: Statistics | NotComparable | None
    adapters: list[Adapter]
    forgetting: Forgetting | None
    timing: dict[str, float] | None

    @property
    def finished(self) -> list[Cell]:
        """Cells that are done."""
        return [cell for cell in self.cells if cell.state == "finished"]

    @property
    def judges_space(self) -> bool:
        """Whether the task has a space to judge."""
        return any(cell.judges_space for cell in self.finished)

    @property
    def judged(self) -> str:
        """What the judged rows are to the cells: ``held-out``, or ``training``; earlier records are of the former."""
        return self.data.judged or "held-out"

    @property
    def base_metrics(self) -> Mapping[str, float]:
        """Metrics of the base; none where every cell has a base of its own."""
        return self.base.metrics if self.base else {}

    @property
    def swept_name(self) -> str:
        """Last words of the swept keys, such as ``rank``."""
        return ", ".join(key.rpartition(".")[2] for key in self.over)

    def swept(self) -> Swept:
        """The axis of values: the values themselves where one key is swept over numbers, else their order."""
        distinct = self._distinct()
        numbers = [value for values in distinct for value in values.values()]
        ordered = all(len(values) == 1 for values in distinct) and all(map(_is_number, numbers))
        places = [float(number) for number in numbers] if ordered else [float(i) for i in range(len(distinct))]
        labels = {place: label_of(values) for place, values in sorted(zip(places, distinct, strict=True), key=_place)}
        return Swept(self.swept_name, labels, ordered)

    def place(self, values: Values) -> float:
        """Where a value stands on that axis."""
        wanted = label_of(values)
        return next(place for place, label in self.swept().labels.items() if label == wanted)

    def _distinct(self) -> list[Values]:
        found: dict[str, Values] = {}
        for cell in self.cells:
            found.setdefault(label_of(cell.values), cell.values)
        return list(found.values())


def label_of(values: Values) -> str:
    """A value as a tick: ``4``, or ``rank 4, temperature 0.05`` where several keys are swept."""
    if len(values) == 1:
        return _shown(next(iter(values.values())))
    return title_of(values)


def title_of(values: Values) -> str:
    """A value with the last word of its key, such as ``rank 4``."""
    return ", ".join(f"{key.rpartition('.')[2]} {_shown(value)}" for key, value in values.items())


def read_record(file: Path) -> dict[str, Any]:
    """The JSON of a sweep.json.

    Raises:
        ConfigError: it cannot be read, or is no JSON object.
    """
    try:
        record = json.loads(read_bytes(file, limit=MAX_BYTES, remedy=REMEDY))
    except DataError as error:
        raise ConfigError(error.message, file=file, remedy=REMEDY) from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConfigError("is not JSON", file=file, remedy=REMEDY) from error
    if not isinstance(record, dict):
        raise ConfigError("is not the record of a sweep", file=file, remedy=REMEDY)
    return record


def check_record(record: Mapping[str, Any]) -> SweepRecord:
    """The record with its types checked.

    Raises:
        ConfigError: something is missing or of another type; the message names the first such place.
    """
    try:
        return SweepRecord.model_validate(dict(record))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"is no sweep's record: {first['msg'][:200]}", key=key, remedy=REMEDY) from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _place(pair: tuple[float, Values]) -> float:
    return pair[0]


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
