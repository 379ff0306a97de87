"""What the loop asks of a task. A new task is one file that fits this Protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from vectoruniverse.evaluation.result import Evaluation


@dataclass(frozen=True, slots=True)
class StepLoss:
    """Loss of one batch. Whatever the device computed stays there: the loop reads it when it is told to somebody.

    On several processes it is this one's share: total, parts and a chance on the device are sums over the processes.

    Attributes:
        total: what is minimised, 0-d with gradient.
        parts: named parts of it, for people.
        embeddings: rows of the shared space (N, E) whose effective rank is watched; None where there is no such space.
        chance: the total of a model that tells no row of this batch from another; None where nobody knows it.
        watched: named scalars that are no part of the loss and that people should see.
    """

    total: Tensor
    parts: Mapping[str, Tensor]
    embeddings: Tensor | None = None
    chance: Tensor | float | None = None
    watched: Mapping[str, Tensor | float] = field(default_factory=dict)


class Task(Protocol):
    """What is learned (``loss``) and how it is evaluated (``evaluate``)."""

    @property
    def train_rows(self) -> int:
        """Number of training rows."""

    def trained(self) -> Mapping[str, nn.Parameter]:
        """The parameters that are trained, by name, always in the same order."""

    def modules(self) -> list[nn.Module]:
        """The layers that own them: the optimizer spares norms and embeddings from decay, the loop sets their mode."""

    def loss(self, rows: np.ndarray, epoch: int) -> StepLoss:
        """Loss of the training rows at these positions; a pure function of parameters, rows, epoch and torch's seed.

        On several processes the rows are those of all, of which a process takes its own (``processes.own``).
        """

    def after_step(self) -> None:
        """Bring parameters back into their bounds after an update."""

    def evaluate(self, split: str = "val") -> Evaluation:
        """Evaluate the model on ``val``, ``train`` or ``test`` rows, in evaluation mode and without gradients."""
