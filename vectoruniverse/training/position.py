"""Where a training stands, and how it goes on from what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import AliasChoices, ConfigDict, Field
from torch import Tensor, nn

from vectoruniverse.errors import DataError
from vectoruniverse.runs.files import Record, check_record
from vectoruniverse.training.checkpoint import Checkpoint

DAMAGED = "delete that folder to go on from an earlier checkpoint, or train a new run"
"""What to do about a checkpoint."""


Count = Annotated[int, Field(ge=0, strict=True)]


Number = Annotated[float, Field(strict=True)]


@dataclass(slots=True)
class Position:
    """Where training stands; all of it is saved with every checkpoint.

    Attributes:
        step: optimizer steps done.
        best: the monitored metric of the best epoch; None before any epoch could be it.
        best_loss: loss on the held-out rows of that epoch, where the task has one.
        best_epoch: the epoch; of equals in metric the one of lower loss, else the last of them.
        improved: the last epoch with a greater metric than all before it, which patience is counted from; None: it is
            the best one.
        evaluated: the last epoch that was evaluated.
        initial_rank: effective rank of the first batch.
        collapsed_at: step at which the guard first saw a collapse.
        clipped: steps whose gradient was longer than ``train.clip_grad_norm``.
        base: metrics before the first step.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    step: Count = 0
    best: Number | None = None
    best_loss: Number | None = None
    best_epoch: Count = 0
    improved: Count | None = None
    evaluated: Annotated[Count, Field(validation_alias=AliasChoices("evaluated", "judged"))] = 0
    initial_rank: Number | None = None
    collapsed_at: Count | None = None
    clipped: Count = 0
    base: dict[str, Number] = field(default_factory=dict)


class TrainerState(Record):
    """``state.json`` of a checkpoint: all that it holds beside tensors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=True)
    position: Position
    optimizer: dict[str, Any]
    scaler: dict[str, int | float]


def trainer_state(checkpoint: Checkpoint) -> TrainerState:
    """What a checkpoint's ``state.json`` tells.

    Raises:
        DataError: it is not what a trainer saved.
    """
    return check_record(checkpoint.state, TrainerState, file=checkpoint.path, remedy=DAMAGED)


def restore_parameters(
    trained: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor], file: Path | None = None
) -> None:
    """Copy saved values, which come from ``file``, into the parameters of the same names.

    Raises:
        DataError: names or shapes differ, or a value is not finite, as no checkpoint that was saved here is.
    """
    different = sorted(trained.keys() ^ saved.keys())
    different += [name for name in trained.keys() & saved.keys() if trained[name].shape != saved[name].shape]
    if different:
        raise DataError(
            f"the checkpoint holds other parameters than this experiment trains: {different[0]} "
            f"differs, one of {len(different)}",
            file=file,
            remedy="resume with the config the run was started with",
        )
    if bad := [name for name in trained if not bool(torch.isfinite(saved[name]).all())]:
        raise DataError(f"the checkpoint holds numbers in {bad[0]} that are not finite", file=file, remedy=DAMAGED)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(saved[name])
