"""Runs beside each other for people: tables, a sentence, and a page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from vectoruniverse.metrics.catalogue import in_order
from vectoruniverse.report.figures.album import Plate
from vectoruniverse.report.figures.runs import colours_of, curves_together, reached
from vectoruniverse.report.figures.style import save
from vectoruniverse.report.page import Chapter, Table, write_csv, write_page
from vectoruniverse.report.tables import drawn_over
from vectoruniverse.report.verdict import Answer, Outcome

Record = Mapping[str, Any]
"""What ``vectoruniverse.evaluation.runs.compare_runs`` returns."""


def write_compare_page(record: Record, page: Path) -> None:
    """Write the page, and into a folder of its name beside it ``figures/`` (PNG and SVG) and ``tables/`` (CSV).

    Args:
        record: the comparison.
        page: the file.

    Raises:
        ConfigError: something cannot be written.
        ResourceError: the disk is full.
    """
    beside, plates = page.with_suffix(""), list(_plates(record))
    for plate in plates:
        save(plate.figure, beside / "figures", plate.name)
    _write_tables(record, beside / "tables")
    write_page(
        page,
        title=f"{len(record['runs'])} runs beside each other",
        answer=answer(record),
        comparison=run_table(record),
        verdict=(),
        plates=plates,
        chapters=[
            Chapter("config", "What differs in their settings", tables=_filled(config_table(record))),
            Chapter("differences", "Differences from A", tables=_filled(difference_table(record))),
            Chapter("curves", "While training"),
            Chapter("metrics", "All metrics", tables=_filled(metric_table(record))),
        ],
        facts={letter: name for name, letter in letters(record).items()},
    )


def letters(record: Record) -> dict[str, str]:
    """A letter for each run, in the order given."""
    return {run["name"]: letter for run, letter in zip(record["runs"], ascii_uppercase, strict=False)}


def answer(record: Record) -> Answer:
    """Which runs are credibly better than the first, by the monitored metric."""
    monitor, named = record["monitor"], letters(record)
    without = [f"{named[name]}: {why}." for name, why in record["no_differences"].items()]
    gaps = {named[name]: found[monitor] for name, found in record["differences"].items() if monitor in found}
    if not gaps:
        return Answer("unclear", "No differences from A can be given", " ".join(without))
    if not all(run["judged"] == "held-out" for run in record["runs"] if run["judged"]):
        told = [f"{letter} − A: {shown(gap, '+')}." for letter, gap in gaps.items()]
        return Answer(
            "unclear", f"{monitor} of training rows, which says nothing of others", " ".join([*told, *without])
        )
    better = [letter for letter, (_, low, _) in gaps.items() if low > 0]
    worse = [letter for letter, (_, _, high) in gaps.items() if high < 0]
    parts = [f"{_listed(those)} credibly {how}" for those, how in ((better, "better"), (worse, "worse")) if those]
    headline = f"{', '.join(parts)} than A in {monitor}" if parts else f"No credible difference from A in {monitor}"
    outcome: Outcome = "unclear" if not parts or (better and worse) else "better" if better else "worse"
    told = [f"{letter} − A: {shown(gap, '+')}." for letter, gap in gaps.items()]
    ground = f"95 % intervals, paired over the same {drawn(record)}; each comparison by itself, and other seeds not "
    ground += "counted."
    return Answer(outcome, headline, " ".join([*told, *without, ground]))


def drawn(record: Record) -> str:
    """What was drawn for the differences, in words: rows, or groups of them."""
    return drawn_over(record["runs"][0]["drawn_by"])


def rows_are(record: Record) -> str:
    """What the judged rows of all runs are called."""
    return " and ".join(dict.fromkeys(run["judged"] for run in record["runs"] if run["judged"])) or "held-out"


def run_table(record: Record) -> Table:
    """Letters with names, states and costs."""
    named = letters(record)
    rows = [
        (
            f"{named[run['name']]} {run['name']}",
            run["state"],
            "" if run["epoch"] is None else str(run["epoch"]),
            "" if run["trained_parameters"] is None else f"{run['trained_parameters']:,}",
            "" if run["seconds"] is None else f"{run['seconds']:.0f}\N{NO-BREAK SPACE}s",
            "" if run["peak_memory_bytes"] is None else f"{run['peak_memory_bytes'] / 2**20:,.0f}\N{NO-BREAK SPACE}MiB",
        )
        for run in record["runs"]
    ]
    return Table("", ("run", "state", "epoch", "trained", "time", "peak memory"), rows)


def config_table(record: Record) -> Table:
    """Settings that differ, a column for each run."""
    named = letters(record)
    rows = [
        (key, *(_setting(values[name]) if name in values else "not set" for name in named))
        for key, values in record["config"].items()
    ]
    return Table("", ("setting", *named.values()), rows)


def metric_table(record: Record) -> Table:
    """Metrics with their intervals, a column for each run, and one for each base that they set out from."""
    named, metrics, bases = letters(record), record["metrics"], record["bases"]
    heads = [
        "base" if len(bases) == 1 else f"base of {', '.join(named[name] for name in one['runs'])}" for one in bases
    ]
    rows = [
        (
            label,
            *(shown(one["metrics"].get(key)) for one in bases),
            *(shown(metrics[key].get(name)) for name in named),
        )
        for key, label in _labels(record, metrics)
    ]
    return Table("", ("metric", *heads, *named.values()), rows)


def difference_table(record: Record) -> Table:
    """Paired differences from the first run, a column for each other run that has them."""
    named, gaps = letters(record), record["differences"]
    metrics = dict.fromkeys(metric for found in gaps.values() for metric in found)
    rows = [
        (label, *(shown(found.get(key), "+") for found in gaps.values())) for key, label in _labels(record, metrics)
    ]
    return Table("", ("metric", *(f"{named[name]} − A [95 %]" for name in gaps)), rows)


def shown(values: Sequence[float | None] | None, sign: str = "") -> str:
    """A value with its interval, where it has one."""
    if values is None or values[0] is None:
        return ""
    estimate, low, high = values
    if low is None or high is None:
        return f"{estimate:{sign}.3f}"
    return f"{estimate:{sign}.3f} [{low:{sign}.3f},\N{NO-BREAK SPACE}{high:{sign}.3f}]"


def _labels(record: Record, metrics: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Metrics with what people call them, the monitored one first."""
    found = in_order(metrics)
    for metric in sorted(found, key=lambda metric: metric.name != record["monitor"]):
        yield metric.name, metric.marked


