"""The cells of a sweep: experiments that are all resolved, and the same ones changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from vectoruniverse.config.sections import Experiment
from vectoruniverse.report.sweep.values import EPOCHS, LR, cell_title, key_of, shown

MAX_NAME = 80

Kind = Literal["value", "trial", "beside"]

CellKey = tuple[str, int, int | None]
"""Values, seed and fold."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One experiment of a sweep, all resolved.

    Attributes:
        values: its value of each swept key; of a cell ``beside``, what it is.
        seed: of the training.
        experiment: what is run.
        settings: what is tried or was chosen for it, beside its value.
        kind: ``value``; ``trial``: a short run of a value that helps to choose its settings; ``beside``: no value of
            the swept key.
        fold: which fold is its test part, counted from 0; None without folds.
    """

    values: Mapping[str, object]
    seed: int
    experiment: Experiment
    settings: Mapping[str, object] = field(default_factory=dict)
    kind: Kind = "value"
    fold: int | None = None

    @property
    def key(self) -> CellKey:
        """Tells cells of one kind apart."""
        return key_of({**self.values, **self.settings} if self.kind == "trial" else self.values), self.seed, self.fold

    @property
    def title(self) -> str:
        """For people, such as ``rank 4, seed 0``."""
        return cell_title({**self.values, **self.settings}, self.seed, self.fold)


def full_cell(experiment: Experiment, seed: int, fold: int | None = None) -> Cell:
    """Full fine-tuning of an experiment that trains LoRA."""
    adapter = experiment.adapter
    kept = {key: getattr(adapter, key) for key in ("train_logit_scale",) if key in adapter.model_fields_set}
    in_full = experiment.model_copy(update={"adapter": type(adapter)(method="full", **kept), "seed": seed})
    values = {"adapter.method": "full"}
    named = as_cell(in_full, name_of_cell(experiment.name, values, seed, fold))
    return Cell(values, seed, named, kind="beside", fold=fold)


def at_rate(cell: Cell, rate: float) -> Cell:
    """The same at another learning rate."""
    train = cell.experiment.train.model_copy(update={"lr": rate})
    settings = {**cell.settings, LR: rate}
    return replace(cell, experiment=cell.experiment.model_copy(update={"train": train}), settings=settings)


def trial_of(cell: Cell, rate: float, epochs: int) -> Cell:
    """A short run of a cell, evaluated once on validation rows when it ends."""
    experiment, settings = cell.experiment, {LR: rate, EPOCHS: epochs}
    train = experiment.train.model_copy(update={"lr": rate, "epochs": epochs, "early_stopping": None})
    without = {"rivals": False} if hasattr(experiment.eval, "rivals") else {}
    evaluation = experiment.eval.model_copy(update={"every": epochs, "keep": "last", "test": False, **without})
    name = name_of_cell(experiment.name.removesuffix(f"-seed{cell.seed}"), settings, cell.seed)  # with its fold
    untold = {"wandb": experiment.wandb.model_copy(update={"mode": "disabled"}), "tensorboard": False}
    short = experiment.model_copy(update={"name": name, "train": train, "eval": evaluation, **untold})
    return replace(cell, experiment=short, settings=settings, kind="trial")


def as_cell(experiment: Experiment, name: str) -> Experiment:
    """An experiment by the name of a cell, without a report and without what only the whole sweep needs."""
    quiet = experiment.eval.model_copy(update={"report": False})
    beside = {} if learns_from_known(experiment) or not hasattr(experiment, "forgetting") else {"forgetting": None}
    return experiment.model_copy(update={"name": name, "eval": quiet, **beside})


def learns_from_known(experiment: Experiment) -> bool:
    """Whether ``forgetting`` is not only analysed afterwards, but rows of it are learned from."""
    return getattr(experiment.train, "preserve", None) is not None


def name_of_cell(experiment: str, values: Mapping[str, object], seed: int, fold: int | None = None) -> str:
    """Name of a cell's runs, such as ``quickstart-rank4-seed0``."""
    parts = [f"{key.rpartition('.')[2]}{shown(value)}" for key, value in values.items()]
    parts += [] if fold is None else [f"fold{fold}"]
    name = "-".join([experiment, *(re.sub(r"[^A-Za-z0-9_.]+", "_", part) for part in parts), f"seed{seed}"])
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
