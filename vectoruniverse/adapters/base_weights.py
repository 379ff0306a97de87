"""How a model that was trained on becomes its base again."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from vectoruniverse.adapters.lora import LoraAdapter
from vectoruniverse.adapters.prefix import PrefixAdapter


class BaseWeights:
    """A model as it was loaded, so that one loading serves many trainings.

    Parameters that training writes to are copied to the CPU; an adapter's own are taken off. Values come back bit for
    bit, into the memory that they came from.
    """

    def __init__(self, model: nn.Module, written: Iterable[str]) -> None:
        """Remember the model before anything is put on it, and a copy of the parameters that are ``written`` to."""
        self._model = model
        self._training = model.training
        named = dict(model.named_parameters())
        # a second reference to .data, since opening a half-precision parameter gives it a new float32 tensor
        self._before = [(parameter, parameter.data, parameter.requires_grad) for parameter in named.values()]
        self._copies = [
            (parameter.data, parameter.detach().cpu().clone()) for parameter in map(named.__getitem__, written)
        ]

    def restore(self, adapters: Iterable[LoraAdapter | PrefixAdapter]) -> None:
        """Take adapters off and put back whatever was trained in place."""
        for adapter in adapters:
            adapter.remove()
        for parameter, data, trainable in self._before:
            parameter.data, parameter.grad = data, None
            parameter.requires_grad_(trainable)
        for data, copy in self._copies:
            data.copy_(copy)
        self._model.train(self._training)
