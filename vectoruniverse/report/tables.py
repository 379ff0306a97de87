"""Tables for people. Each is made of one pandas frame, and a frame goes into a terminal, a page, Markdown and CSV."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vectoruniverse.adapters.apply import ParameterCount
from vectoruniverse.data.findings import spreadsheet_cell
from vectoruniverse.metrics.catalogue import ARROWS_READ, Metric, describe, in_order, signed
from vectoruniverse.report.verdict import rivals_words
from vectoruniverse.runs.durable import write_durably, write_errors_are_told
from vectoruniverse.runs.records import RivalsRecord

NBSP = "\N{NO-BREAK SPACE}"

Intervals = Mapping[str, Mapping[str, Sequence[float]]]
"""Of a metric, ``difference`` as [estimate, low, high]."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table as text: first column left, the others right; below it a note on how it is to be read."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def table(
    frame: pd.DataFrame,
    forms: Mapping[str, tuple[str, Callable[[Any], str]]] | None = None,
    *,
    title: str = "",
    note: str = "",
) -> Table:
    """A frame as text.

    Args:
        frame: of text, or of numbers that ``forms`` tell.
        forms: column of the frame → its head and how a cell is told, in the order of the table; what a cell lacks
            (None, NaN) stays empty. None: all columns as they are.
        title: above the table.
        note: below it.
    """
    if forms is not None:
        told = {head: [_told(cell, form) for cell in frame[name]] for name, (head, form) in forms.items()}
        frame = pd.DataFrame(told, index=frame.index, dtype=object)
    return Table(title, tuple(map(str, frame.columns)), list(frame.itertuples(index=False, name=None)), note)


def _told(cell: Any, form: Callable[[Any], str]) -> str:
    return "" if pd.api.types.is_scalar(cell) and pd.isna(cell) else form(cell)


def interval(estimate: float, low: float | None, high: float | None, *, form: str = ".3f", sign: bool = False) -> str:
    """A number with its interval, where it has one."""
    tell = signed if sign else format
    if low is None or high is None or math.isnan(low):
        return tell(estimate, form)
    return f"{tell(estimate, form)} [{tell(low, form)},{NBSP}{tell(high, form)}]"


def comparison_table(
    base: Mapping[str, float], adapted: Mapping[str, float], intervals: Intervals | None = None, title: str = ""
) -> Table:
    """Each metric of a base and an adapted model, and its change (with the interval, where there is one)."""
    rows = []
    for metric in in_order(key for key in adapted if key in base):
        key = metric.name
        change = signed(adapted[key] - base[key], ".3f")
        if intervals and key in intervals:
            _, low, high = intervals[key]["difference"]
            change += f" [{signed(low, '.3f')}, {signed(high, '.3f')}]"
        rows.append((metric.marked, _number(metric, base[key]), _number(metric, adapted[key]), change))
    return Table(title, ("metric", "base", "adapted", "change [95 % interval]"), rows)


def rivals_table(rivals: RivalsRecord) -> Table:
    """The base, its rivals and the adapted model on the same rows, and the adapted one's lead over each."""
    models, monitor = rivals.models, rivals.chosen_by
    metrics = in_order({metric: None for one in models.values() for metric in one.reached})
    trained = any(one.adapted_ahead for one in models.values())
    lead = (f"adapted ahead in {monitor}",) if trained else ()
    rows = []
    for name, one in models.items():
        cells = [_number(metric, one.reached[metric.name]) if metric.name in one.reached else "" for metric in metrics]
        gap = one.adapted_ahead.get(monitor)
        rows.append((name, *cells, *(interval(*gap, sign=True) if gap else "" for _ in lead), one.how))
    leads = sum(monitor in one.adapted_ahead for one in models.values())
    note = hold_at_once(leads, "leads") if rivals.at_once else "The interval of each lead is by itself." * (leads > 1)
    return Table("", ("model", *(metric.marked for metric in metrics), *lead, "chosen"), rows, note)


def metric_table(metrics: Mapping[str, float]) -> Table:
    """Each metric of one model."""
    rows = [(metric.marked, _number(metric, metrics[metric.name])) for metric in in_order(metrics)]
    return Table("", ("metric", "base"), rows)


def _number(metric: Metric, value: float) -> str:
    return metric.tell(value) if math.isfinite(value) else str(value)


