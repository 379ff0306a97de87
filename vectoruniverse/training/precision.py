"""What ``train.precision: auto`` becomes: the format in which this machine trains this model fastest, as measured."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import TypeVar

import torch

from vectoruniverse.config.sections import Experiment
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.models.tower import Tower, widest_tower
from vectoruniverse.runs.files import read_record
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.records import Environment, PrecisionRecord
from vectoruniverse.training.device import choose_compute, formats_of
from vectoruniverse.training.probe import Timing, time_formats

MARGIN = 0.1
"""Share of the usual format's time by which another must be faster, so that noise does not choose."""
AGREEING = 0.8
"""Share of the rounds in which it must be faster."""

E = TypeVar("E", bound=Experiment)


def settle_precision(experiment: E, tell: Callable[[str], None]) -> tuple[E, PrecisionRecord | None]:
    """The experiment with ``auto`` replaced by what is fastest here, and what was measured; None where it is named.

    The replaced one is what a run writes down, so that whoever reads the run computes in the same format.

    Args:
        experiment: what is to be trained.
        tell: takes the choice and its figures in a line.

    Raises:
        ConfigError: the device is absent, or torch was built without its architecture.
    """
    if experiment.train.precision != "auto":
        return experiment, None
    measured = measure_precision(experiment)
    tell(f"precision {measured.words}")
    return in_precision(experiment, measured.chosen), measured


def in_precision(experiment: E, precision: str) -> E:
    """The same with ``train.precision`` named, where it is ``auto``."""
    if experiment.train.precision != "auto":
        return experiment
    return experiment.model_copy(update={"train": experiment.train.model_copy(update={"precision": precision})})


def measure_precision(experiment: Experiment) -> PrecisionRecord:
    """Time a block of the experiment's model in each format that its device computes in.

    Raises:
        ConfigError: the device is absent, or torch was built without its architecture.
    """
    device = choose_compute(experiment.train.device).device
    formats = formats_of(device)
    tower = _tower(experiment) if len(formats) > 1 else None
    if tower is None:
        return PrecisionRecord(device=device.type, chosen=formats[0], usual=formats[0])
    adapter = experiment.adapter
    timing = time_formats(
        tower,
        [choose_compute(str(device), name) for name in formats],
        rows=experiment.train.batch_size,
        trained=adapter.trains_everything,
        rank=adapter.rank if adapter.method == "lora" else 0,
    )
    taken = {"rows": timing.rows, "tokens": timing.tokens}
    return PrecisionRecord(
        device=device.type,
        chosen=formats[fastest(timing)],
        usual=formats[0],
        seconds=dict(zip(formats, timing.medians, strict=True)),
        rounds=len(timing.rounds),
        block={**dataclasses.asdict(tower), **taken},
    )


def fastest(timing: Timing) -> int:
    """Place of the fastest format, if it is faster than the first by the margin, and not by some odd rounds."""
    medians = timing.medians
    best = medians.index(min(medians))
    return best if medians[best] < (1 - MARGIN) * medians[0] and timing.faster(best, 0) >= AGREEING else 0


def for_this_device(run: Run, experiment: E) -> E:
    """A run's experiment, whose precision is open again where it was measured on another kind of device than today's.

    Half precision of an old GPU is nothing that a CPU should be held to.
    """
    measured = None
    with contextlib.suppress(DataError):  # which then says nothing of a measurement
        measured = read_record(run.environment_file, Environment, inside=run.path).precision
    named = experiment.train.device
    if measured is None or measured.chosen != experiment.train.precision:
        return experiment
    kind = choose_compute().device.type if named == "auto" else torch.device(named).type
    if kind == measured.device:
        return experiment
    return experiment.model_copy(update={"train": experiment.train.model_copy(update={"precision": "auto"})})


def _tower(experiment: Experiment) -> Tower | None:
    """The model's widest tower; None where it cannot be told, which is raised when the model is loaded."""
    try:
        return widest_tower(getattr(experiment, "model"), getattr(experiment, "revision", None))  # noqa: B009
    except ConfigError:
        return None
