"""`vu report`: the page of a real small sweep, and of one of its runs."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from tests.encoders.models import save_clip
from vectoruniverse.cli import app
from vectoruniverse.sweep_page import write_sweep_page


@pytest.fixture(scope="module")
def swept(shapes, shared_cache, tmp_path_factory):
    """Runs folder of a sweep over two ranks and two seeds, and the sweep's own folder."""
    root = tmp_path_factory.mktemp("swept")
    settings = {
        "name": "shapes",
        "task": "image_text",
        "model": str(save_clip(root / "clip")),
        "data": {"root": str(shapes), "split": {"val_fraction": 0.25}, "exclude": {"Category": ["yellow"]}},
        "forgetting": {"include": {"Category": ["yellow"]}, "scales": [0.0, 1.0]},
        "adapter": {"method": "lora", "rank": 2},
        "train": {"epochs": 1, "batch_size": 12, "lr": 0.01, "device": "cpu", "precision": "fp32"},
        "wandb": {"mode": "disabled"},
    }
    (root / "shapes.yaml").write_text(yaml.safe_dump(settings))
    command = ["sweep-rank", "-c", str(root / "shapes.yaml"), "--ranks", "1,2", "--seeds", "0,1", "-q"]
    command += ["--runs-dir", str(root / "runs")]
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
    assert page.index(answer.split(". ")[0]) < page.index("Every value")
    assert "Content-Security-Policy" in page and "http://" not in page.split("<body")[1]
    drawn = {file.stem for file in (folder / "figures").iterdir()}
    wanted = {"metric", "costs", "curves", "effective_rank", "plane", "singular_values", "layer_ranks", "truncation"}
    assert wanted | {"forgetting"} == drawn
    assert "rows that the base knew" in page


def test_a_failed_cell_is_told_on_the_page(swept, tmp_path):
    record = json.loads((swept[1] / "sweep.json").read_text())
    record["cells"][0] |= {"state": "failed", "message": "<script>no</script>"}
    page = write_sweep_page(record, tmp_path).read_text(encoding="utf-8")
    assert "failed: &lt;script&gt;no&lt;/script&gt;" in page and "<script>" not in page


def test_the_page_of_a_run_can_be_written_again(swept):
    runs, _ = swept
    run = next(path for path in sorted(runs.iterdir()) if (path / "adapter").is_dir())
    assert not (run / "report.html").exists(), "cells of a sweep have no page of their own at first"
    done = CliRunner().invoke(app, ["report", run.name, "--runs-dir", str(runs), "-q"])
    assert done.exit_code == 0, done.output
    assert "load_run" in (run / "report.html").read_text(encoding="utf-8")
    assert (run / "figures" / "spectrum.png").is_file()


def test_an_unknown_name_is_told(tmp_path):
    done = CliRunner().invoke(app, ["report", "nothing", "--runs-dir", str(tmp_path)])
    assert done.exit_code == 2 and "Traceback" not in done.output
