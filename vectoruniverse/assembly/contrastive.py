"""The configured contrastive loss as a function of the views."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from torch import Tensor

from vectoruniverse import losses
from vectoruniverse.config.losses import AlignmentAnisotropyConfig, InfoNceConfig, SiglipConfig


class Scaled(Protocol):
    """A model with logit scalars of its own."""

    @property
    def logit_scale(self) -> Tensor:
        """What multiplies cosines."""

    @property
    def logit_bias(self) -> Tensor:
        """What is added to the logits."""


def build_loss(config: object, model: Scaled | None) -> losses.ViewLoss:
    """The configured loss; ``model`` gives the logit scalars that the configuration leaves open."""
    if isinstance(config, AlignmentAnisotropyConfig):
        return partial(losses.alignment_anisotropy, **config.model_dump(exclude={"name"}))
    if isinstance(config, InfoNceConfig):
        return partial(_info_nce, model, config.temperature, tuple(config.pairs))
    assert isinstance(config, SiglipConfig)
    return partial(_siglip, model, config.temperature, config.bias)


def _info_nce(
    model: Scaled | None, temperature: float | None, pairs: tuple[str, ...], views: losses.Views
) -> losses.LossValue:
    return losses.info_nce(views, logit_scale=_scale(model, temperature), pairs=pairs)


def _siglip(
    model: Scaled | None, temperature: float | None, bias: float | None, views: losses.Views
) -> losses.LossValue:
    if bias is not None:
        return losses.siglip(views, logit_scale=_scale(model, temperature), logit_bias=bias)
    assert model is not None, "the configuration gives what the model has not"
    return losses.siglip(views, logit_scale=_scale(model, temperature), logit_bias=model.logit_bias)


def _scale(model: Scaled | None, temperature: float | None) -> Tensor | float:
    if temperature is not None:
        return 1.0 / temperature
    assert model is not None, "the configuration gives what the model has not"
    return model.logit_scale
