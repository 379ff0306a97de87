"""Contestants that do the same work, measured in rounds, each measurement in a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ENTRY = Path(__file__).resolve().parents[1] / "benchmark"


@dataclass(frozen=True)
class Case:
    """One contestant at one task.

    Attributes:
        part: module that measures it.
        group: the task, in words; the first contestant of a group is the one that others are compared with.
        name: the contestant.
        settings: what the part needs to know.
    """

    part: str
    group: str
    name: str
    settings: Mapping[str, Any]


@dataclass
class Measured:
    """A contestant and what was measured of it in each round, by name."""

    case: Case
    rounds: list[dict[str, float]] = field(default_factory=list)

    def median(self, key: str) -> float | None:
        """Over the rounds; None where it was not measured."""
        values = [one[key] for one in self.rounds if key in one]
        return statistics.median(values) if values else None


def measure(case: Case) -> dict[str, Any]:
    """What a fresh process measures of a contestant.

    Raises:
        SystemExit: it failed; with the end of what it said.
    """
    command = [sys.executable, str(ENTRY), "--measure", json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{case.part}, {case.group}, {case.name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_rounds(
    cases: Sequence[Case],
    rounds: int,
    after_each: Callable[[list[Measured]], None],
    before: Sequence[Mapping[str, Any]] = (),
) -> list[Measured]:
    """Every contestant once a round, one after the other, so that what else the machine does meets all alike.

    What was measured ``before``, as ``after_each`` was given it, is not measured again.
    """
    done = {_name_of(told["case"]): told["rounds"] for told in before}
    found = [Measured(case, list(done.get(_name_of(asdict(case)), []))) for case in cases]
    for number in range(rounds):
        for one in found:
            if len(one.rounds) > number:
                continue
            print(f"round {number + 1}/{rounds}  {one.case.part}: {one.case.group}, {one.case.name}", file=sys.stderr)
            one.rounds.append(measure(one.case))
            after_each(found)
    return found


def _name_of(case: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a case is known by; settings name folders, which are new at each start."""
    return case["part"], case["group"], case["name"]


@dataclass(frozen=True)
class Column:
    """A column of a part's table: the median of what was measured under ``key``."""

    title: str
    key: str
    form: str = ".1f"


def table(found: Sequence[Measured], columns: Sequence[Column]) -> str:
    """Markdown, with the time beside that of the group's first contestant: medians of ratios within rounds."""
    lines = [
        f"| task | contestant | {' | '.join(column.title for column in columns)} | times as long |",
        "|---|---|" + "---:|" * (len(columns) + 1),
    ]
    first: Measured | None = None
    for one in found:
        if first is None or one.case.group != first.case.group:
            first = one
        values = [one.median(column.key) for column in columns]
        told = ["–" if v is None else f"{v:{c.form}}" for v, c in zip(values, columns, strict=True)]
        lines.append(f"| {one.case.group} | {one.case.name} | {' | '.join(told)} | {_ratio(one, first)} |")
    return "\n".join(lines)


def _ratio(one: Measured, first: Measured) -> str:
    pairs = zip(one.rounds, first.rounds, strict=False)  # a round may be cut off
    ratios = [
        mine["seconds"] / theirs["seconds"] for mine, theirs in pairs if "seconds" in mine and "seconds" in theirs
    ]
    if not ratios:
        return "–"
    if one is first:
        return "1"
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
