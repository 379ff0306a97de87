"""Numbers reach metrics.jsonl whole."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from vectoruniverse.tracking.jsonl import JsonlTracker, read_metrics


def test_metrics_are_strict_json_and_on_disk_after_every_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(path)
    tracker.log(1, {"loss": math.nan, "up": math.inf, "down": -math.inf, "lr": 0.1, "note": "색"})
    line = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(name))
    assert {key: line[key] for key in ("step", "loss", "up", "down", "lr", "note")} == {
        "step": 1,
        "loss": "NaN",
        "up": "Infinity",
        "down": "-Infinity",
        "lr": 0.1,
        "note": "색",
    }
    assert math.isnan(float(line["loss"]))
    assert float(line["down"]) == -math.inf
    tracker.finish("finished")


def test_resume_drops_later_and_torn_lines_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    kept = '{"step": 10, "seconds": 100.5, "loss": 2.0}\n{"step": 20, "seconds": 200.5, "loss": 1.0}\n'
    path.write_text(kept + 'not json\n[1]\n{"step": 30, "seconds": 300.5}\n{"step": 1', encoding="utf-8")
    assert [record["step"] for record in read_metrics(path)] == [10, 20, 30]
    tracker = JsonlTracker(path, resume_step=20)
    tracker.log(30, {"loss": 0.5})
    tracker.finish("interrupted")
    assert path.read_text(encoding="utf-8").startswith(kept + '{"step": 30, ')
    last = list(read_metrics(path))[-1]
    assert last["loss"] == 0.5
    assert 200.5 <= float(last["seconds"]) < 210
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_from_its_beginning_starts_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "seconds": 1.0}\n', encoding="utf-8")
    JsonlTracker(path).finish("finished")
    assert path.read_text(encoding="utf-8") == ""
