"""What several processes of a run make of a step together: one exchange of numbers, after the way back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from vectoruniverse import processes
from vectoruniverse.errors import ConfigError
from vectoruniverse.training.task import StepLoss


def refuse_empty_shares(smallest: int) -> None:
    """See that every process has a row of every batch.

    Raises:
        ConfigError: the ``smallest`` batch has fewer rows than there are processes.
    """
    if smallest < processes.count():
        message = f"batches of {smallest} rows cannot be shared by {processes.count()} processes"
        raise ConfigError(message, key="train.batch_size", remedy="raise it, or start fewer processes")


def whole_step(loss: StepLoss, trained: Iterable[nn.Parameter], *, flag: bool) -> tuple[StepLoss, Tensor]:
    """Sum gradients, in place, and the shares of the loss over all processes, in one message.

    Args:
        loss: this process's share, whose gradients are there.
        trained: parameters; one that is in the graph of no process's share, as a pooler that nobody reads, keeps no
            gradient, so that the optimizer leaves it alone as it does in one process.
        flag: something that one process knows and all have to.

    Returns:
        The loss of the batch, without gradient, with the embeddings of own rows; and how many raised the flag (0-d).
    """
    chance = [loss.chance.detach()] if isinstance(loss.chance, Tensor) else []
    scalars = [loss.total.detach(), *loss.parts.values(), *chance, loss.total.new_tensor(float(flag))]
    # shares are made alike, of at least one row each: what has no gradient here has none anywhere
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    flat = torch.cat([*(one.flatten().float() for one in gradients), torch.stack([one.float() for one in scalars])])
    summed = processes.summed(flat)
    at = 0
    for gradient in gradients:
        gradient.copy_(summed[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()
    total, *others = summed[at:].unbind()
    parts = dict(zip(loss.parts, others, strict=False))
    found = others[len(parts)] if chance else loss.chance
    return replace(loss, total=total, parts=parts, chance=found), others[-1]
