"""LoRA (arXiv:2106.09685): a low-rank update beside frozen linear layers, and the set of such layers in one model.

Shapes: B.. any leading dimensions, I input width, O output width, R rank. lora_A is (R, I), lora_B is (O, R).

Dtypes: the base weight stays in the dtype it was loaded in (the compute dtype), lora_A and lora_B are fp32. The update
is computed in the dtype of the input, or in autocast's where autocast is on, and the output has the dtype that the base
layer gives: with a bf16 base and no autocast, lora_A and lora_B are cast to bf16 on the way, their gradients are fp32.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from vectoruniverse.errors import ConfigError, DataError

PEFT_PREFIX = "base_model.model."


class LoraLinear(nn.Module):
    """A frozen linear layer with a trained low-rank update: y = base(x) + scale · dropout(x) lora_Aᵀ lora_Bᵀ.

    It has no ``weight`` of its own, so that code which reads a layer's weight and never calls the layer fails at once
    where it would otherwise silently leave the update out.

    Args:
        base: the layer to wrap; kept as ``.base``, the same object with the same tensor, and frozen.
        rank: R, at least 1.
        alpha: numerator of the scale.
        dropout: probability of dropping an element of the input of lora_A, in [0, 1).
        rank_stabilized: scale = alpha / √rank (arXiv:2312.03732) in place of alpha / rank.
        generator: source of the initial lora_A, on the CPU; None takes torch's global one.
    """

    def __init__(
        self,
        base: nn.Linear,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        rank_stabilized: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        assert rank >= 1, f"rank {rank} is below 1"
        self.base = base.requires_grad_(False)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.rank, self.alpha, self.rank_stabilized = rank, alpha, rank_stabilized
        self.scale = alpha / math.sqrt(rank) if rank_stabilized else alpha / rank
        self.factor = 1.0
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features, device=device, dtype=torch.float32))
        self.lora_B = nn.Parameter(torch.empty(base.out_features, rank, device=device, dtype=torch.float32))
        self._original: tuple[Tensor, ...] = ()  # in a tuple, since a bare Parameter would register itself
        self.initialise(generator)
        self.train(base.training)  # a new module is in training mode, which would drop inputs of a model under eval()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Set lora_A to Kaiming-uniform with a = √5, as loralib does, and lora_B to zero: the update starts at nothing.

        Args:
            generator: CPU generator; drawing on the CPU makes the values the same on every device.
        """
        assert not self.merged, "unmerge before initialising"
        drawn = torch.empty(self.rank, self.in_features)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        self.lora_A.copy_(drawn)
        self.lora_B.zero_()

    @property
    def merged(self) -> bool:
        """Whether the base layer's weight holds the update now."""
        return bool(self._original)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B.., I) to (B.., O).

        Raises:
            RuntimeError: the layer is merged and in training mode; it would train nothing.
        """
        if self.merged and self.training:
            raise RuntimeError("a merged LoRA layer cannot be trained: call unmerge() first")
        y: Tensor = self.base(x)
        if self.merged:
            return y
        # Through the narrow middle, and scaled there: (B.., R) is the smallest tensor on the way.
        low = linear(self.dropout(x), self.lora_A.to(x.dtype)) * (self.scale * self.factor)
        return y + linear(low, self.lora_B.to(x.dtype))

    @torch.no_grad()
    def delta_weight(self) -> Tensor:
        """Return scale · lora_B lora_A, what the update adds to the weight: (O, I), fp32."""
        with torch.autocast(self.lora_A.device.type, enabled=False):
            return (self.lora_B @ self.lora_A) * (self.scale * self.factor)

    @torch.no_grad()
    def merge(self) -> None:
        """Add the update to the base layer's weight, so that a forward costs no more than before; twice is once.

        The sum is taken in fp32 and rounded to the weight's dtype once: in bf16, updates below its 8 bits are lost. The
        original weight is kept beside the merged one (one more copy of each adapted weight), since subtracting the
        update again would not give its bits back. Another module that shares the weight is not touched.
        """
        if self.merged:
            return
        weight = self.base.weight
        merged = (weight + self.delta_weight()).to(weight.dtype)  # the sum itself is promoted to fp32
        self._original = (weight,)
        self.base.weight = nn.Parameter(merged, requires_grad=False)

    def unmerge(self) -> None:
        """Put the original weight back: the same parameter, bit for bit; twice is once."""
        if not self.merged:
            return
        (original,) = self._original
        original.data = original.data.to(self.base.weight.device)  # the model may have moved while merged
        self.base.weight, self._original = original, ()

    def extra_repr(self) -> str:
        """One line on shape, rank and scale, such as ``32 -> 64, rank=8, alpha=16, scale=2, dropout=0.1``."""
        parts = [f"{self.in_features} -> {self.out_features}", f"rank={self.rank}", f"alpha={self.alpha:g}"]
        parts.append(f"scale={self.scale * self.factor:g}")
        parts += [f"dropout={self.dropout.p:g}"] if isinstance(self.dropout, nn.Dropout) else []
        parts += ["rank_stabilized"] if self.rank_stabilized else []
        parts += ["merged"] if self.merged else []
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class LoraAdapter:
    """The LoRA layers of one model, by module path: put in, trained, merged, saved and taken out together.

    Making one wraps the layers, freezes every other parameter of the model, and gives each layer a lora_A that is a
    pure function of the seed and of the layer's path: the same whatever else is adapted.

    Args:
        model: the model to adapt, changed in place.
        paths: module paths of the ``nn.Linear`` layers to wrap.
        rank: R of every layer.
        alpha: numerator of the scale.
        dropout: probability of dropping an element of the input of lora_A, in [0, 1).
        rank_stabilized: scale = alpha / √rank in place of alpha / rank.
        seed: seed of the initial lora_A's.

    Attributes:
        model: the adapted model.
        layers: the layers by module path; empty after ``remove``.
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
    ) -> None:
        self.model = model
        self.rank, self.alpha, self.dropout, self.rank_stabilized = rank, alpha, dropout, rank_stabilized
        self._trainable_before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        self._overwritten: list[tuple[Tensor, Tensor]] = []
        self.layers: dict[str, LoraLinear] = {}
        model.requires_grad_(False)
        for path in paths:
            base = model.get_submodule(path)
            assert isinstance(base, nn.Linear), path
            self.layers[path] = LoraLinear(
                base,
                rank=rank,
                alpha=alpha,
                dropout=dropout,
                rank_stabilized=rank_stabilized,
                generator=_generator(seed, path),
            )
            _place(model, path, self.layers[path])

    def parameters(self) -> list[nn.Parameter]:
        """Every lora_A and lora_B: what an optimizer gets."""
        return [parameter for layer in self.layers.values() for parameter in (layer.lora_A, layer.lora_B)]

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

    def overwrite(self, tensors: Mapping[str, Tensor]) -> None:
        """Give named parameters or buffers of the model other values, in their own dtype and device, until ``remove``.

        For modules that were trained in full beside the adapter, such as a projection.
        """
        live = self.model.state_dict(keep_vars=True)
        for name, value in tensors.items():
            tensor = live[name]
            assert tensor.shape == value.shape, name
            self._overwritten.append((tensor, tensor.data))
            tensor.data = value.to(device=tensor.device, dtype=tensor.dtype, copy=True)

    def remove(self) -> None:
        """Put the original layers back and undo the freezing: the model is bit for bit as before. Twice is once.

        Parameters that were trained in place beside the adapter (``also_train``) keep what they learned.
        """
        self.unmerge()
        for path, layer in self.layers.items():
            _place(self.model, path, layer.base)
        for tensor, data in reversed(self._overwritten):
            tensor.data = data.to(tensor.device)
        for parameter, trainable in self._trainable_before:
            parameter.requires_grad_(trainable)
        self.layers, self._overwritten, self._trainable_before = {}, [], []

    def state_dict(self) -> dict[str, Tensor]:
        """Every lora_A and lora_B under peft's key, such as ``base_model.model.<path>.lora_A.weight``; no copies."""
        return {
            f"{PEFT_PREFIX}{path}.{name}.weight": parameter.detach()
            for path, layer in self.layers.items()
            for name, parameter in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B))
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

    def _refuse_merged(self, name: str) -> None:
        if any(layer.merged for layer in self.layers.values()):
            raise RuntimeError(f"the adapter is merged: call unmerge() before {name}")


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
