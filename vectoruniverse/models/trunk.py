"""The frozen part of a tower, below the first block that is trained: its states can be kept, and it be left out then.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vectoruniverse.models.stacks import stacks_of


class _ReachedError(Exception):
    """Ends a pass at the end of the trunk."""


class Trunk:
    """Embeddings of one of transformers' towers, and its blocks below the first one that is trained.

    Attributes:
        blocks: how many blocks it has; 0 where the first one is trained already.
        parts: embeddings, a norm behind them where there is one, and the blocks, each of which gives states (B, L, D).
    """

    def __init__(self, tower: Any) -> None:
        """Find it in a tower, with whatever is trained already in place."""
        named = dict(tower.named_modules())
        stack = next(iter(stacks_of(tower).values()))
        embeddings = next(module for name, module in named.items() if name.rpartition(".")[2] == "embeddings")
        first = [module for module in (embeddings, named.get("pre_layrnorm")) if module is not None]
        frozen = [not any(parameter.requires_grad for parameter in module.parameters()) for module in (*first, *stack)]
        untouched = frozen.index(False) if False in frozen else len(frozen)
        self.blocks = max(0, untouched - len(first))
        self.parts = [*first, *stack[: self.blocks]]
        self._settings = tower.config.to_json_string()

    @contextlib.contextmanager
    def reached(self) -> Iterator[list[Tensor]]:
        """Within this, a pass ends where the trunk ends, and the list has the states of it."""
        found: list[Tensor] = []

        def stop(_module: nn.Module, _args: object, states: Tensor) -> None:
            found.append(states)
            raise _ReachedError

        handle = self.parts[-1].register_forward_hook(stop)
        try:
            yield found
        except _ReachedError:
            pass
        finally:
            handle.remove()

    @contextlib.contextmanager
    def skipped(self, states: Tensor) -> Iterator[None]:
        """Within this, a pass begins behind the trunk, with these states; what the tower is given else is not read."""
        for part in self.parts:
            part.forward = lambda *_, **__: states
        try:
            yield
        finally:
            for part in self.parts:
                del part.forward

    def fingerprint(self) -> str:
        """sha256 of its weights and of the tower's configuration."""
        digest = hashlib.sha256(self._settings.encode())
        for part in self.parts:
            for name, tensor in (*part.named_parameters(), *part.named_buffers()):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()
