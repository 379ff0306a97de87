"""From host memory to the device, without waiting for what is queued there."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on the device, queued behind the work that is there.

    CUDA copies without a wait from page-locked memory only. On MPS the copy is waited for, which would else read memory
    that may have been freed (pytorch/pytorch#83015).
    """
    source = tensor.pin_memory() if device.type == "cuda" else tensor
    return source.to(device, non_blocking=device.type != "mps")
