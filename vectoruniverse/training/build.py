"""The schedule and the trackers that an experiment asks for."""

from __future__ import annotations

import math
import os

from pydantic import ValidationError

from vectoruniverse.config.sections import (
    CosineConfig,
    CosineRestartsConfig,
    Experiment,
    TrainConfig,
    WandbConfig,
)
from vectoruniverse.errors import ConfigError
from vectoruniverse.metrics.catalogue import best_ends
from vectoruniverse.runs.environment import environment
from vectoruniverse.runs.folder import Run
from vectoruniverse.terminal import Display
from vectoruniverse.tracking.contract import Tracker, Trackers
from vectoruniverse.tracking.jsonl import JsonlTracker, read_metrics
from vectoruniverse.tracking.tensorboard import TensorBoardTracker
from vectoruniverse.tracking.weights_and_biases import WandbSettings, WandbTracker
from vectoruniverse.training.optim import Schedule, constant, cosine, cosine_restarts

_WANDB_VARIABLES = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "tags": "WANDB_TAGS",
}


def build_schedule(train: TrainConfig, steps: int) -> Schedule:
    """The configured learning rate over ``steps`` updates."""
    config = train.schedule
    if isinstance(config, CosineRestartsConfig):
        return cosine_restarts(
            peak=train.lr, base=config.base_lr, period=config.period, warmup=config.warmup, decay=config.decay
        )
    if isinstance(config, CosineConfig):
        return cosine(peak=train.lr, steps=steps, warmup=config.warmup, final=config.final)
    return constant(peak=train.lr, steps=steps, warmup=config.warmup)


def schedule_misfit(train: TrainConfig, steps: int) -> str | None:
    """Why the learning rate does not come to its end within ``steps`` updates, and what would; None where it does."""
    config = train.schedule
    if steps == 0:
        return None
    if not isinstance(config, CosineRestartsConfig):
        if config.warmup <= 0.5:
            return None
        return f"train.schedule.warmup: {config.warmup:g} of the {steps} steps are warm-up, more than half of them"
    last = build_schedule(train, steps)(steps - 1)
    if config.warmup <= steps / 2 and last - config.base_lr <= 0.1 * (train.lr - config.base_lr):
        return None
    period = max(2, math.ceil(steps / max(1, round(steps / config.period))))
    warmup = min(period - 1, round(config.warmup * period / config.period))
    return (
        f"train.schedule: warm-up of {config.warmup} in a period of {config.period} steps does not fit the {steps} "
        f"steps of this run, which end at a learning rate of {last:.2g} (peak {train.lr:.2g}, between peaks "
        f"{config.base_lr:.2g}); period: {period} and warmup: {warmup} would fit"
    )


def check_tracking(experiment: Experiment) -> None:
    """Hold what wandb will take from its variables to the limits of the ``wandb`` section, while nothing is trained.

    Raises:
        ConfigError: wandb would refuse the run for a variable's value; names the variable.
    """
    if WandbSettings(mode=experiment.wandb.mode).effective_mode() == "disabled":
        return
    given = {key: os.environ[name] for key, name in _WANDB_VARIABLES.items() if name in os.environ}
    tags = {"tags": given["tags"].split(",")} if "tags" in given else {}
    try:
        WandbConfig.model_validate({**given, **tags})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(
            f"{_WANDB_VARIABLES[str(first['loc'][0])]}: {first['msg'].removeprefix('Value error, ')}",
            remedy="mend the variable or unset it; Weights & Biases would refuse the run",
        ) from None


def build_trackers(experiment: Experiment, run: Run, display: Display, resume_step: int | None) -> Trackers:
    """metrics.jsonl always, Weights & Biases unless it is disabled, TensorBoard where it is wanted."""
    settings = WandbSettings(**experiment.wandb.model_dump())
    told = experiment.model_dump(mode="json")
    trackers: list[Tracker] = [JsonlTracker(run.metrics_file, resume_step)]  # cuts what a resumed run will tell again
    if experiment.tensorboard:  # before the next, which would leave a run behind where the package is missing
        trackers.append(TensorBoardTracker(run.path / "tensorboard", told, resume_step))
    wandb = WandbTracker(
        run.path,
        run.name,
        told,
        display.warn,
        settings,
        best={f"val/{name}": "max" if better == "higher" else "min" for name, better in best_ends()},
        environment=environment().model_dump(),
        history=None if resume_step is None else read_metrics(run.metrics_file),
    )
    return Trackers([*trackers, wandb], display.warn)
