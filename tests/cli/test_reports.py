"""`vu report` and `vu compare` on a real small sweep and its runs."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from tests.models.models import save_clip
from vectoruniverse.cli import app


@pytest.fixture(scope="module")
def swept(shapes, shared_cache, tmp_path_factory):
    """Runs folder of a sweep over two ranks and two seeds, and the sweep's own folder."""
    root = tmp_path_factory.mktemp("swept")
    settings = {
        "name": "shapes",
        "task": "image_text",
        "model": str(save_clip(root / "clip")),
        "data": {
            "root": str(shapes),
            "split": {"val_fraction": 0.25, "test_fraction": 0},
            "exclude": {"Category": ["yellow"]},
        },
        "forgetting": {"include": {"Category": ["yellow"]}, "scales": [0.0, 1.0]},
        "adapter": {"method": "lora", "rank": 2},
        "train": {"epochs": 1, "batch_size": 12, "lr": 0.01, "device": "cpu", "precision": "fp32"},
        "eval": {"keep": "last"},  # an adapter that no epoch made better is left out of the figures of adapters
        "wandb": {"mode": "disabled"},
    }
    (root / "shapes.yaml").write_text(yaml.safe_dump(settings))
    command = ["sweep-rank", "-c", str(root / "shapes.yaml"), "--ranks", "1,2", "--seeds", "0,1", "-q"]
    command += ["--lrs", "fixed", "--no-pattern", "--runs-dir", str(root / "runs")]
    done = CliRunner(env={"VU_CACHE": str(shared_cache)}).invoke(app, command)
    assert done.exit_code == 0, done.output
    (record,) = root.glob("runs/*/sweep.json")
    return root / "runs", record.parent


def test_the_page_of_a_sweep_answers_first_and_shows_cost_adapters_health_and_forgetting(swept):
    runs, folder = swept
    done = CliRunner().invoke(app, ["report", folder.name, "--runs-dir", str(runs)])
    assert done.exit_code == 0, done.output
    page = (folder / "report.html").read_text(encoding="utf-8")
    answer = json.loads((folder / "sweep.json").read_text())["statistics"]["answer"]
    headline = answer.split(". ")[0].split(": ")[0]
    assert page.index(headline[0].upper() + headline[1:]) < page.index("What it costs") < page.index("Cells")
    assert "Content-Security-Policy" in page and "http://" not in page.split("<body")[1]
    drawn = {file.stem for file in (folder / "figures").iterdir()}
    wanted = {
        "metric",
        "costs",
        "validation",
        "effective_rank",
        "plane",
        "singular_values",
        "layer_ranks",
        "truncation",
    }
    assert wanted | {"forgetting"} == drawn
    assert "rows that the base knew" in page


def test_the_page_of_a_sweep_goes_elsewhere_when_told(swept, tmp_path):
    _, folder = swept
    done = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "elsewhere.html")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "elsewhere.html").is_file() and (tmp_path / "elsewhere" / "tables" / "values.csv").is_file()
    wrong = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "elsewhere")])
    assert wrong.exit_code == 2 and ".html" in wrong.output


def test_a_damaged_record_is_told_in_two_lines(swept, tmp_path):
    record = json.loads((swept[1] / "sweep.json").read_text())
    (tmp_path / "sweep.json").write_text(json.dumps(record | {"cells": 3}))
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 2 and "cells" in done.output and len(done.output.splitlines()) == 2


def test_cells_of_a_sweep_are_compared_row_by_row(swept, tmp_path):
    runs, folder = swept
    first, second = [cell["run"] for cell in json.loads((folder / "sweep.json").read_text())["cells"]][:2]
    command = ["compare", first, second, "--runs-dir", str(runs)]
    done = CliRunner().invoke(app, [*command, "--json", "--out", str(tmp_path / "pair.html")])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["config"]["adapter.rank"] == {first: 1, second: 2}
    estimate, low, high = record["differences"][second]["recall@5"]
    assert low <= estimate <= high
    assert estimate == pytest.approx(record["metrics"]["recall@5"][second][0] - record["metrics"]["recall@5"][first][0])
    assert "Content-Security-Policy" in (tmp_path / "pair.html").read_text(encoding="utf-8")
    shown = CliRunner().invoke(app, command)
    assert "adapter.rank" in shown.stdout and "paired over the same rows" in shown.stdout


def test_comparing_one_run_is_told(swept):
    done = CliRunner().invoke(app, ["compare", "latest", "--runs-dir", str(swept[0])])
    assert done.exit_code == 2 and "2 to 26" in done.output


def test_the_page_of_a_run_can_be_written_again(swept):
    runs, _ = swept
    run = next(path for path in sorted(runs.iterdir()) if (path / "adapter").is_dir())
    assert not (run / "report.html").exists(), "cells of a sweep have no page of their own at first"
    done = CliRunner().invoke(app, ["report", run.name, "--runs-dir", str(runs), "-q"])
    assert done.exit_code == 0, done.output
    assert "PeftModel" in (run / "report.html").read_text(encoding="utf-8")
    assert (run / "figures" / "spectrum.png").is_file()


def test_an_unknown_name_is_told(tmp_path):
    done = CliRunner().invoke(app, ["report", "nothing", "--runs-dir", str(tmp_path)])
    assert done.exit_code == 2 and "Traceback" not in done.output
