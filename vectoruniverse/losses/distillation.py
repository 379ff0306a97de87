"""Embedding distillation: how far a model's vectors are from those of a frozen teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Distance = Literal["cosine", "squared"]


def distillation(views: Sequence[Tensor], teacher: Tensor, *, distance: Distance) -> Tensor:
    """Mean over views and rows of 1 - s·t (``cosine``) or ‖s - t‖² (``squared``), which for unit rows is twice that.

    Args:
        views: the student's unit rows (B, E), one or several views of the same examples.
        teacher: the teacher's unit rows (B, E), which no gradient reaches.
        distance: what is averaged.

    Returns:
        0-d float32 with gradient; 0 where every view is the teacher's.
    """
    student, fixed = torch.stack(list(views)).float(), teacher.detach().float()
    if distance == "squared":
        return (student - fixed).square().sum(dim=-1).mean()
    return 1.0 - (student * fixed).sum(dim=-1).mean()