def trained_table(parts: Iterable[ParameterCount]) -> Table:
    """What is trained of each part of a model."""
    rows = [(p.part, str(p.adapted_layers), f"{p.trainable:,}", f"{p.total:,}", f"{p.share:.2%}") for p in parts]
    return Table("", ("part", "adapted layers", "trained", "total", "share"), rows)


def markdown_table(shown: Table) -> str:
    """A Markdown table whose cells cannot break it."""
    rule = "|---|" + "---:|" * (len(shown.columns) - 1)
    return "\n".join([_row(shown.columns), rule, *map(_row, shown.rows), *(["", shown.note] if shown.note else [])])


def _row(cells: Sequence[str]) -> str:
    safe = (cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;") for cell in cells)
    return "| " + " | ".join(safe) + " |"


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """A frame as a file; numbers stay as they are, and a spreadsheet takes no text for a formula.

    Raises:
        ConfigError: it cannot be written.
        ResourceError: the disk is full.
    """
    rows = [[_csv_cell(cell) for cell in row] for row in frame.itertuples(index=False, name=None)]
    safe = pd.DataFrame(rows, columns=[spreadsheet_cell(str(name)) for name in frame.columns], dtype=object)
    with write_errors_are_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, safe.to_csv(index=False, lineterminator="\n"))


def _csv_cell(cell: Any) -> str:
    return spreadsheet_cell(cell) if isinstance(cell, str) else _told(cell, str)


def hold_at_once(count: int, differences: str) -> str:
    """What intervals of so many differences in a metric hold for; empty of a single one, which needs no words."""
    if count < 2:
        return ""
    held = f"The intervals of the {count} {differences} in a metric hold at once (max-t)"
    return f"{held}; metrics are not adjusted for each other."


def drawn_over(drawn_by: str | None) -> str:
    """What intervals are over, in words; ``drawn_by`` is what rows of a group have in common, if there are groups."""
    return "rows" if drawn_by in (None, "row") else f"groups of rows with the same {drawn_by}"


def grounds(rows_are: str, drawn_by: str | None) -> str:
    """What stands above the table of a model card: whose rows, and what the intervals are."""
    return (
        f"{rows_are}, base and adapted model evaluated by the same code; intervals are paired, over "
        f"{drawn_over(drawn_by)}"
    )


def rivals_grounds(rivals: RivalsRecord, split: str) -> str:
    """What stands above the table of rivals; ``split`` is that of the evaluated rows."""
    chose = "these very rows" if split == "val" else "the val rows"
    return (
        f"Rivals that cost no training, fitted on the base's vectors of {rivals.fitted_on:,} training rows; what was "
        f"chosen of each was chosen on {chose}, as the epoch was."
    )


def rivals_said(rivals: RivalsRecord, split: str) -> list[str]:
    """What stands above the table of rivals: how they came about, and for retrieval and labels whether they are beaten.

    Args:
        rivals: what each reached.
        split: of the evaluated rows.
    """
    told = [(name, rivals_words(rivals, name)) for name in (rivals.chosen_by, "zero_shot/accuracy@1")]
    return [rivals_grounds(rivals, split), *(f"{describe(name).label}: {said}" for name, said in told if said)]


def rivals_told(rivals: RivalsRecord | None, split: str) -> str:
    """The rivals in a model card; empty where there are none."""
    if rivals is None:
        return ""
    return "\n\n".join([*rivals_said(rivals, split), markdown_table(rivals_table(rivals))])


def model_card(
    *,
    name: str,
    facts: Mapping[str, str],
    grounds: str,
    table: Table,
    snippet: str,
    tags: Sequence[str],
    rivals: str = "",
) -> str:
    """A model card in the hub's form: what was run on what, what came out beside the base, how to load it.

    Args:
        name: of the run.
        facts: Markdown, by name.
        grounds: what stands above the table.
        table: metrics of base and adapted model.
        snippet: Python that loads the adapter, run from the run folder.
        tags: what the hub files it under; the first is the library.
        rivals: what stands below the table, in Markdown.
    """
    front = ["---", f"library_name: {tags[0]}", f"tags: [{', '.join(tags[1:])}]", "---"]
    body = [f"- {key}: {value}" for key, value in facts.items()]
    told = f"{grounds} ({ARROWS_READ[:-1]}):"
    code = ["## Load it", "", "Run in this folder:", "", "```python", snippet.strip(), "```", ""]
    beside = [rivals, ""] if rivals else []
    return "\n".join([*front, "", f"# {name}", "", *body, "", told, "", markdown_table(table), "", *beside, *code])
