"""What several runs may share, and the clock around a task."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from vectoruniverse.config.sections import Experiment
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.runs.records import RunState
from vectoruniverse.training.task import StepLoss, Task

NOT_SHARED = ("name", "seed", "adapter", "train", "guard", "loss", "views", "wandb", "tensorboard")
"""Settings that a base and its data do not depend on."""


def sharing_key(experiment: Experiment) -> str:
    """Equal for experiments with the same base, in the same format, on the same data, evaluated alike."""
    adapter = experiment.adapter
    settings = experiment.model_dump(mode="json", exclude=set(NOT_SHARED))
    settings["eval"] = {key: value for key, value in settings["eval"].items() if key not in ("report", "keep", "every")}
    return json.dumps(
        {
            **settings,
            "drawn from": experiment.seed if experiment.draws_base else None,
            "trained in full": adapter.trains_everything,
            "reserved positions": adapter.reserved_positions,
            "compute": [experiment.train.device, experiment.train.precision],
        },
        sort_keys=True,
    )


@dataclass(frozen=True, slots=True)
class RunTimes:
    """Wall-clock time of a run over all its processes.

    Attributes:
        earlier: what earlier processes left.
        started: when this one began with the run, on the monotonic clock.
        task: knows the time of steps and evaluations of this one.
    """

    earlier: RunState
    started: float
    task: TimedTask

    @property
    def seconds(self) -> float:
        """So far."""
        return (self.earlier.seconds or 0.0) + time.monotonic() - self.started

    def facts(self) -> dict[str, float]:
        """So far, as ``state.json`` tells them."""
        return {
            "seconds": round(self.seconds, 3),
            "step_seconds": round((self.earlier.step_seconds or 0.0) + self.task.step_seconds, 3),
            "evaluation_seconds": round((self.earlier.evaluation_seconds or 0.0) + self.task.evaluation_seconds, 3),
        }


class TimedTask:
    """The task as the loop sees it: with a clock, and with the base evaluated already.

    Attributes:
        step_seconds: time in forward, backward and update.
        evaluation_seconds: time in evaluations between steps.
    """

    def __init__(self, task: Task, base: Evaluation | None) -> None:
        """Wrap ``task``; ``base`` is what it reaches before the first step, where that is known."""
        self._task, self._base = task, base
        self.step_seconds = self.evaluation_seconds = 0.0
        self._started = 0.0

    @property
    def train_rows(self) -> int:
        """Number of training rows."""
        return self._task.train_rows

    def trained(self) -> Mapping[str, nn.Parameter]:
        """The task's own."""
        return self._task.trained()

    def modules(self) -> list[nn.Module]:
        """The task's own."""
        return self._task.modules()

    def loss(self, rows: np.ndarray, epoch: int) -> StepLoss:
        """The task's own; a step begins."""
        self._started, self._base = time.perf_counter(), None
        return self._task.loss(rows, epoch)

    def after_step(self) -> None:
        """The task's own; a step ends."""
        self._task.after_step()
        self.step_seconds += time.perf_counter() - self._started

    def evaluate(self, split: str = "val") -> Evaluation:
        """Evaluate the model."""
        if self._base is not None:
            return self._base
        started = time.perf_counter()
        evaluation = self._task.evaluate(split)
        self.evaluation_seconds += time.perf_counter() - started
        return evaluation
