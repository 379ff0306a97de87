"""Everything a run works with, put together before its first step; and what several runs can share of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from vectoruniverse.adapters.lora import LoraAdapter
from vectoruniverse.assembly.image_text import build_task
from vectoruniverse.assembly.model import ADAPTERS, BaseWeights, build_encoder, input_size, load_encoder
from vectoruniverse.assembly.rows import ImageTextData, decode, read_rows, refuse_lone_rows
from vectoruniverse.comparison import Judged
from vectoruniverse.config.schema import Experiment, ScratchClip
from vectoruniverse.display import Display
from vectoruniverse.encoders.dual import DualEncoder
from vectoruniverse.tasks.contract import Evaluation, StepLoss
from vectoruniverse.tasks.image_text import ImageTextTask
from vectoruniverse.tasks.judging import judge
from vectoruniverse.training.device import Compute, choose_compute


@dataclass(slots=True)
class Shared:
    """What runs of one base on the same data have in common; loaded once.

    Attributes:
        key: ``sharing_key`` of the experiments that may use it.
        compute: where and in which format.
        data: decoded pictures, texts and their division.
        encoder: the base; whoever puts an adapter on it takes it off again.
        judged: what the base reaches, by split, once somebody asked.
    """

    key: str
    compute: Compute
    data: ImageTextData
    encoder: DualEncoder
    judged: dict[str, Judged] = field(default_factory=dict)

    def base(self, experiment: Experiment, split: str) -> Judged:
        """Judge the base, the first time it is asked for; no adapter may be on the encoder then."""
        if split not in self.judged:
            task = build_task(experiment, self.encoder, self.data)
            self.judged[split] = Judged(*task.judge(task.part(split)))
        return self.judged[split]


def sharing_key(experiment: Experiment) -> str:
    """Equal for experiments with the same base, in the same format, on the same data, judged alike."""
    model = experiment.model
    return json.dumps(
        {
            "data": experiment.data.model_dump(mode="json"),
            "model": model.model_dump(mode="json") if isinstance(model, ScratchClip) else model,
            "revision": experiment.revision,
            "initial weights": experiment.seed if isinstance(model, ScratchClip) else None,
            "trained in full": experiment.adapter.method == "full",
            "compute": [experiment.train.device, experiment.train.precision],
            "judged by": [experiment.eval.recall_at, experiment.eval.label_template, experiment.eval.batch_size],
        },
        sort_keys=True,
    )


def share(experiment: Experiment, display: Display) -> Shared:
    """Config → data → encoder; nothing is written but the cache of decoded pictures."""
    compute = choose_compute(experiment.train.device, experiment.train.precision)
    metadata = read_rows(experiment.data)
    encoder = load_encoder(experiment, compute)
    data = decode(experiment.data, metadata, *input_size(experiment, encoder), display)
    refuse_lone_rows(data)
    encoder = encoder or build_encoder(experiment, compute, data.train_texts())
    return Shared(sharing_key(experiment), compute, data, encoder)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a run works with, before its first step."""

    experiment: Experiment
    compute: Compute
    data: ImageTextData
    encoder: DualEncoder
    adapter: LoraAdapter | None
    task: ImageTextTask
    before: BaseWeights

    def release(self) -> None:
        """Make the encoder the base again, for whoever shares it."""
        self.before.restore(self.adapter)


def prepare(experiment: Experiment, shared: Shared) -> Prepared:
    """Adapter → task, on what is shared; ``release`` undoes it."""
    assert shared.key == sharing_key(experiment), "prepared on another base or other data"
    encoder, data = shared.encoder, shared.data
    before = BaseWeights(encoder, experiment.adapter)
    adapter = ADAPTERS[experiment.adapter.method](encoder, experiment.adapter, experiment.seed)
    task = build_task(experiment, encoder, data)
    return Prepared(experiment, shared.compute, data, encoder, adapter, task, before)


class TimedTask:
    """The task as the loop sees it: with a clock, and with the base judged already.

    Before the first step the model is its base (a new LoRA adds exactly nothing), so it is not judged once more.

    Attributes:
        step_seconds: time in forward, backward and update.
        evaluation_seconds: time in evaluations between steps.
    """

    def __init__(self, task: ImageTextTask, base: Judged | None, recall_at: list[int]) -> None:
        """Wrap ``task``; ``base`` is None where training goes on from a later step."""
        self._task, self._base, self._recall_at = task, base, recall_at
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

    def evaluate(self) -> Evaluation:
        """Judge the model on the validation rows."""
        started = time.perf_counter()
        if self._base is not None:
            return judge(self._base.embeddings, self._task.val.groups, self._recall_at)
        evaluation = self._task.evaluate()
        self.evaluation_seconds += time.perf_counter() - started
        return evaluation