def _plates(record: Record) -> Iterator[Plate]:
    named, monitor, judged = letters(record), record["monitor"], rows_are(record)
    colours = colours_of(list(named.values()))
    reaches = {
        named[name]: (value, low, high)
        for name, (value, low, high) in record["metrics"].get(monitor, {}).items()
        if low is not None and high is not None
    }
    if reaches:
        caption = "95 % intervals of each run by itself; they may overlap although one run is credibly better."
        yield Plate("reached", "What each reached", "answer", caption, reached(reaches, colours, metric=monitor))
    gaps = {named[n]: tuple(found[monitor]) for n, found in record["differences"].items() if monitor in found}
    if gaps:
        caption = f"Paired over the same {drawn(record)}: an interval clear of 0 is a credible difference."
        figure = reached(gaps, colours, metric=monitor, difference_from="A")
        yield Plate("difference", f"Differences in {monitor}", "differences", caption, figure)
    for name, title, xlabel, ylabel, caption in (
        ("validation", f"{judged.capitalize()} rows", "epoch", f"{monitor}, {judged}", "After each epoch."),
        ("loss", "Training loss", "optimizer step", "training loss", "Long runs: means of neighbouring steps."),
    ):
        curves = {named[run]: points for run, points in record[name].items()}
        if any(curves.values()):
            figure = curves_together(curves, colours, xlabel=xlabel, ylabel=ylabel)
            yield Plate(name, title, "curves", caption, figure)


def _write_tables(record: Record, folder: Path) -> None:
    """Numbers in columns of their own, a line for each metric and run."""
    metrics = [(metric, run, *v) for metric, by_run in record["metrics"].items() for run, v in by_run.items()]
    gaps = [(metric, run, *v) for run, by_metric in record["differences"].items() for metric, v in by_metric.items()]
    for name, rows in (("metrics", metrics), ("differences", gaps)):
        if rows:
            write_csv(folder / f"{name}.csv", ("metric", "run", "value", "low", "high"), rows)
    config = [(key, run, _setting(v)) for key, by_run in record["config"].items() for run, v in by_run.items()]
    if config:
        write_csv(folder / "config.csv", ("setting", "run", "value"), config)


def _filled(table: Table) -> list[Table]:
    return [table] if table.rows else []


def _listed(names: Sequence[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} are"


def _setting(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
