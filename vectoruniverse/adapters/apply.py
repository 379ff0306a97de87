"""What is trained on a model: choose layers by name, put LoRA on them, open others, count it all."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from vectoruniverse.adapters.lora import LoraAdapter, LoraLinear, refuse_adapted
from vectoruniverse.errors import ConfigError

__all__ = [
    "LoraAdapter",
    "ParameterCount",
    "TowerTargets",
    "also_train",
    "inject_lora",
    "parameter_table",
    "train_everything",
]


@dataclass(frozen=True)
class TowerTargets:
    """Layers of one tower, by name.

    Attributes:
        tower: module path of the tower, such as ``vision_model``; empty is the whole model.
        layers: names; one matches every module whose path within the tower ends with it, component by component
            (``q_proj``, ``self_attn.q_proj``).
        key: config key that the names come from, for error messages.
    """

    tower: str
    layers: tuple[str, ...]
    key: str


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of one part of a model.

    Attributes:
        part: name of a direct child of the model, of a parameter of its own, or ``total``.
        adapted_layers: layers with LoRA on them.
        trainable: parameters that are trained.
        total: all parameters, the adapter's included.
    """

    part: str
    adapted_layers: int
    trainable: int
    total: int

    @property
    def share(self) -> float:
        """Trained share of the part's parameters, 0 to 1."""
        return self.trainable / self.total if self.total else 0.0


def inject_lora(
    model: nn.Module,
    targets: Sequence[TowerTargets],
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    rank_stabilized: bool = False,
    seed: int = 0,
) -> LoraAdapter:
    """Put LoRA on the named layers and freeze everything else.

    Load the model in the compute dtype first: a later ``model.to(dtype)`` would cast the fp32 adapter too.

    Args:
        model: the model, changed in place; ``LoraAdapter.remove`` undoes it.
        targets: layers by tower; a layer named twice is adapted once.
        rank: R of every layer.
        alpha: numerator of the scale alpha / rank.
        dropout: probability of dropping an element of the input of lora_A, in [0, 1).
        rank_stabilized: scale = alpha / √rank in place of alpha / rank.
        seed: with the layer's path, the only source of the initial lora_A.

    Raises:
        ConfigError: a name matches nothing, or a module that is no linear layer.
        RuntimeError: the model already holds an adapter.
    """
    refuse_adapted(model)
    paths = dict.fromkeys(path for target in targets for name in target.layers for path in _match(model, target, name))
    if not paths:
        raise ConfigError(
            "no layers are named, so LoRA would adapt nothing",
            key=", ".join(target.key for target in targets) or None,
            remedy="Name at least one layer of one tower.",
        )
    return LoraAdapter(
        model, paths, rank=rank, alpha=alpha, dropout=dropout, rank_stabilized=rank_stabilized, seed=seed
    )


def train_everything(model: nn.Module) -> list[nn.Parameter]:
    """Full fine-tuning: every float parameter is trained, in fp32 so that small updates are not rounded away."""
    return _train(parameter for parameter in model.parameters() if parameter.is_floating_point())


def also_train(model: nn.Module, names: Sequence[str]) -> list[nn.Parameter]:
    """Train named parameters, or all parameters of named modules, in full and in fp32, beside an adapter.

    Where the rest of the model is bf16 or fp16, run it under autocast from here on.

    Args:
        model: the model, after ``inject_lora``, which freezes what is not its own.
        names: paths such as ``logit_scale`` or ``visual_projection``.

    Raises:
        ConfigError: the model has no such parameter or module.
    """
    chosen: dict[str, nn.Parameter] = {}
    for name in names:
        found = {path: p for path, p in model.named_parameters() if path == name or path.startswith(f"{name}.")}
        if not found:
            raise ConfigError(f"the model has no parameters called {name!r}", remedy=_suggest(name, _parts(model)))
        chosen |= found
    return _train(chosen.values())


def parameter_table(model: nn.Module) -> list[ParameterCount]:
    """Count parameters by direct child of the model, then by parameter of its own, then in total; shared ones once."""
    seen: set[nn.Parameter] = set()
    rows = [_count(name, child, seen) for name, child in model.named_children()]
    for name, parameter in model.named_parameters(recurse=False):
        size = parameter.numel()
        rows.append(ParameterCount(name, 0, size if parameter.requires_grad else 0, size))
    rows = [row for row in rows if row.total]
    sums = (sum(row.adapted_layers for row in rows), sum(row.trainable for row in rows), sum(row.total for row in rows))
    return [*rows, ParameterCount("total", *sums)]


def _match(model: nn.Module, target: TowerTargets, name: str) -> list[str]:
    """Paths of the linear layers of a tower that a name means."""
    modules = _tower_modules(model, target)
    found = {path: module for path, module in modules.items() if f".{path}".endswith(f".{name}")}
    tower = target.tower or "the model"
    linear = {path.rpartition(".")[2] for path, module in modules.items() if isinstance(module, nn.Linear)}
    if not found or not name:
        raise ConfigError(f"no layer of {tower} is called {name!r}", key=target.key, remedy=_suggest(name, linear))
    for path, module in found.items():
        if not isinstance(module, nn.Linear):
            raise ConfigError(
                f"{name!r} names {path} in {tower}, a {type(module).__name__} and no linear layer",
                key=target.key,
                remedy=_suggest(name, linear),
            )
    return [f"{target.tower}.{path}" if target.tower else path for path in found]


def _tower_modules(model: nn.Module, target: TowerTargets) -> dict[str, nn.Module]:
    """Modules of a tower by path within it, without the insides of ``nn.MultiheadAttention``.

    That class reads the weight of its ``out_proj`` and never calls it, so that LoRA there would do nothing.
    """
    try:
        modules = dict(model.get_submodule(target.tower).named_modules())
    except AttributeError:
        remedy = _suggest(target.tower, {name for name, _ in model.named_children()})
        raise ConfigError(f"the model has no tower {target.tower!r}", key=target.key, remedy=remedy) from None
    readers = {path for path, module in modules.items() if isinstance(module, nn.MultiheadAttention)}
    return {path: module for path, module in modules.items() if path and path.rpartition(".")[0] not in readers}


def _suggest(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name.rpartition(".")[2], sorted(known), n=1)
    return (f"Did you mean {near[0]!r}? " if near else "") + f"Choose from {', '.join(sorted(known)) or '(nothing)'}."


def _parts(model: nn.Module) -> set[str]:
    own = {name for name, _ in model.named_parameters(recurse=False)}
    return own | {name for name, child in model.named_children() if any(True for _ in child.parameters())}


def _train(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    chosen = list(parameters)
    for parameter in chosen:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return chosen


def _count(name: str, part: nn.Module, seen: set[nn.Parameter]) -> ParameterCount:
    own = [parameter for parameter in part.parameters() if parameter not in seen]
    seen.update(own)
    trainable = sum(parameter.numel() for parameter in own if parameter.requires_grad)
    adapted = sum(isinstance(module, LoraLinear) for module in part.modules())
    return ParameterCount(name, adapted, trainable, sum(parameter.numel() for parameter in own))
