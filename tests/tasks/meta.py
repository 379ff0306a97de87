"""A task on the device ``meta``, which computes nothing: whatever would wait for a GPU's numbers fails there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vectoruniverse.training.task import Task


class NoWaits(TorchDispatchMode):
    """Refuses copies to the device that are waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = kwargs or {}
        if func is torch.ops.aten._to_copy.default and given.get("device", args[0].device) != args[0].device:
            assert given.get("non_blocking"), "this copy is waited for"
        return func(*args, **given)


@contextlib.contextmanager
def on_meta(task: Task, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The task's layers and tensors are there, and must not be waited for."""
    for module in task.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to("meta")
    for holder in (task, getattr(task, "_pictures", task)):
        for name, value in vars(holder).items():
            if isinstance(value, torch.Tensor):
                setattr(holder, name, value.to("meta"))
    with monkeypatch.context() as patch, NoWaits():
        patch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # knows no such device
        yield
