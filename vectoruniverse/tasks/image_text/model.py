"""Encoder and adapter: what is loaded, what is trained on it, and how the encoder becomes the base again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vectoruniverse.adapters.base import Host
from vectoruniverse.adapters.families import attention_targets
from vectoruniverse.adapters.targets import ATTENTION, TowerTargets, tower_targets
from vectoruniverse.config.losses import SiglipConfig
from vectoruniverse.data.decoding import PictureRecipe
from vectoruniverse.errors import ConfigError
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.dual import (
    LOGIT_SCALARS,
    TEXT_TOWER,
    VISION_TOWER,
    DualEncoder,
    load_dual_encoder,
    local_source,
)
from vectoruniverse.models.scratch import build_clip
from vectoruniverse.models.sizes import ScratchClip
from vectoruniverse.tasks.image_text.settings import AdapterConfig, ImageTextExperiment

PROJECTIONS = ("visual_projection", "text_projection")
"""Linear layers into the shared space, where a model has them."""


def picture_recipe(experiment: ImageTextExperiment, encoder: DualEncoder | None) -> PictureRecipe:
    """How a picture becomes the stored square: as the model's own processor does, but for what the experiment says."""
    data = experiment.data
    if encoder is None:
        assert isinstance(experiment.model, ScratchClip)
        size = data.cache_size or experiment.model.image_size
        return PictureRecipe(size, data.fit or "crop", max_pixels=data.max_pixels)
    own = encoder.picture
    size, fit = data.cache_size or own.size, data.fit or own.fit
    short = round(size * own.short_side / own.size) if fit == "crop" and own.short_side else None
    return PictureRecipe(size, fit, own.resample, data.max_pixels, short)


def load_encoder(experiment: ImageTextExperiment, compute: Compute) -> DualEncoder | None:
    """The named model; None where it is built from scratch, which needs the training texts first."""
    if isinstance(experiment.model, ScratchClip):
        return None
    encoder = load_dual_encoder(
        experiment.model,
        compute,
        revision=experiment.revision,
        trained=experiment.adapter.trains_everything,
        quantization=experiment.quantization,
    )
    _take_fit(encoder, experiment)
    return encoder


def build_encoder(
    experiment: ImageTextExperiment, compute: Compute, texts: list[str], trained: Path | None = None
) -> DualEncoder:
    """The model from scratch, its tokenizer trained on ``texts``, or that of the run that wrote ``trained``."""
    assert isinstance(experiment.model, ScratchClip)
    encoder = build_clip(
        texts if trained is None else load_whole(trained, compute).tokenizer,
        experiment.model,
        compute,
        seed=experiment.seed,
    )
    _take_fit(encoder, experiment)
    return encoder


def _take_fit(encoder: DualEncoder, experiment: ImageTextExperiment) -> None:
    """Where the encoder is saved, its processor does what the experiment did; none in the CLIP family can pad."""
    if experiment.data.fit in ("crop", "squash"):
        encoder.picture = dataclasses.replace(encoder.picture, fit=experiment.data.fit)


def adapter_host(encoder: DualEncoder, experiment: ImageTextExperiment, compute: Compute) -> Host:
    """What an adapter may do to the encoder; full fine-tuning spares the logit scalars unless they are asked for."""
    config = experiment.adapter
    return Host(
        encoder.model,
        encoder.model,
        name=local_source(encoder.name),
        revision=encoder.commit,
        save=encoder.save,
        load=lambda folder: load_whole(folder, compute).model.state_dict(),
        targets=lambda: lora_targets(encoder, config),
        tower=TEXT_TOWER,
        beside=extra_parameters(encoder, experiment),
        frozen=() if config.train_logit_scale else LOGIT_SCALARS,
        added=encoder.added,
    )


def load_whole(folder: Path, compute: Compute) -> DualEncoder:
    """A model that full fine-tuning saved."""
    return load_dual_encoder(str(folder), compute, trained=True)


def lora_targets(encoder: DualEncoder, config: AdapterConfig) -> list[TowerTargets]:
    """The layers to adapt in each tower; the word ``attention`` stands for those of the model's family."""
    towers = (
        (VISION_TOWER, "vision", config.vision_targets, config.vision_layers_to_transform),
        (TEXT_TOWER, "text", config.text_targets, config.text_layers_to_transform),
    )
    own = attention_targets(encoder.model) if ATTENTION in (*config.vision_targets, *config.text_targets) else {}
    targets = [
        tower_targets(
            tower,
            layers,
            blocks,
            own.get(tower, ()),
            keys=(f"adapter.{name}_targets", f"adapter.{name}_layers_to_transform"),
        )
        for tower, name, layers, blocks in towers
    ]
    return [target for target in targets if target.layers]


def extra_parameters(encoder: DualEncoder, experiment: ImageTextExperiment) -> list[str]:
    """Names of what is trained in full beside an adapter."""
    model, config = encoder.model, experiment.adapter
    needs_bias = config.train_logit_scale and isinstance(experiment.loss, SiglipConfig)
    added = list(encoder.added) if needs_bias else []
    if config.trains_everything:
        return added
    projections = [name for name in PROJECTIONS if hasattr(model, name)] if config.train_projections else []
    scalars = [name for name in LOGIT_SCALARS if hasattr(model, name)] if config.train_logit_scale else []
    if config.train_projections and not projections:
        raise ConfigError(
            f"{encoder.name} has no projections of its own", key="adapter.train_projections", remedy="set it to false"
        )
    own = [name for name, _ in model.named_parameters() if name.split(".")[0] in {*projections, *scalars}]
    return own + added
