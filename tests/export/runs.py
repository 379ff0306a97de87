"""Short real runs for tests to load and to export."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.models.models import SAVE
from vectoruniverse.experiment import train
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.terminal import Display


def train_shapes(root: Path, shapes: Path, model: object = "clip", **sections: object) -> Path:
    """Train on the shapes for two epochs; gives the run folder.

    Args:
        root: where the model and the run go.
        shapes: the data.
        model: a family of ``SAVE``, or anything that an experiment takes.
        sections: replace whole sections of the experiment.
    """
    text = ["query", "value"] if model in ("altclip", "chinese_clip") else ["q_proj", "v_proj"]
    base = {
        "name": "shapes",
        "task": "image_text",
        "model": str(SAVE[model](root / "model")) if isinstance(model, str) and model in SAVE else model,
        "data": {"root": str(shapes), "split": {"val_fraction": 0.25, "test_fraction": 0}},
        "adapter": {"method": "lora", "rank": 2, "vision_targets": ["q_proj", "out_proj"], "text_targets": text},
        "train": {"epochs": 2, "batch_size": 12, "lr": 0.02, "device": "cpu", "precision": "fp32"},
        "eval": {"report": False, "keep": "last"},
        "wandb": {"mode": "disabled"},
    }
    file = root / "shapes.yaml"
    file.write_text(yaml.safe_dump(base | sections), encoding="utf-8")
    return train(load_experiment(file), runs_dir=root / "runs", display=Display(quiet=True)).run.path
