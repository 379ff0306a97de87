"""An experiment over the shapes of which three colours are new, and yellow is what the base knew."""

from __future__ import annotations

import csv
import shutil

import pytest
import yaml

from tests.models.models import save_clip
from vectoruniverse.experiment import resume, train
from vectoruniverse.terminal import Display
from vectoruniverse.training.interruption import InterruptedTraining
from vectoruniverse.training.observer import RunObserver


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def config(shapes, clip, tmp_path):
    """Write the file; keyword arguments replace whole sections."""

    def write(**sections):
        base = {
            "name": "shapes",
            "task": "image_text",
            "model": str(clip),
            "data": {
                "root": str(shapes),
                "include": {"Category": ["red", "green", "blue"]},
                "split": {"val_fraction": 0.3, "test_fraction": 0},
            },
            "adapter": {"method": "lora", "rank": 2},
            "train": {"epochs": 2, "batch_size": 8, "lr": 0.01, "precision": "fp32", "device": "cpu", "log_every": 1},
            "eval": {"report": False},
            "wandb": {"mode": "disabled"},
        }
        file = tmp_path / "shapes.yaml"
        file.write_text(yaml.safe_dump(base | sections), encoding="utf-8")
        return str(file)

    return write


@pytest.fixture
def described(shapes, tmp_path):
    """The shapes with other cells: a function of a row's number and its cells gives the row; None drops the column."""

    def write(change, dropped=None):
        root = tmp_path / "described"
        shutil.copytree(shapes / "images", root / "images")
        with (shapes / "metadata.csv").open(newline="", encoding="utf-8") as file:
            rows = [change(i, row) for i, row in enumerate(csv.DictReader(file))]
        names = [name for name in rows[0] if name != dropped]
        with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return {"root": str(root), "split": {"val_fraction": 0.2, "test_fraction": 0}}

    return write


@pytest.fixture
def cut_and_resumed(tmp_path, monkeypatch):
    """The outcome of a run that is interrupted after its third step and resumed."""

    def run(experiment):
        asked, folder = iter([False, False, True]), tmp_path / "cut"
        with monkeypatch.context() as patch:
            patch.setattr(RunObserver, "interrupted", lambda _: next(asked))
            with pytest.raises(InterruptedTraining):
                train(experiment, runs_dir=folder, display=Display(quiet=True))
        return resume("latest", runs_dir=folder, display=Display(quiet=True))

    return run
