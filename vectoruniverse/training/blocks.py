"""How the blocks of a transformer are passed while it trains: compiled, or with their activations made again.

Either is PyTorch's own, put on each block in place, so that names of parameters stay. Evaluation passes them as ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vectoruniverse.config.sections import TrainConfig
from vectoruniverse.errors import ConfigError
from vectoruniverse.models.shards import in_shards
from vectoruniverse.training.packed_weights import packed_weights

Forward = Callable[..., Any]

_MOST_KINDS = 64
"""Of blocks, each compiled once, before torch gives up compiling: two towers, ranks by layer, masks, formats."""


@contextlib.contextmanager
def passed_as_asked(model: nn.Module, train: TrainConfig, device: torch.device) -> Iterator[None]:
    """Within this, the model is passed as ``train.compile``, ``activation_checkpointing`` and ``packed_weights`` ask.

    Raises:
        ConfigError: torch cannot compile here.
    """
    with contextlib.ExitStack() as stack:
        blocks = blocks_of_gradients(model)
        if train.compile:
            check_compiler(device)
            stack.enter_context(torch._dynamo.config.patch(recompile_limit=_MOST_KINDS))
            stack.enter_context(_instead(blocks, _compiled))
        elif train.packed_weights and device.type == "cpu" and not any(map(in_shards, model.parameters())):
            # the compiler chooses kernels itself, and of shards nothing whole is kept
            stack.enter_context(packed_weights(model))
        if train.activation_checkpointing:
            stack.enter_context(_instead(blocks, _made_again))
        yield


def blocks_of_gradients(model: nn.Module) -> list[nn.Module]:
    """Of each stack of blocks the first with something trained, and those above it; below it nothing flows back."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    found: list[nn.Module] = []
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList) and all(isinstance(one, GradientCheckpointingLayer) for one in stack):
            trained = [any(one.requires_grad for one in block.parameters()) for block in stack]
            found += [*stack][trained.index(True) if True in trained else len(trained) :]
    return found


def check_compiler(device: torch.device) -> None:
    """Raise where torch.compile lacks what it writes its kernels with, before the model is loaded by a failing step.

    Raises:
        ConfigError: there is no C++ compiler, or on a GPU no Triton.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch.utils._triton import has_triton

    lacking = None
    if device.type == "cuda" and not has_triton():
        lacking = "Triton, which comes with CUDA builds of torch for Linux"
    try:
        get_cpp_compiler()
    except RuntimeError:  # InvalidCxxCompiler, or what it could not start
        lacking = "a C++ compiler (apt install g++)"
    if lacking:
        remedy = f"install {lacking}, or set train.compile to false"
        raise ConfigError("torch.compile does not work here", key="train.compile", remedy=remedy)


@contextlib.contextmanager
def _instead(blocks: Sequence[nn.Module], make: Callable[[Forward], Forward]) -> Iterator[None]:
    """Within this, training passes what ``make`` gives for each block's forward."""
    before = [(block, block.forward, vars(block).get("forward")) for block in blocks]
    for block, forward, _ in before:
        block.forward = partial(_pass, block, forward, make(forward))
    try:
        yield
    finally:
        for block, _, own in before:
            if own is None:
                del block.forward
            else:
                block.forward = own


def _pass(block: nn.Module, forward: Forward, in_training: Forward, *inputs: Any, **more: Any) -> Any:
    """A block, as ``in_training`` where it trains and gradients are kept."""
    return (in_training if block.training and torch.is_grad_enabled() else forward)(*inputs, **more)


def _made_again(forward: Forward) -> Forward:
    """Keeps the inputs alone; the way back computes the rest once more, dropout replayed (arXiv:1604.06174)."""
    return partial(checkpoint, forward, use_reentrant=False)


def _compiled(forward: Forward) -> Forward:
    """Compiled for every length and number of rows at once, so that no batch compiles anew."""
    compiled: Forward = torch.compile(forward, dynamic=True)
    return compiled
