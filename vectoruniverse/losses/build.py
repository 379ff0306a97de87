"""The configured contrastive loss as a function of the views."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from torch import Tensor

from vectoruniverse.config.losses import (
    AlignmentAnisotropyConfig,
    InfoNceConfig,
    LabelKlConfig,
    NoContrastConfig,
    SiglipConfig,
)
from vectoruniverse.losses import contrastive as losses
from vectoruniverse.losses.label_kl import label_kl


class Scaled(Protocol):
    """A model with logit scalars of its own."""

    @property
    def logit_scale(self) -> Tensor:
        """What multiplies cosines."""

    @property
    def logit_bias(self) -> Tensor:
        """What is added to the logits."""


def build_loss(config: object, model: Scaled | None, *, trained: bool = False) -> losses.ViewLoss:
    """The configured loss.

    Args:
        config: its section of the experiment.
        model: gives the logit scalars that the configuration leaves open.
        trained: whether they are trained: then the model gives all, which began where the configuration says.
    """
    if isinstance(config, AlignmentAnisotropyConfig):
        return partial(losses.alignment_anisotropy, **config.model_dump(exclude={"name", "negatives", "label_kl"}))
    if isinstance(config, NoContrastConfig):
        return lambda views, relations: losses.LossValue(views["I"].new_zeros(()), {}, 0.0)
    assert isinstance(config, InfoNceConfig | SiglipConfig)
    given = None if config.temperature is None or trained else 1.0 / config.temperature
    if isinstance(config, InfoNceConfig):
        pairs = tuple(config.pairs)
        return lambda views, relations: losses.info_nce(
            views, relations, logit_scale=_given(given, model, "logit_scale"), pairs=pairs
        )
    bias = None if trained else config.bias
    return lambda views, relations: losses.siglip(
        views,
        relations,
        logit_scale=_given(given, model, "logit_scale"),
        logit_bias=_given(bias, model, "logit_bias"),
    )


def build_label_kl(config: LabelKlConfig) -> Callable[[Tensor, Tensor, Tensor], losses.LossValue]:
    """The configured divergence of fused vectors, vectors of labels, and which row has which."""
    return partial(label_kl, **config.model_dump(exclude={"fusion", "template", "max_labels"}))


def _given(value: float | None, model: Scaled | None, name: str) -> Tensor | float:
    """The setting, else the model's scalar of this name, which training may have moved."""
    if value is not None:
        return value
    assert model is not None, "the configuration gives what the model has not"
    scalar: Tensor = getattr(model, name)
    return scalar
