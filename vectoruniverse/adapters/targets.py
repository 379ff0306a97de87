"""Which layers are adapted: names, resolved to module paths of one model.

A name is the end of a module path, whole components of it: ``q_proj``, ``self_attn.q_proj``. A part of a fused
projection is named as if it were a layer of its own: ``c_attn.q``, ``attn.qkv.v``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from vectoruniverse.adapters.linear_layers import SLICES, is_linear, why_not_fused
from vectoruniverse.errors import ConfigError

ATTENTION = "attention"
"""Stands for the attention projections of the model's family."""


@dataclass(frozen=True)
class TowerTargets:
    """Layers of one tower, by name.

    Attributes:
        tower: module path of the tower, such as ``vision_model``; empty is the whole model.
        layers: names; one matches every module whose path within the tower ends with it, component by component
            (``q_proj``, ``self_attn.q_proj``); ``c_attn.q`` is the part q of the fused projection ``c_attn``.
        key: config key that the names come from, for error messages.
        layers_to_transform: indices of the blocks to adapt, 0 the one next to the input; None is all. The index is the
            first number in a path within the tower, as in peft.
        blocks_key: config key that the indices come from.
    """

    tower: str
    layers: tuple[str, ...]
    key: str
    layers_to_transform: tuple[int, ...] | None = None
    blocks_key: str | None = None


def tower_targets(
    tower: str, layers: Sequence[str], blocks: Sequence[int] | None, own: Sequence[str], *, keys: tuple[str, str]
) -> TowerTargets:
    """The layers to adapt in one tower; the word ``attention`` stands for ``own``, those of the model's family."""
    named = [*(own if ATTENTION in layers else ()), *(layer for layer in layers if layer != ATTENTION)]
    only = None if blocks is None else tuple(blocks)
    return TowerTargets(tower, tuple(dict.fromkeys(named)), keys[0], layers_to_transform=only, blocks_key=keys[1])


def resolve(model: nn.Module, targets: Sequence[TowerTargets]) -> dict[str, tuple[str, ...]]:
    """Module paths of the named layers, each with the adapted parts of a fused projection; none: the whole layer.

    Raises:
        ConfigError: a name matches nothing, or a module that is no linear layer; an index is no block's; a layer is
            named both whole and in parts.
    """
    found: dict[str, set[str]] = {}
    for target in targets:
        for name in target.layers:
            for path, part in _match(model, target, name):
                found.setdefault(path, set()).add(part)
                if len(found[path]) > 1 and "" in found[path]:
                    remedy = "Name the whole layer or its parts, not both."
                    raise ConfigError(f"{path} is named whole and in parts", key=target.key, remedy=remedy)
    if not found:
        raise ConfigError(
            "no layers are named, so LoRA would adapt nothing",
            key=", ".join(target.key for target in targets) or None,
            remedy="Name at least one layer of one tower.",
        )
    return {path: tuple(part for part in SLICES if part in parts) for path, parts in found.items()}


def suggest(name: str, known: set[str]) -> str:
    """The nearest of the known names, and all of them."""
    near = difflib.get_close_matches(name.rpartition(".")[2], sorted(known), n=1)
    return (f"Did you mean {near[0]!r}? " if near else "") + f"Choose from {', '.join(sorted(known)) or '(nothing)'}."


def _match(model: nn.Module, target: TowerTargets, name: str) -> list[tuple[str, str]]:
    """Paths of the linear layers of a tower that a name means, each with a part, empty for the whole layer."""
    modules = _tower_modules(model, target)
    found, part = _ending(modules, name), ""
    if not found and name.rpartition(".")[2] in SLICES:
        whole, _, part = name.rpartition(".")
        found = _ending(modules, whole)
    tower = target.tower or "the model"
    linear = {path.rpartition(".")[2] for path, module in modules.items() if is_linear(module)}
    if not found or not name:
        raise ConfigError(f"no layer of {tower} is called {name!r}", key=target.key, remedy=suggest(name, linear))
    for path, module in found.items():
        if not is_linear(module):
            raise ConfigError(
                f"{name!r} names {path} in {tower}, a {type(module).__name__} and no linear layer",
                key=target.key,
                remedy=_read_not_called(module) or suggest(name, linear),
            )
        if part:
            _refuse_unless_fused(model, path, module, part, target.key)
    return [(f"{target.tower}.{path}" if target.tower else path, part) for path in _of_blocks(list(found), target)]


def _ending(modules: dict[str, nn.Module], name: str) -> dict[str, nn.Module]:
    return {path: module for path, module in modules.items() if name and f".{path}".endswith(f".{name}")}


def _refuse_unless_fused(model: nn.Module, path: str, module: nn.Module, part: str, key: str) -> None:
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if reason := why_not_fused(module, path.rpartition(".")[2], model_type):
        raise ConfigError(
            f"{path} has no part {part!r}: {reason}",
            key=key,
            remedy=f"Adapt the whole layer, {path.rpartition('.')[2]}.",
        )


def _of_blocks(paths: list[str], target: TowerTargets) -> list[str]:
    """The paths within the chosen blocks."""
    if target.layers_to_transform is None:
        return paths
    indices = {path: int(number[1]) for path in paths if (number := re.search(r"(?:^|\.)(\d+)\.", path))}
    key = target.blocks_key or target.key
    if absent := sorted(set(target.layers_to_transform) - set(indices.values())):
        there = f"0 to {max(indices.values())}" if indices else "no numbered ones"
        raise ConfigError(
            f"{target.tower or 'the model'} has no block {absent[0]} with that layer",
            key=key,
            remedy=f"There are {there}.",
        )
    return [path for path, index in indices.items() if index in target.layers_to_transform]


def _tower_modules(model: nn.Module, target: TowerTargets) -> dict[str, nn.Module]:
    """Modules of a tower by path within it, without the insides of ``nn.MultiheadAttention``.

    That class reads the weight of its ``out_proj`` and never calls it, so that LoRA there would do nothing.
    """
    try:
        modules = dict(model.get_submodule(target.tower).named_modules())
    except AttributeError:
        remedy = suggest(target.tower, {name for name, _ in model.named_children()})
        raise ConfigError(f"the model has no tower {target.tower!r}", key=target.key, remedy=remedy) from None
    readers = {path for path, module in modules.items() if isinstance(module, nn.MultiheadAttention)}
    return {path: module for path, module in modules.items() if path and path.rpartition(".")[0] not in readers}


def _read_not_called(module: nn.Module) -> str | None:
    """Why ``nn.MultiheadAttention`` is left out, and what to do instead.

    Its ``in_proj_weight`` is a bare parameter that no layer is called with. A torch parametrization could add the
    update to it, but without dropout, rounded to the weight's dtype at each forward, and in a form that peft cannot
    load (peft adapts ``in_proj_weight`` and ``out_proj`` together or not at all).
    """
    if not isinstance(module, nn.MultiheadAttention):
        return None
    return "It reads its weights and calls no layers: load the model in transformers, where q, k and v are layers."
