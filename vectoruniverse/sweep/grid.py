"""Which cells a sweep has: values of the swept keys × seeds, each resolved to an experiment of its own.

Everything is checked before the first cell runs, so that a value that cannot be is told at once and not after hours.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from vectoruniverse import __version__
from vectoruniverse.config.loading import NOT_IN_FINGERPRINT
from vectoruniverse.config.problems import OVERRIDE
from vectoruniverse.config.sections import AdapterSettings, Experiment
from vectoruniverse.config.strict_yaml import parse
from vectoruniverse.errors import ConfigError
from vectoruniverse.report.sweep.values import LR, shown
from vectoruniverse.sweep.cells import Cell, as_cell, full_cell, learns_from_known, name_of_cell
from vectoruniverse.sweep.rates import parse_rates
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.identity import describe_base
from vectoruniverse.tasks.same_run import identity
from vectoruniverse.training.precision import in_precision

RANK, ALPHA_KEYS = "adapter.rank", ("adapter.alpha", "adapter.rank_stabilized")
T = TypeVar("T")
MAX_CELLS = 10_000

# a report, a record or an analysis afterwards changes nothing that is learned
_BESIDE = (*NOT_IN_FINGERPRINT, "forgetting", "eval.report")
_NOT_COMPARABLE = (*_BESIDE, "task", "eval.monitor", "eval.recall_at")
_OTHER_BASE = ("data", "model", "revision", "pooling", "shared_encoder", "masking", "next_sentence")


@dataclass(frozen=True, slots=True)
class Over:
    """A swept key and its values, as they would stand in the experiment file."""

    key: str
    values: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class AlphaPolicy:
    """How alpha follows the rank, which decides what a comparison of ranks compares.

    The update is scaled by alpha / rank. ``fixed`` keeps alpha, so that the scale falls as 1 / rank and a higher rank
    also takes smaller steps: rank and learning rate are changed together. ``proportional`` keeps the scale
    (alpha = K · rank), so that directions are added and nothing else changes. ``rank-stabilized`` keeps alpha and
    scales by alpha / √rank (arXiv:2312.03732), under which the update's size neither grows nor falls with the rank.
    ``number`` is K of ``proportional``, else alpha.
    """

    name: Literal["fixed", "proportional", "rank-stabilized"]
    number: float

    def __str__(self) -> str:
        return f"{self.name}:{self.number:g}"

    def overrides(self, rank: int | None) -> list[str]:
        """The settings of alpha at a rank; with None those that are the same at every rank."""
        stabilized = f"adapter.rank_stabilized={'true' if self.name == 'rank-stabilized' else 'false'}"
        if self.name != "proportional":
            return [f"adapter.alpha={self.number!r}", stabilized]
        return [stabilized] if rank is None else [f"adapter.alpha={self.number * rank!r}", stabilized]


@dataclass(frozen=True, slots=True)
class Grid:
    """A sweep as it was asked for.

    Attributes:
        base: the experiment without any swept value.
        over: swept keys with their values.
        seeds: seeds of every value.
        alpha: how alpha follows the rank; None leaves it to the experiment file.
        cells: all combinations, seed by seed, so that an early answer covers all values.
        rates: learning rates that each value chooses from, as ``--lrs`` names them; None: all take the experiment's.
        full: the same in full fine-tuning, a cell for each seed; empty where nobody asked.
        folds: into which the rows are divided, each the test part of cells of its own; None: the experiment's division.
        pattern: whether ranks by layer, as the largest adapter recommends them, are trained too.
    """

    base: Experiment
    over: tuple[Over, ...]
    seeds: tuple[int, ...]
    alpha: AlphaPolicy | None
    cells: tuple[Cell, ...]
    rates: str | None = None
    full: tuple[Cell, ...] = ()
    pattern: bool = False
    folds: int | None = None

    @property
    def one_base(self) -> bool:
        """Whether all cells start from the same model and are evaluated on the same rows."""
        return not any(one.key.split(".")[0] in _OTHER_BASE for one in self.over)

    def in_precision(self, precision: str) -> Grid:
        """The same cells, all in one number format where the experiment file names none."""
        cells, full = (
            tuple(replace(cell, experiment=in_precision(cell.experiment, precision)) for cell in cells)
            for cells in (self.cells, self.full)
        )
        return replace(self, base=in_precision(self.base, precision), cells=cells, full=full)

    def fingerprint(self, data: str) -> str:
        """SHA-256 of what all cells have in common, ``data`` being the data's where they share it, and of the version.

        Not of values and seeds, so that more can be added later.
        """
        settings: dict[str, Any] = self.base.model_dump(mode="json")
        derived = ALPHA_KEYS if self.alpha else ()
        beside = [key for key in _BESIDE if key != "forgetting" or not learns_from_known(self.base)]
        for key in (*beside, "seed", *derived, *(one.key for one in self.over)):
            _drop(settings, key.split("."))
        keys = sorted(one.key for one in self.over)
        record = [settings, keys, str(self.alpha), data if self.one_base else None]
        record += [] if self.rates is None else [self.rates]
        record += [] if self.folds is None else [{"folds": self.folds}]
        record += [{"version": __version__}]
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()

    def asked(self, data: str) -> str | None:
        """SHA-256 of all that is asked for; None where cells have data of their own, which ``data`` does not tell."""
        if not self.one_base:
            return None
        start = identity(self.base, describe_base(self.base))
        cells = [cell.key for cell in (*self.cells, *self.full)]
        record = [self.fingerprint(data), start, cells, self.pattern, self.base.eval.report]
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def make_grid(
    config: str,
    overrides: Sequence[str],
    over: Sequence[Over],
    seeds: Sequence[int],
    alpha: str | None = None,
    *,
    rates: str | None = None,
    full: bool = False,
    pattern: bool = False,
    folds: int | None = None,
) -> Grid:
    """Resolve every cell.

    Args:
        config: the experiment file.
        overrides: ``KEY=VALUE`` for all cells.
        over: swept keys; the last varies fastest.
        seeds: of every value; empty takes the experiment's own.
        alpha: ``fixed``, ``proportional:K`` or ``rank-stabilized`` where the rank is swept; None leaves alpha alone.
        rates: as in ``Grid``; not where the learning rate is itself swept.
        full: whether full fine-tuning is a cell beside.
        pattern: as in ``Grid``.
        folds: as in ``Grid``; with them, no key need be swept.

    Raises:
        ConfigError: a key cannot be swept, is given twice, or a value is not allowed.
    """
    base = load_experiment(config, overrides)
    if over or folds is None:
        _check_keys(over)
    policy = None if alpha is None else alpha_policy(alpha, base.adapter)
    chosen, keys = tuple(seeds) or (base.seed,), [one.key for one in over]
    combinations = [dict(zip(keys, v, strict=True)) for v in itertools.product(*(one.values for one in over))]
    parts = [None] if folds is None else range(folds)
    if (count := len(combinations) * len(chosen) * len(parts)) > MAX_CELLS:
        raise ConfigError(f"{count:,} cells are more than {MAX_CELLS:,}", file="--over")
    every = itertools.product(chosen, [(folds, fold) for fold in parts], combinations)
    cells = [
        _resolve(config, [*overrides, *of_fold(*part)], values, seed, policy, part[1]) for seed, part, values in every
    ]
    if rates is not None:
        parse_rates(rates)
        if any(one.key == LR for one in over):
            raise ConfigError("is swept already", file="--lrs", key=LR, remedy="leave out --lrs, or --over train.lr")
    in_parts = [(load_experiment(config, [*overrides, *of_fold(folds, fold)]), fold) for fold in parts]
    beside = tuple(full_cell(one, seed, fold) for seed in chosen for one, fold in in_parts) if full else ()
    return Grid(base, tuple(over), chosen, policy, tuple(cells), rates, beside, pattern, folds)


def of_fold(folds: int | None, fold: int | None) -> list[str]:
    """The settings that make one of several folds the test part; none without folds."""
    if folds is None:
        return []
    split = {"folds": folds, "fold": fold, "test_fraction": 1 / folds if folds else 0.0}
    return [f"data.split.{key}={value!r}" for key, value in split.items()]


def parse_over(text: str) -> Over:
    """Read ``KEY=VALUE,VALUE,…``; a value that holds a comma stands in quotes or brackets of its own.

    Raises:
        ConfigError: it is not of that form, or a value is given twice.
    """
    key, sign, listed = text.partition("=")
    if not sign or not key.strip() or not listed.strip():
        raise ConfigError(
            f"{text[:60]!r} is not KEY=VALUE,VALUE", file="--over", remedy="as in --over loss.temperature=0.02,0.05"
        )
    try:
        values = parse(f"[{listed}]", "--over").value
    except ConfigError as error:
        remedy = 'a value with , { [ # or : needs quotes, as in --over \'data.text="{title}","{labels}, {title}"\''
        raise ConfigError(error.message, file="--over", key=key.strip(), remedy=remedy) from None
    assert isinstance(values, list)
    return Over(key.strip(), _distinct(values, f"--over {key.strip()}"))


def whole_numbers(text: str | None, option: str) -> tuple[int, ...]:
    """Read ``1,2,4``; nothing where the option is not given.

    Raises:
        ConfigError: something else stands there, or a number is given twice.
    """
    try:
        numbers = [int(part) for part in text.split(",")] if text is not None else []
    except ValueError:
        message = f"{(text or '')[:60]!r} is not a list of whole numbers"
        raise ConfigError(message, file=option, remedy=f"as in {option} 1,2,4") from None
    return _distinct(numbers, option)


def alpha_policy(text: str, adapter: AdapterSettings) -> AlphaPolicy:
    """Read ``auto``, ``fixed``, ``proportional:K`` or ``rank-stabilized``.

    ``auto`` keeps what the experiment file does: its own ratio alpha / rank, or rank-stabilized where it says so.

    Raises:
        ConfigError: it is none of these.
    """
    own = adapter.alpha if adapter.alpha is not None else float(adapter.rank)
    if text == "auto":
        text = "rank-stabilized" if adapter.rank_stabilized else f"proportional:{own / adapter.rank!r}"
    name, _, number = text.partition(":")
    if name == "proportional":
        with contextlib.suppress(ValueError):
            ratio = float(number or "1")
            if math.isfinite(ratio) and ratio > 0:
                return AlphaPolicy("proportional", ratio)
    elif text == "fixed":
        return AlphaPolicy("fixed", own)
    elif text == "rank-stabilized":
        return AlphaPolicy("rank-stabilized", own)
    raise ConfigError(
        f"{text[:60]!r} says not how alpha follows the rank",
        file="--alpha",
        remedy="choose fixed, proportional:K (such as proportional:2) or rank-stabilized",
    )


def _distinct(values: list[T], option: str) -> tuple[T, ...]:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ConfigError(f"{shown(value)} is given twice", file=option, remedy="name each value once")
    return tuple(values)


def _check_keys(over: Sequence[Over]) -> None:
    if not over:
        raise ConfigError("no key to sweep", remedy="as in --over loss.temperature=0.02,0.05,0.1")
    for i, one in enumerate(over):
        if one.key in (other.key for other in over[:i]):
            raise ConfigError("is given twice", file="--over", key=one.key, remedy="list all its values once")
        if one.key == "seed":
            raise ConfigError("seeds have an option of their own", file="--over", key="seed", remedy="--seeds 0,1,2")
        if any(one.key == key or one.key.startswith(f"{key}.") for key in _NOT_COMPARABLE):
            raise ConfigError(
                "changes nothing that is learned, or how cells are compared",
                file="--over",
                key=one.key,
                remedy=f"set it for all cells: --set {one.key}=VALUE",
            )


def _resolve(
    config: str,
    overrides: Sequence[str],
    values: Mapping[str, object],
    seed: int,
    alpha: AlphaPolicy | None,
    fold: int | None,
) -> Cell:
    """The experiment of one cell: its own name, no report, and nothing that only the whole sweep needs."""
    given = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    rank = values.get(RANK)
    # a rank that is no number is told as such by the checks of the file
    follow = alpha.overrides(rank) if alpha is not None and isinstance(rank, int) else []
    try:
        experiment = load_experiment(config, [*overrides, *given, *follow, f"seed={seed}"])
    except ConfigError as error:
        place = "--over" if error.file == OVERRIDE and error.key in values else error.file
        raise ConfigError(error.message, file=place, line=error.line, key=error.key, remedy=error.remedy) from None
    return Cell(values, seed, as_cell(experiment, name_of_cell(experiment.name, values, seed, fold)), fold=fold)


def _drop(settings: dict[str, Any], path: Sequence[str]) -> None:
    """Take a key out, where it is."""
    *sections, key = path
    section: Any = settings
    for name in sections:
        section = section.get(name) if isinstance(section, dict) else None
    if isinstance(section, dict):
        section.pop(key, None)
