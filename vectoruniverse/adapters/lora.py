"""The LoRA layers of one model, put in, trained, merged, saved and taken out together.

The layers themselves: plain (``layers``), parts of a fused projection (``fused``), with magnitudes (``dora``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vectoruniverse.adapters.dora import DoraLinear
from vectoruniverse.adapters.fused import FusedLoraLinear
from vectoruniverse.adapters.initialise import Initialisation
from vectoruniverse.adapters.layers import LoraLinear
from vectoruniverse.adapters.linear_layers import is_linear
from vectoruniverse.adapters.patterns import choose
from vectoruniverse.adapters.prefix_layers import Prefix
from vectoruniverse.errors import ConfigError, DataError

__all__ = [
    "PEFT_PREFIX",
    "LoraAdapter",
    "LoraLinear",
    "check_tensor",
    "lora_plus_groups",
    "refuse_adapted",
]

PEFT_PREFIX = "base_model.model."


class LoraAdapter:
    """The LoRA layers of one model, by module path: put in, trained, merged, saved and taken out together.

    Making one wraps the layers, freezes every other parameter of the model, and gives each layer a lora_A that is a
    pure function of the seed and of the layer's path: the same whatever else is adapted.

    Args:
        model: the model to adapt, changed in place.
        paths: module paths of the layers to wrap, ``nn.Linear`` or GPT-2's ``Conv1D``.
        rank: R of every layer that no pattern fits.
        alpha: numerator of the scale of every layer that no pattern fits.
        dropout: probability of dropping an element of the input of lora_A, in [0, 1).
        rank_stabilized: scale = alpha / √rank in place of alpha / rank.
        seed: seed of the initial lora_A's.
        parts: which of ``q``, ``k``, ``v`` are adapted, by path of a fused projection; others are adapted whole.
        rank_pattern: R by pattern (see ``patterns``).
        alpha_pattern: numerator of the scale by pattern.
        dora: train magnitudes too (see ``dora.DoraLinear``).
        initialisation: where lora_A and lora_B start.

    Raises:
        ConfigError: PiSSA, with a rank above a layer's smaller width; the model is as before.

    Attributes:
        model: the adapted model.
        layers: the layers by module path; empty after ``remove``.
        dropout: probability of dropping an element of the input of every lora_A while training.
    """

    def __init__(
        self,
        model: nn.Module,
        paths: Iterable[str],
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        rank_stabilized: bool = False,
        seed: int = 0,
        parts: Mapping[str, tuple[str, ...]] | None = None,
        rank_pattern: Mapping[str, int] | None = None,
        alpha_pattern: Mapping[str, float] | None = None,
        dora: bool = False,
        initialisation: Initialisation = "kaiming",
    ) -> None:
        self.model = model
        self.rank, self.alpha, self.dropout, self.rank_stabilized = rank, alpha, dropout, rank_stabilized
        self.dora, self.initialisation = dora, initialisation
        self._trainable_before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        self._overwritten: list[tuple[str, Tensor, Tensor]] = []
        self.layers: dict[str, LoraLinear] = {}
        model.requires_grad_(False)
        try:
            for path in paths:
                settings = {
                    "rank": choose(rank_pattern or {}, path, rank),
                    "alpha": choose(alpha_pattern or {}, path, alpha),
                    "dropout": dropout,
                    "rank_stabilized": rank_stabilized,
                    "generator": _generator(seed, path),
                    "initialisation": initialisation,
                }
                self.layers[path] = _layer(model.get_submodule(path), (parts or {}).get(path, ()), dora, settings)
                _place(model, path, self.layers[path])
        except ConfigError as error:
            self.remove()
            raise ConfigError(f"{path}: {error.message}", remedy=error.remedy) from error

    def parameters(self) -> list[nn.Parameter]:
        """Every lora_A and lora_B, and DoRA's magnitudes: what an optimizer gets."""
        return [parameter for layer in self.layers.values() for parameter in layer.trained().values()]

    def merge(self) -> None:
        """Merge every layer (see ``LoraLinear.merge`` for what it costs)."""
        for layer in self.layers.values():
            layer.merge()

    def unmerge(self) -> None:
        """Unmerge every layer."""
        for layer in self.layers.values():
            layer.unmerge()

    def set_scale(self, factor: float) -> None:
        """Multiply every layer's scale by a factor: 0 is the base model, 1 the adapter in full. It is not saved.

        Raises:
            RuntimeError: the adapter is merged, so that the factor would have no effect.
        """
        self._refuse_merged("set_scale")
        for layer in self.layers.values():
            layer.factor = factor

    def rescale(self, factor: float) -> None:
        """Make every update ``factor`` times what it is, for good, and saved: see ``LoraLinear.rescale``."""
        self._refuse_merged("rescale")
        self.alpha *= factor or 1.0
        for layer in self.layers.values():
            layer.rescale(factor)

    def overwrite(self, tensors: Mapping[str, Tensor]) -> None:
        """Give named parameters or buffers of the model other values, in their own dtype and device, until ``remove``.

        For modules that were trained in full beside the adapter, such as a projection.
        """
        live = self.model.state_dict(keep_vars=True)
        for name, value in tensors.items():
            tensor = live[name]
            assert tensor.shape == value.shape, name
            self._overwritten.append((name, tensor, tensor.data))
            tensor.data = value.to(device=tensor.device, dtype=tensor.dtype, copy=True)

    @property
    def overwritten(self) -> tuple[str, ...]:
        """Names of what ``overwrite`` gave other values: part of the adapted model, so saved with the adapter."""
        return tuple(dict.fromkeys(name for name, _, _ in self._overwritten))

    def remove(self) -> None:
        """Put the original layers back and undo the freezing: the model is bit for bit as before. Twice is once.

        Parameters that were trained in place beside the adapter (``also_train``) keep what they learned.
        """
        self.unmerge()
        for path, layer in self.layers.items():
            _place(self.model, path, layer.base)
        for _, tensor, data in reversed(self._overwritten):
            tensor.data = data.to(tensor.device)
        for parameter, trainable in self._trainable_before:
            parameter.requires_grad_(trainable)
        self.layers, self._overwritten, self._trainable_before = {}, [], []

    def state_dict(self) -> dict[str, Tensor]:
        """What is trained, under peft's keys such as ``base_model.model.<path>.lora_A.weight``; no copies.

        Shapes are the layers' own; ``save_lora`` writes parts of fused projections and PiSSA as peft can read them.
        """
        return {
            f"{PEFT_PREFIX}{path}.{name}": parameter.detach()
            for path, layer in self.layers.items()
            for name, parameter in layer.trained().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy values in; every key and shape must fit, and nothing is changed where one does not.

        Args:
            state: tensors under the keys of ``state_dict``, of any float dtype.

        Raises:
            ConfigError: the tensors belong to other layers or another rank.
            DataError: a tensor is not made of finite floats.
            RuntimeError: the adapter is merged.
        """
        self._refuse_merged("load_state_dict")
        own = self.state_dict()
        if missing := sorted(own.keys() - state.keys()):
            raise ConfigError(f"the adapter lacks {_some(missing)}", remedy="Load it with the targets it was made for.")
        if unexpected := sorted(state.keys() - own.keys()):
            raise ConfigError(
                f"the adapter has tensors for other layers: {_some(unexpected)}",
                remedy="Load it with the targets it was made for.",
            )
        for key, value in state.items():
            check_tensor(key, value, own[key].shape)
        for key, value in state.items():
            own[key].copy_(value)

    def replace(self, state: Mapping[str, Tensor], *, rank: int, alpha: float) -> None:
        """Put plain LoRA of another rank on the same layers in place of this one; what ``overwrite`` gave stays.

        Args:
            state: tensors under the keys of ``state_dict``, each lora_A (R, I) and lora_B (O, R).
            rank: R of every layer.
            alpha: numerator of the scale.
        """
        self._refuse_merged("replace")
        self.rank, self.alpha, self.dropout, self.rank_stabilized = rank, alpha, 0.0, False
        self.dora, self.initialisation = False, "kaiming"
        for path, layer in self.layers.items():
            self.layers[path] = LoraLinear(layer.base, rank=rank, alpha=alpha, generator=torch.Generator())
            _place(self.model, path, self.layers[path])
        self.load_state_dict(state)

    def _refuse_merged(self, name: str) -> None:
        if any(layer.merged for layer in self.layers.values()):
            raise RuntimeError(f"the adapter is merged: call unmerge() before {name}")


def lora_plus_groups(
    adapters: Sequence[LoraAdapter], groups: Iterable[Mapping[str, Any]], *, ratio: float
) -> list[dict[str, Any]]:
    """LoRA+ (arXiv:2402.12354): split an optimizer's parameter groups so that lora_B learns faster.

    As in peft, DoRA's magnitudes go with lora_B. What is trained beside the adapter keeps the plain rate.

    Args:
        adapters: whose lora_B's.
        groups: parameter groups, each with ``params`` and any settings, which both halves keep.
        ratio: learning rate of lora_B over that of the rest; the paper finds 2 to 2⁴ good.

    Returns:
        The groups, each with ``lr_ratio``: multiply the schedule's learning rate by it. Empty ones are left out.
    """
    slow = {id(layer.lora_A) for adapter in adapters for layer in adapter.layers.values()}
    fast = {id(parameter) for adapter in adapters for parameter in adapter.parameters()} - slow
    split: list[dict[str, Any]] = []
    for group in groups:
        params: Sequence[nn.Parameter] = list(group["params"])
        plain, quick = [p for p in params if id(p) not in fast], [p for p in params if id(p) in fast]
        halves = ((plain, 1.0), (quick, ratio))
        split += [{**group, "params": half, "lr_ratio": rate} for half, rate in halves if half]
    return split


def _layer(base: nn.Module, parts: tuple[str, ...], dora: bool, settings: Any) -> LoraLinear:
    assert is_linear(base), type(base).__name__
    assert not (dora and parts), "DoRA of parts of a fused projection"
    if parts:
        return FusedLoraLinear(base, parts=parts, **settings)
    return DoraLinear(base, **settings) if dora else LoraLinear(base, **settings)


def _generator(seed: int, path: str) -> torch.Generator:
    """A generator of its own for each path, so that adapting one layer more changes no other layer's start."""
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def _place(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def check_tensor(key: str, value: Tensor, shape: torch.Size) -> None:
    """Refuse a tensor of another shape, or of values that are not finite floats.

    Raises:
        ConfigError: the shape is another.
        DataError: the values are not finite floats.
    """
    if value.shape != shape:
        raise ConfigError(
            f"{key} has shape {tuple(value.shape)}, and {tuple(shape)} is needed",
            remedy="Check that the adapter was made for this base model and rank.",
        )
    if not value.is_floating_point() or not bool(torch.isfinite(value.float()).all()):
        raise DataError(f"{key} holds values that are not finite floats", remedy="Take an intact copy of the adapter.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def refuse_adapted(model: nn.Module) -> None:
    """A second adapter on the same model would save and merge wrongly, so it is refused."""
    if any(isinstance(module, LoraLinear) for module in model.modules()):
        raise RuntimeError("the model already holds a LoRA adapter: call its remove() first")
    if any(isinstance(module, Prefix) for module in model.modules()):
        raise RuntimeError("the model already holds a prefix: call its remove() first")
