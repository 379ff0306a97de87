"""What a training would do, told by updates that are forgotten: its plan, or its learning rate. Nothing is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from vectoruniverse.adapters.apply import ParameterCount, parameter_table
from vectoruniverse.config.sections import Experiment
from vectoruniverse.experiment import build_trainer, warnings_before
from vectoruniverse.tasks.table import setup
from vectoruniverse.terminal import Display
from vectoruniverse.training.batches import batches, steps_per_epoch
from vectoruniverse.training.blocks import passed_as_asked
from vectoruniverse.training.build import build_schedule
from vectoruniverse.training.device import peak_memory
from vectoruniverse.training.find_lr import PROBE_STEPS, LrFinder, Rates
from vectoruniverse.training.observer import Observer
from vectoruniverse.training.precision import settle_precision


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training would do, and what two updates of it took.

    Attributes:
        rows: by what becomes of them.
        steps_per_epoch, steps: updates.
        parameters: trained and frozen ones, by layer.
        compute: device, format and threads.
        precision: how the format was chosen.
        loss: of the first batch, in all and by part.
        seconds_per_step: of the second update, for the first one also pays for what happens once.
        seconds: all updates at that pace; evaluations and the report come on top.
        memory: most bytes in use, gradients and the optimizer's state included; None where the system does not tell.
        warnings: what does not fit together.
    """

    rows: Mapping[str, int]
    steps_per_epoch: int
    steps: int
    parameters: list[ParameterCount]
    compute: str
    precision: str
    loss: Mapping[str, float]
    seconds_per_step: float
    seconds: float
    memory: int | None
    warnings: list[str]


def dry_run(experiment: Experiment, display: Display) -> Plan:
    """Load everything, make two updates that are forgotten, write nothing."""
    experiment, measured = settle_precision(experiment, display.say)
    shared = setup(experiment).share(experiment, display)
    prepared = setup(experiment).prepare(experiment, shared)
    task, batch_size = prepared.task, experiment.train.batch_size
    per_epoch = steps_per_epoch(task.train_rows, batch_size)
    steps = per_epoch * experiment.train.epochs
    trainer = build_trainer(prepared, task, Observer(display.warn), build_schedule(experiment.train, steps))
    rows = batches(task.train_rows, batch_size, experiment.seed, 0, prepared.strata)[0]
    for module in task.modules():
        module.train()
    with passed_as_asked(prepared.model, experiment.train, prepared.compute.device):
        first, again = trainer.train_step(rows, 0), trainer.train_step(rows, 0)
    seconds = len(rows) / again["pairs_per_second"]
    warnings = warnings_before(prepared, steps)
    for said in warnings:
        display.warn_once(said)
    for line in prepared.remarks():
        display.say(line)
    return Plan(
        rows=prepared.data.counts(),
        steps_per_epoch=per_epoch,
        steps=steps,
        parameters=parameter_table(prepared.model, prepared.beside),
        compute=prepared.compute.with_threads,
        precision="as named" if measured is None else measured.words,
        loss={
            "total": first["loss"],
            **{n.removeprefix("loss/"): v for n, v in first.items() if n.startswith("loss/")},
        },
        seconds_per_step=seconds,
        seconds=seconds * steps,
        memory=peak_memory(prepared.compute.device),
        warnings=warnings,
    )


def find_lr(experiment: Experiment, display: Display, *, steps: int = PROBE_STEPS) -> Rates:
    """Measure which learning rate learns, in updates that are forgotten; write nothing.

    Args:
        experiment: what is to be trained.
        display: what a person sees.
        steps: updates of each probe.

    Raises:
        DataError: there are too few training rows.
    """
    experiment, _ = settle_precision(experiment, display.say)
    shared = setup(experiment).share(experiment, display)
    prepared = setup(experiment).prepare(experiment, shared)
    watching = {
        "guard": experiment.guard.model_copy(update={"action": "off"}),  # a collapse is a finding here
        "train": experiment.train.model_copy(update={"log_every": 1}),
    }
    unguarded = dataclasses.replace(prepared, experiment=experiment.model_copy(update=watching))
    try:
        with passed_as_asked(prepared.model, experiment.train, prepared.compute.device):
            return LrFinder(
                prepared.task,
                lambda schedule: build_trainer(unguarded, prepared.task, Observer(display.warn), schedule),
                batch_size=experiment.train.batch_size,
                seed=experiment.seed,
                min_share=experiment.guard.min_share,
                tell=lambda done, total, detail: display.advance("learning rates", done, total, detail),
            ).find(experiment.train.lr, steps)
    finally:
        prepared.release()
