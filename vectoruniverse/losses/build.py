"""The configured contrastive loss as a function of the views."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from torch import Tensor

from vectoruniverse.config.losses import AlignmentAnisotropyConfig, InfoNceConfig, SiglipConfig
from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.losses import contrastive as losses


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
    assert isinstance(config, InfoNceConfig | SiglipConfig)
    given = None if config.temperature is None else 1.0 / config.temperature
    if isinstance(config, InfoNceConfig):
        pairs = tuple(config.pairs)
        return lambda views: losses.info_nce(views, logit_scale=_given(given, model, "logit_scale"), pairs=pairs)
    bias = config.bias
    return lambda views: losses.siglip(
        views, logit_scale=_given(given, model, "logit_scale"), logit_bias=_given(bias, model, "logit_bias")
    )


def _given(value: float | None, model: Scaled | None, name: str) -> Tensor | float:
    """The setting, else the model's scalar of this name, which training may have moved."""
    if value is not None:
        return value
    assert model is not None, "the configuration gives what the model has not"
    scalar: Tensor = getattr(model, name)
    return scalar


def false_negatives(items: PairItems, batch_size: int, shared: str) -> list[str]:
    """One sentence where training rows share an item, which every loss here counts as wrong within a batch.

    Args:
        items: of the training rows.
        batch_size: rows of a batch.
        shared: what rows may share, in words.
    """
    rows, others = items.sharing()
    if not rows:
        return []
    count = len(items)
    negatives = min(batch_size, count) - 1
    wrong = others * negatives / (count - 1)  # a batch is drawn without replacement
    told = f"{rows:,} of {count:,} training rows share their {shared} with another one; within a batch the loss pushes"
    return [f"{told} such rows apart: on average {wrong:.2g} of a row's {negatives} negatives are right answers"]
