"""What the runner asks of a task: the module ``setup`` of its folder, which the table of tasks names.

It has three functions: ``share`` (config → data → base), ``prepare`` (adapter → task, on what is shared) and
``evaluate_base``. What a run needs of its task stands in its ``Prepared``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from vectoruniverse.adapters.base import Adapter
from vectoruniverse.config.sections import Experiment
from vectoruniverse.evaluation.comparison import Comparison
from vectoruniverse.evaluation.label_report import LabelReport
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.models.compute import Compute
from vectoruniverse.report.run import Findings
from vectoruniverse.runs.records import BlendRecord, ForgettingRecord
from vectoruniverse.tasks.rows import Data, RowChoice
from vectoruniverse.terminal import Display
from vectoruniverse.training.strata import Blocks, Miner, Strata
from vectoruniverse.training.task import Task

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the adapted model among which a blend is chosen."""


@dataclass(slots=True)
class Shared:
    """What runs of one base on the same data have in common; loaded once.

    Attributes:
        key: ``sharing_key`` of the experiments that may use it.
        compute: where and in which format.
        data: rows and their division.
        evaluations: what the base reaches, by split, once somebody asked.
    """

    key: str
    compute: Compute
    data: Data[Any, Any]
    evaluations: dict[str, Evaluation]


@dataclass(frozen=True, slots=True)
class Prepared(ABC):
    """Everything a run works with: before its first step, or as a finished run left it.

    Attributes:
        experiment: what is run.
        compute: where and in which format.
        data: rows and their division.
        model: everything with weights.
        adapters: what is trained on the model, by the part that it is on (empty where there is only one).
        task: what is learned and how it is evaluated.
        starts_as_base: whether the model is its base before the first step, as with a new LoRA, which adds nothing.
    """

    experiment: Experiment
    compute: Compute
    data: Data[Any, Any]
    model: nn.Module
    adapters: Mapping[str, Adapter]
    task: Task
    starts_as_base: bool

    def units(self, split: str) -> Sequence[str] | None:
        """Group of each row that the task evaluates; see ``Data.units``."""
        return self.data.units(split)

    def row_names(self, rows: np.ndarray) -> list[str]:
        """What people call the training rows at these positions."""
        named = self.data.named_rows()
        return [str(named[i]) for i in self.data.split.train[rows]]

    def ahead(self, rows: np.ndarray) -> None:
        """That the training rows at these positions are those of the next step: they may be read meanwhile."""
        del rows  # which are in memory, or no slower to read later

    def release(self) -> None:
        """Make what is shared the base again."""
        for adapter in self.adapters.values():
            adapter.remove()

    def save(self, folder: Path) -> None:
        """Write what was trained, part by part."""
        for part, adapter in self.adapters.items():
            adapter.save(folder / part)

    def choose_scale(self, split: str) -> BlendRecord:
        """The scale between base and adapted model that does best on the rows of a split; left is the adapted model."""
        metric, curve = self.experiment.eval.monitor, []
        for scale in SCALES:
            for adapter in self.adapters.values():
                adapter.set_scale(scale)
            curve.append({"scale": scale, "new": self.task.evaluate(split).metrics[metric]})
        best = max(curve, key=lambda point: (point["new"], point["scale"]))["scale"]
        rule = f"best {metric}; the larger scale of equals"
        return BlendRecord(scale=best, split=split, metric=metric, curve=curve, rule=rule)

    def blend(self, scale: float) -> None:
        """Make the model at this scale the adapted one, for good."""
        for adapter in self.adapters.values():
            adapter.blend(scale)

    def forgotten(self, split: str, kept_scale: float) -> ForgettingRecord | None:
        """What training gained on the rows of a split and lost on those that the base knew, where these are known.

        Args:
            split: of the run's own rows.
            kept_scale: of the adapter that will be saved; what is on the model is the adapter in full.
        """
        del split, kept_scale
        return None

    def learn_labels(self, base: Evaluation, adapted: Evaluation) -> Prepared:
        """The same, knowing how to predict labels; itself where it knows already, or its rows have none.

        Args:
            base: what the base makes of the validation rows.
            adapted: what the model makes of them, once training has ended.
        """
        del base, adapted
        return self

    def save_labels(self, folder: Path) -> None:
        """Write how to predict labels, where that was learned, into the folder of what was trained."""
        del folder

    def label_report(self, base: Evaluation, adapted: Evaluation, split: str) -> LabelReport | None:
        """How well both models predict labels of the rows of a split, where its rows have some."""
        del base, adapted, split
        return None

    @property
    def strata(self) -> Strata | Blocks | None:
        """Kinds of training rows that are spread evenly over the batches; None: rows are shuffled."""
        return None

    @property
    def miner(self) -> Miner | None:
        """Finds strata by the model before each epoch; None: they are the same in all."""
        return None

    @property
    def library(self) -> str:
        """The library that reads what was trained."""
        return next(iter(self.adapters.values())).library

    @abstractmethod
    def base_model(self) -> str:
        """The base in words: its name, and its commit where known."""

    @abstractmethod
    def snippet(self) -> str:
        """Python that loads what the run made, run in the run folder."""

    @property
    def towers(self) -> tuple[str, ...]:
        """Module paths whose adapted layers are described together; the empty path is the whole model."""
        return ("",)

    @property
    def has_space(self) -> bool:
        """Whether vectors are what the task is after, so that a narrow space is a fault."""
        return True

    @property
    def tags(self) -> tuple[str, ...]:
        """What the model card is filed under; the library first."""
        return (self.library, self.experiment.task, "vectoruniverse")

    def facts(self) -> dict[str, str]:
        """What model card and report tell of the task beside what is told of every run, in Markdown."""
        return {}

    def remarks(self) -> tuple[str, ...]:
        """What follows from the settings here and cannot be read from them, as what has no effect; a sentence each."""
        return ()

    def warnings(self) -> list[str]:
        """What a person should know before training; a sentence each."""
        return []

    def findings(self, comparison: Comparison) -> Findings:
        """Figures, tables and retrievals that only this task has."""
        del comparison
        return Findings()

    @property
    def beside(self) -> Mapping[str, nn.Module]:
        """Layers that are trained beside the model and are no part of it, by name."""
        return {}

    @property
    def adapter_words(self) -> str:
        """What is trained; of several LoRA, the one of the highest rank."""
        return max(self.adapters.values(), key=lambda one: one.low_rank.rank if one.low_rank else 0).words

    def trained_parameters(self) -> int:
        """Number of parameters that are trained."""
        return sum(parameter.numel() for parameter in self.task.trained().values())


class Setup(Protocol):
    """The module ``setup`` of a task's folder."""

    def share(self, experiment: Experiment, display: Display, choice: RowChoice | None = None) -> Shared:
        """Config → data → base; nothing is written but caches.

        Args:
            experiment: what is run.
            display: what a person sees.
            choice: which rows are evaluated, of a run that was trained; None: the split that the experiment draws.
        """

    def prepare(self, experiment: Experiment, shared: Shared, trained: Path | None = None) -> Prepared:
        """Adapter → task, on what is shared; ``release`` undoes it.

        Args:
            experiment: of the same ``sharing_key`` as ``shared``.
            shared: what other runs may use too.
            trained: the folder of a trained adapter, to be put on in place of a new one.
        """

    def evaluate_base(self, experiment: Experiment, shared: Shared, split: str) -> Evaluation:
        """What the model reaches before any training; no adapter may be on it then."""
