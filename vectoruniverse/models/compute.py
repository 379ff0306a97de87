"""Where and in which format a model computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True, slots=True)
class Compute:
    """Where and in which format a model computes.

    Attributes:
        device: the device of weights and batches.
        dtype: format of activations and of frozen weights; trained parameters are always float32.
        attention: kernel to ask transformers for.
        sharded: whether several processes hold a part of each frozen weight (see ``models.shards``).
    """

    device: torch.device
    dtype: torch.dtype
    attention: Literal["sdpa", "eager"] = "eager"
    sharded: bool = False

    def weights(self, *, trained: bool) -> torch.dtype:
        """Format of weights: frozen ones are kept in that of activations, since autocast would cast them every step."""
        return torch.float32 if trained else self.dtype

    def autocast(self) -> torch.autocast:
        """The context in which layers compute in ``dtype``."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    @property
    def needs_scaler(self) -> bool:
        """float16 gradients underflow below 6e-8, so the loss is scaled up before backward."""
        return self.dtype == torch.float16

    def __str__(self) -> str:
        return f"{self.device}, {str(self.dtype).removeprefix('torch.')}"

    @property
    def with_threads(self) -> str:
        """Device and format, and on the CPU the number of threads."""
        count = torch.get_num_threads()
        return f"{self}, {count} thread{'s' * (count > 1)}" if self.device.type == "cpu" else str(self)
