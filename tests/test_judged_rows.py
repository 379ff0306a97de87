"""Which rows a run is judged on: those that it promised, by name, whatever has become of its data since."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.encoders.models import save_clip
from tests.test_cli import vu


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def pictures(shapes, tmp_path):
    """A folder of pictures that may be changed."""
    return Path(shutil.copytree(shapes, tmp_path / "pictures"))


@pytest.fixture
def config(clip, pictures, tmp_path):
    settings = {
        "name": "shapes",
        "task": "image_text",
        "model": str(clip),
        "data": {"root": str(pictures), "split": {"val_fraction": 0.25}},
        "adapter": {"method": "lora", "rank": 2},
        "train": {"epochs": 1, "batch_size": 12, "lr": 0.01, "device": "cpu", "precision": "fp32"},
        "eval": {"report": False},
        "wandb": {"mode": "disabled"},
    }
    file = tmp_path / "shapes.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def rewrite(file: Path, change) -> None:
    """Change the rows of a table; ``change`` takes and gives lists of cells, the header left out."""
    with file.open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *change(rows)])


def trained(config: Path) -> Path:
    """The folder of a new run."""
    done = vu("train", "-c", str(config), "--quiet", "--json")
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["run"])


def test_runs_on_rows_with_other_labels_are_not_set_off_against_each_other(config, pictures):
    first = trained(config)
    rewrite(pictures / "metadata.csv", lambda rows: [[*row[:3], row[3].split(",")[1]] for row in rows])
    second = trained(config)
    record = json.loads(vu("compare", str(first), str(second), "--json").stdout)
    assert record["runs"][0]["data"] != record["runs"][1]["data"]
    assert not record["differences"] and "other data" in record["no_differences"][second.name]
