"""This project's own task and update, as `vu train` puts them together."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from bench.machine import clock, device
from bench.material import Material
from vectoruniverse.data.decoding import PictureRecipe
from vectoruniverse.models.picture_input import read_picture_input
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.image_text.data import decode_pictures
from vectoruniverse.tasks.image_text.metadata import read_rows
from vectoruniverse.tasks.image_text.settings import ImageTextExperiment
from vectoruniverse.tasks.image_text.setup import prepare, share
from vectoruniverse.terminal import Display
from vectoruniverse.training.allocator import keep_freed_memory
from vectoruniverse.training.batches import batches
from vectoruniverse.training.blocks import passed_as_asked
from vectoruniverse.training.build import build_schedule
from vectoruniverse.training.loop import Trainer
from vectoruniverse.training.observer import Observer
from vectoruniverse.training.optim import adamw, parameter_groups
from vectoruniverse.training.precision import settle_precision

ONE_VIEW = (  # unaugmented, since the peers augment nothing either
    "loss=info_nce",
    "views={count: 1, crop_scale: [1, 1], crop_ratio: [1, 1], brightness: 0, contrast: 0, saturation: 0}",
)
TWO_VIEWS = ("loss={name: alignment_anisotropy, form: linear}",)
UPPER_THIRD = "adapter={method: lora, rank: 8, vision_layers_to_transform: %s, text_layers_to_transform: %s}"


class Ours:
    """Trains the adapter of the material by this project."""

    def __init__(self, material: Material, batch: int, number_format: str, settings: Sequence[str] = ONE_VIEW) -> None:
        keep_freed_memory()  # as vu does
        place = {"root": material.pictures, "cache_dir": material.folder / f"cache-{time.time_ns()}"}
        asked = load_experiment(
            "quickstart.yaml",
            [
                f"model={material.model}",
                *(f"data.{key}={value}" for key, value in place.items()),
                "data.include={}",
                "data.split={column: part}",
                "forgetting=null",
                f"adapter={{method: lora, init_from: {material.adapter}}}",
                f"train={{batch_size: {batch}, precision: {number_format}, device: {device().type}, lr: 1e-4}}",
                *settings,
            ],
        )
        experiment, _ = settle_precision(asked, print)
        self._decoding = _decode(experiment, material)
        shared = share(experiment, Display(quiet=True))
        self._place = {int(row): place for place, row in enumerate(shared.data.split.train)}  # drawn in another order
        prepared = prepare(experiment, shared)
        self.task, self.experiment, self._model = prepared.task, experiment, prepared.model
        groups = parameter_groups(self.task.trained().items(), self.task.modules(), experiment.train.weight_decay)
        kind = prepared.compute.device.type
        self._trainer = Trainer(
            self.task,
            adamw(groups, fused=kind == "cuda"),
            build_schedule(experiment.train, 1000),
            experiment,
            Observer(print),
            scaler=torch.amp.GradScaler(kind, enabled=prepared.compute.needs_scaler),
        )

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Of these training rows."""
        return self.task.loss(np.array([self._place[row] for row in rows]), 0).total

    def trained(self) -> list[torch.nn.Parameter]:
        """Parameters."""
        return list(self.task.trained().values())

    def step(self) -> None:
        """The first update of an epoch."""
        for module in self.task.modules():
            module.train()
        self._trainer.train_step(batches(self.task.train_rows, self.experiment.train.batch_size, 0, 0)[0], 0)

    def epochs(self, count: int) -> list[float]:
        """Seconds of each; the first decodes the pictures, which later ones find decoded."""
        for module in self.task.modules():
            module.train()
        seconds, train = [], self.experiment.train
        with passed_as_asked(self._model, train, device()):
            for epoch in range(count):
                started = clock()
                steps = batches(self.task.train_rows, train.batch_size, 0, epoch)
                for step, rows in enumerate(steps, start=1):  # numbers are read as often as the loop reads them
                    self._trainer.train_step(rows, epoch, read=step % train.log_every == 0 or step == len(steps))
                seconds.append(clock() - started + (0 if epoch else self._decoding))
        return seconds


def less_work(material: Material) -> Mapping[str, tuple[str, ...]]:
    """Settings that make an update cheaper, by the names of ``training.LESS``."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(material.model)
    blocks = (config.vision_config.num_hidden_layers, config.text_config.num_hidden_layers)
    upper = UPPER_THIRD % tuple([*range(count - max(1, count // 3), count)] for count in blocks)
    return {
        "patch dropout 0.25": (*ONE_VIEW, "views.patch_dropout=0.25"),
        "patch dropout 0.5": (*ONE_VIEW, "views.patch_dropout=0.5"),
        "upper third": (*ONE_VIEW, upper),
        "upper third, trunk kept": (*ONE_VIEW, upper, "views.pool=1"),
    }


def recipe_of(material: Material) -> PictureRecipe:
    """How the model wants a picture."""
    from transformers import AutoConfig, AutoImageProcessor

    size = AutoConfig.from_pretrained(material.model).vision_config.image_size
    processor = AutoImageProcessor.from_pretrained(material.model, backend="pil")
    return read_picture_input(str(material.model), size, processor)


def _decode(experiment: ImageTextExperiment, material: Material) -> float:
    """Seconds to decode every picture into the cache."""
    recipe, started = recipe_of(material), clock()
    paths = [row.path for row in read_rows(experiment.data).rows]
    decode_pictures(experiment.data, paths, recipe, lambda done, total: None)
    return clock() - started
