"""The tables of a sweep's page, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vectoruniverse.metrics.catalogue import ARROWS, describe
from vectoruniverse.report.page import Table
from vectoruniverse.report.sweep.plates import MIB
from vectoruniverse.report.sweep.record import Statistics, SweepRecord, label_of
from vectoruniverse.report.sweep.words import shown

NBSP = "\N{NO-BREAK SPACE}"

GEOMETRY = {
    "effective_rank": "effective rank",
    "largest_eigenvalue_share": "largest eigenvalue",
    "image/mean_cosine": "cosine, pictures",
    "text/mean_cosine": "cosine, texts",
    "modality_gap": "modality gap",
}


def better(metric: str) -> str:
    """The arrow to a metric's better end."""
    return ARROWS[describe(metric).better]


def value_table(sweep: SweepRecord) -> Table | None:
    """The metric of each value: its mean, its gain over the base, and how far it is behind the best."""
    found = sweep.statistics
    if not isinstance(found, Statistics):
        return None
    rows = [
        (label_of(one.values), shown(one.mean), shown(one.gain, sign="+"), shown(one.shortfall)) for one in found.values
    ]
    heads = (
        sweep.swept_name,
        f"{found.metric}{better(found.metric)} [{found.level:.0%}]",
        "gain over base",
        "behind the best",
    )
    return Table("", heads, [("base", shown(found.base), "", ""), *rows])


def cost_tables(sweep: SweepRecord) -> list[Table]:
    """What each value costs, and how much its seeds differ; none without statistics."""
    if not isinstance(sweep.statistics, Statistics):
        return []
    rows = [
        (
            label_of(one.values),
            "" if one.trained_parameters is None else f"{one.trained_parameters:,}",
            "" if one.seconds is None else f"{one.seconds:.0f}{NBSP}s",
            "" if one.peak_memory_bytes is None else f"{one.peak_memory_bytes / MIB:,.0f}{NBSP}MiB",
            "" if one.seed_spread is None else f"{one.seed_spread:.3f}",
        )
        for one in sweep.statistics.values
    ]
    heads = (sweep.swept_name, "trained parameters", "time", "peak memory", "spread of seeds")
    return [Table("Means over seeds", heads, rows)]


def health_tables(sweep: SweepRecord, said: Sequence[Sequence[str]]) -> list[Table]:
    """The space of each finished cell beside the base's.

    Args:
        sweep: the record.
        said: the verdict of each finished cell.
    """

    def numbers(metrics: Mapping[str, float]) -> list[str]:
        return [f"{metrics[name]:.2f}" if name in metrics else "" for name in GEOMETRY]

    base = [("base", "", *numbers(sweep.base_metrics), "")] if sweep.base else []
    rows = [
        (label_of(cell.values), str(cell.seed), *numbers(cell.metrics), ", ".join(s.partition(":")[0] for s in verdict))
        for cell, verdict in zip(sweep.finished, said, strict=True)
    ]
    heads = (sweep.swept_name, "seed", *GEOMETRY.values(), "verdict")
    return [Table("", heads, [*base, *rows])] if rows and sweep.judges_space else []


def cell_table(sweep: SweepRecord) -> Table:
    """Every cell with its run and how it went."""
    rows = [
        (
            label_of(cell.values),
            str(cell.seed),
            cell.state,
            f"{cell.metrics[sweep.metric]:.3f}" if sweep.metric in cell.metrics else "",
            "" if cell.epoch is None else f"{cell.epoch}{NBSP}of{NBSP}{cell.epochs}",
            "" if cell.seconds is None else f"{cell.seconds:.0f}{NBSP}s",
            cell.run or "",
            cell.message or "",
        )
        for cell in sweep.cells
    ]
    metric = sweep.metric + better(sweep.metric)
    return Table("", (sweep.swept_name, "seed", "state", metric, "epoch", "time", "run", "message"), rows)
