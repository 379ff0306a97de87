"""Runs beside each other for people: tables, a sentence, and a page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pandas as pd

from vectoruniverse.metrics.catalogue import in_order
from vectoruniverse.report.figures.album import Plate
from vectoruniverse.report.figures.runs import colours_of, curves_together, reached
from vectoruniverse.report.page import Chapter, write_page
from vectoruniverse.report.tables import NBSP, Table, drawn_over, hold_at_once, interval, table
from vectoruniverse.report.verdict import Answer, Outcome, outcome

Record = Mapping[str, Any]
"""What ``vectoruniverse.evaluation.runs.compare_runs`` returns."""

BOUNDS = ("value", "low", "high")


def write_compare_page(record: Record, page: Path) -> None:
    """Write the page, and into a folder of its name beside it ``figures/`` (PNG and SVG) and ``tables/`` (CSV).

    Raises:
        ConfigError: something cannot be written.
        ResourceError: the disk is full.
    """
    write_page(
        page,
        title=f"{len(record['runs'])} runs beside each other",
        answer=answer(record),
        comparison=run_table(record),
        verdict=(),
        plates=list(_plates(record)),
        chapters=[
            Chapter("config", "What differs in their settings", since_lines(record), [config_table(record)]),
            Chapter("differences", "Differences from A", tables=[difference_table(record)]),
            Chapter("curves", "While training"),
            Chapter("metrics", "All metrics", tables=[metric_table(record)]),
        ],
        facts={letter: name for name, letter in letters(record).items()},
        beside=page.with_suffix(""),
        frames={name: frame for name, frame in _frames(record).items() if len(frame)},
    )


def letters(record: Record) -> dict[str, str]:
    """A letter for each run, in the order given."""
    return {run["name"]: letter for run, letter in zip(record["runs"], ascii_uppercase, strict=False)}


def since_lines(record: Record) -> list[str]:
    """What had changed since the run before each, where that is known."""
    return [f"{letters(record)[run['name']]}, {run['since']}" for run in record["runs"] if run["since"]]


def answer(record: Record) -> Answer:
    """Which runs are credibly better than the first, by the monitored metric."""
    monitor, named = record["monitor"], letters(record)
    without = [f"{named[name]}: {why}." for name, why in record["no_differences"].items()]
    gaps = {named[name]: found[monitor] for name, found in record["differences"].items() if monitor in found}
    if not gaps:
        return Answer("unclear", "No differences from A can be given", " ".join(without))
    told = [*(f"{letter} − A: {interval(*gap, sign=True)}." for letter, gap in gaps.items()), *without]
    if any(run["evaluated_on"] not in (None, "held-out") for run in record["runs"]):
        return Answer("unclear", f"{monitor} of training rows, which says nothing of others", " ".join(told))
    by_outcome: dict[Outcome, list[str]] = {}
    for letter, (_, low, high) in gaps.items():
        by_outcome.setdefault(outcome(monitor, low, high), []).append(letter)
    credible: tuple[Outcome, ...] = ("better", "worse")
    found = [how for how in credible if how in by_outcome]
    parts = [f"{_listed(by_outcome[how])} credibly {how}" for how in found]
    headline = f"{', '.join(parts)} than A in {monitor}" if parts else f"No credible difference from A in {monitor}"
    ground = (
        f"95 % intervals, paired over the same {drawn_over(record['runs'][0]['drawn_by'])}; other seeds not counted."
    )
    told += filter(None, [ground, hold_at_once(len(gaps), "differences")])
    return Answer(found[0] if len(found) == 1 else "unclear", headline, " ".join(told))


def rows_are(record: Record) -> str:
    """What the rows of all runs are called."""
    evaluated = [run for run in record["runs"] if run["evaluated_on"]]
    words = ("test" if run["split"] == "test" else run["evaluated_on"] for run in evaluated)
    return " and ".join(dict.fromkeys(words)) or "held-out"


def run_table(record: Record) -> Table:
    """Letters with names, states and costs."""
    frame = pd.DataFrame(record["runs"], dtype=object)
    frame["run"] = [f"{letter} {name}" for name, letter in letters(record).items()]
    return table(
        frame,
        {
            "run": ("run", str),
            "state": ("state", str),
            "epoch": ("epoch", str),
            "trained_parameters": ("trained", "{:,}".format),
            "seconds": ("time", (f"{{:.0f}}{NBSP}s").format),
            "peak_memory_bytes": ("peak memory", lambda size: f"{size / 2**20:,.0f}{NBSP}MiB"),
        },
    )


def config_table(record: Record) -> Table:
    """Settings that differ, a column for each run."""
    wide = _config(record).pivot(index="setting", columns="run", values="value")
    wide = wide.reindex(index=list(record["config"]), columns=list(letters(record))).astype(object)
    wide = wide.where(wide.notna(), "not set")
    return table(wide.rename(columns=letters(record)).reset_index())


def metric_table(record: Record) -> Table:
    """Metrics with their intervals, a column for each run, and one for each base that they set out from."""
    named, bases = letters(record), record["bases"]
    runs_of = [", ".join(named[name] for name in one["runs"]) for one in bases]
    heads = ["base"] if len(bases) == 1 else [f"base of {runs}" for runs in runs_of]
    found = [(metric, head, *v) for head, one in zip(heads, bases, strict=True) for metric, v in one["metrics"].items()]
    runs = _renamed(_metrics(record), named)
    known = runs["metric"].unique()
    frame = pd.concat([runs, pd.DataFrame(found, columns=runs.columns, dtype=object)])
    return _wide(record, frame[frame["metric"].isin(known)], [*heads, *named.values()])


def difference_table(record: Record) -> Table:
    """Paired differences from the first run, a column for each other run that has them."""
    heads = {name: f"{letters(record)[name]} − A [95 %]" for name in record["differences"]}
    told = _wide(record, _renamed(_differences(record), heads), list(heads.values()), sign=True)
    return replace(told, note=hold_at_once(len(heads), "differences"))


def _frames(record: Record) -> dict[str, pd.DataFrame]:
    return {"metrics": _metrics(record), "differences": _differences(record), "config": _config(record)}


def _renamed(frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    return frame.assign(run=frame["run"].map(names))


def _metrics(record: Record) -> pd.DataFrame:
    found = [(metric, run, *v) for metric, by_run in record["metrics"].items() for run, v in by_run.items()]
    return pd.DataFrame(found, columns=("metric", "run", *BOUNDS), dtype=object)


def _differences(record: Record) -> pd.DataFrame:
    found = [(metric, run, *v) for run, by_metric in record["differences"].items() for metric, v in by_metric.items()]
    return pd.DataFrame(found, columns=("metric", "run", *BOUNDS), dtype=object)


def _config(record: Record) -> pd.DataFrame:
    found = [(key, run, _setting(v)) for key, by_run in record["config"].items() for run, v in by_run.items()]
    return pd.DataFrame(found, columns=("setting", "run", "value"), dtype=object)


def _wide(record: Record, frame: pd.DataFrame, runs: Sequence[str], sign: bool = False) -> Table:
    """A line for each metric, the monitored one first, and a column for each run; intervals as text."""
    metrics = sorted(in_order(frame["metric"].unique()), key=lambda metric: metric.name != record["monitor"])
    told = frame.assign(told=[interval(*bounds, sign=sign) for bounds in frame[[*BOUNDS]].itertuples(index=False)])
    wide = told.pivot(index="metric", columns="run", values="told")
    wide = wide.reindex(index=[metric.name for metric in metrics], columns=list(runs)).astype(object)
    wide = wide.where(wide.notna(), "")
    wide.insert(0, "metric", [metric.marked for metric in metrics])
    return table(wide)


def _plates(record: Record) -> Iterator[Plate]:
    named, monitor, rows = letters(record), record["monitor"], rows_are(record).replace("test", "validation")
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
        drawn = drawn_over(record["runs"][0]["drawn_by"])
        caption = f"Paired over the same {drawn}: an interval clear of 0 is a credible difference."
        figure = reached(gaps, colours, metric=monitor, difference_from="A")
        yield Plate("difference", f"Differences in {monitor}", "differences", caption, figure)
    for name, title, xlabel, ylabel, caption in (
        ("validation", f"{rows.capitalize()} rows", "epoch", f"{monitor}, {rows}", "After each epoch."),
        ("loss", "Training loss", "optimizer step", "training loss", "Long runs: means of neighbouring steps."),
    ):
        curves = {named[run]: points for run, points in record[name].items()}
        if any(curves.values()):
            figure = curves_together(curves, colours, xlabel=xlabel, ylabel=ylabel)
            yield Plate(name, title, "curves", caption, figure)


def _listed(names: Sequence[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} are"


def _setting(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
