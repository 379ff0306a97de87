"""The tables of a sweep as CSV, with every number in a column of its own; the cells themselves are in sweep.csv."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vectoruniverse.report.page import write_csv
from vectoruniverse.report.sweep.record import Statistics, SweepRecord, label_of

Row = tuple[str | float | None, ...]


def write_tables(sweep: SweepRecord, folder: Path) -> None:
    """Write ``values``, ``curves``, ``layers``, ``truncation`` and ``forgetting`` as .csv, as far as they are known.

    Raises:
        ConfigError: something cannot be written.
        ResourceError: the disk is full.
    """
    for name, columns, rows in _tables(sweep):
        if rows:
            write_csv(folder / f"{name}.csv", columns, rows)


def _tables(sweep: SweepRecord) -> Iterator[tuple[str, tuple[str, ...], list[Row]]]:
    if isinstance(sweep.statistics, Statistics):
        yield "values", *_values(sweep, sweep.statistics)
    curves: list[Row] = [
        (label_of(cell.values), cell.seed, point.epoch, point.value) for cell in sweep.finished for point in cell.curve
    ]
    yield "curves", (sweep.swept_name, "seed", "epoch", sweep.metric), curves
    yield "layers", *_layers(sweep)
    cuts: list[Row] = [
        (adapter.seed, adapter.rank, cut.rank, cut.score(adapter.metric), *(cut.minus_trained or (None,) * 3))
        for adapter in sweep.adapters
        for cut in adapter.truncated
    ]
    yield "truncation", ("seed", "trained at rank", "cut to rank", sweep.metric, *_bounds("minus trained")), cuts
    if sweep.forgetting is not None:
        kept: list[Row] = [
            (one.scale, *one.new, *one.old, one.new_share, one.old_share) for one in sweep.forgetting.curve
        ]
        yield "forgetting", ("scale", *_bounds("new"), *_bounds("old"), "new share", "old share"), kept


def _values(sweep: SweepRecord, statistics: Statistics) -> tuple[tuple[str, ...], list[Row]]:
    columns = (
        *(sweep.swept_name, *_bounds("mean"), *_bounds("gain"), *_bounds("shortfall")),
        *("seed spread", "trained parameters", "seconds", "peak memory bytes"),
    )
    rows: list[Row] = [
        (
            *(label_of(one.values), *one.mean, *one.gain, *one.shortfall),
            *(one.seed_spread, one.trained_parameters, one.seconds, one.peak_memory_bytes),
        )
        for one in statistics.values
    ]
    return columns, rows


def _layers(sweep: SweepRecord) -> tuple[tuple[str, ...], list[Row]]:
    layers = [(adapter.seed, path, layer) for adapter in sweep.adapters for path, layer in adapter.layers.items()]
    most = max((len(layer.singular_values) for _, _, layer in layers), default=0)
    columns = ("seed", "layer", "effective rank", *(f"singular value {i}" for i in range(1, most + 1)))
    rows: list[Row] = [
        (seed, path, layer.effective_rank, *layer.singular_values, *(None,) * (most - len(layer.singular_values)))
        for seed, path, layer in layers
    ]
    return columns, rows


def _bounds(name: str) -> tuple[str, str, str]:
    return name, f"{name} low", f"{name} high"
