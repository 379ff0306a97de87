"""A frozen base in shards: each of several processes holds a part of every weight, and gathers a block to pass it.

PyTorch's own FSDP2 (``torch.distributed.fsdp.fully_shard``) cuts, gathers and drops. Its units are the blocks of each
transformer, its embeddings, and what else it has; layers around it, such as projections, stay whole, and so is whatever
is trained. Gathering takes all processes, so all must pass the same units in the same order. Where the first one works
alone, the others hand it their parts of each unit that it is about to pass (``helped``, ``help_first``).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vectoruniverse import processes
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.stacks import stacks_of

Model = TypeVar("Model", bound=nn.Module)


def placed(model: Model, compute: Compute) -> Model:
    """A model where it computes: whole, or where it is to be sharded and there are several processes, frozen in shards.

    Those are cut unit by unit from the model on the CPU, so that no device ever holds more than shards and a unit.
    """
    with processes.together():
        if compute.sharded and processes.count() > 1:
            _cut(model, compute.device.type)
    return model.to(compute.device)


def _cut(model: nn.Module, device: str) -> None:
    from torch.distributed.device_mesh import DeviceMesh  # here, for it takes half a second to load

    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)  # nobody writes to it
    mesh = DeviceMesh.from_group(dist.distributed_c10d._get_default_group(), device)
    model.requires_grad_(False)  # so that no gradient of it is made or reduced
    for transformer in model.children():
        for module in reversed(_parts(transformer)):  # what is inside another one first
            _shard(module, mesh)


def plain_class(module: nn.Module) -> type:
    """A module's class, in place of what FSDP makes of it."""
    return next(kind for kind in type(module).__mro__ if not hasattr(kind, "unshard"))


def in_shards(weight: Tensor) -> bool:
    """Whether this process holds a part of it alone."""
    return hasattr(weight, "placements")


@contextlib.contextmanager
def whole(model: nn.Module, layer: nn.Module) -> Iterator[None]:
    """Within this a layer of the model has its weights whole; all processes ask for it, or the first one, helped."""
    units = [unit for unit in _units(model) if any(module is layer for module in unit.modules())]
    if not units:
        yield
        return
    innermost = units[-1]
    _ask_for(innermost)
    innermost.unshard()
    try:
        yield
    finally:
        innermost.reshard()


@contextlib.contextmanager
def helped(model: nn.Module) -> Iterator[None]:
    """Within this the first process works alone, and the others hand it their parts of the units that it passes.

    They are in ``help_first`` meanwhile.
    """
    _Helped.units = _units(model)
    try:
        yield
    finally:
        last, _Helped.units = len(_Helped.units), []
        if last:
            _tell(last)


def help_first(model: nn.Module) -> None:
    """Hand the first process this one's parts of the units that it asks for, until it asks for none any more."""
    units = _units(model)
    while units and (asked := _tell(0)) < len(units):
        units[asked].unshard()
        units[asked].reshard()


class _Helped:
    """The units that this process, which works alone, has to ask the others for; none where all work together."""

    units: ClassVar[list[Any]] = []


def _tell(unit: int) -> int:
    """The number that the first process tells."""
    with processes.together():
        return int(processes.of_first(torch.tensor(unit)))


def _ask_for(unit: nn.Module) -> None:
    if _Helped.units:
        _tell(next(place for place, one in enumerate(_Helped.units) if one is unit))


def _parts(transformer: nn.Module) -> list[nn.Module]:
    """A transformer, its embeddings and its blocks; none of a layer or a list of layers."""
    blocks = {block for stack in stacks_of(transformer).values() for block in stack}
    named = transformer.named_modules()
    found = [one for path, one in named if one in blocks or path.rpartition(".")[2] == "embeddings"]
    return [transformer, *found] if found and not isinstance(transformer, nn.ModuleList) else []


def _units(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "unshard")]


def _shard(module: nn.Module, mesh: Any) -> None:
    """Make a unit of a module's parameters that are in none yet."""
    from torch.distributed.fsdp import fully_shard

    own = [
        (layer, name)
        for layer in module.modules()
        for name, one in layer.named_parameters(recurse=False)
        if not in_shards(one)
    ]
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    if not own:
        return  # it holds its units together
    (layer, name), found_whole = own[0], []

    def before(unit: nn.Module, _inputs: object) -> None:
        found_whole.append(not in_shards(getattr(layer, name)))
        if not found_whole[-1]:
            _ask_for(unit)

    def after(unit: Any, _inputs: object, _output: object) -> None:
        """Leave it as it was found: FSDP keeps whole what it passes again on the way back, as micro-batches do."""
        if not found_whole.pop():
            unit.reshard()

    module.register_forward_pre_hook(before, prepend=True)
    module.register_forward_hook(after)
