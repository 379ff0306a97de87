"""Encoder and adapter: what is loaded, and what is trained on it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from vectoruniverse.adapters.apply import (
    LoraAdapter,
    TowerTargets,
    also_train,
    inject_lora,
    train_everything,
)
from vectoruniverse.adapters.peft_format import load_lora, save_lora
from vectoruniverse.config.schema import AdapterConfig, ImageTextExperiment, ScratchClip
from vectoruniverse.encoders.dual import TEXT_TOWER, VISION_TOWER, DualEncoder, load_dual_encoder, local_source
from vectoruniverse.encoders.scratch import build_clip
from vectoruniverse.errors import ConfigError
from vectoruniverse.training.device import Compute

PROJECTIONS = ("visual_projection", "text_projection")
"""Linear layers into the shared space, where a model has them."""

SCALARS_FILE = "logit_scalars.safetensors"
"""Trained logit scalars beside an adapter; peft has no place for bare parameters."""

LOGIT_SCALARS = ("logit_scale", "logit_bias")
"""Scalars of the logits, where a model has them."""


def input_size(experiment: ImageTextExperiment, encoder: DualEncoder | None) -> tuple[int, str]:
    """Side of the stored pictures and the filter that makes them."""
    if encoder is None:
        assert isinstance(experiment.model, ScratchClip)
        return experiment.data.cache_size or experiment.model.image_size, "bicubic"
    return experiment.data.cache_size or encoder.picture.size, encoder.picture.resample


def load_encoder(experiment: ImageTextExperiment, compute: Compute) -> DualEncoder | None:
    """The named model; None where it is built from scratch, which needs the training texts first.

    Frozen weights are kept in the compute format, since autocast would cast them anew at every step; trained ones
    are float32.
    """
    if isinstance(experiment.model, ScratchClip):
        return None
    weights = torch.float32 if experiment.adapter.method == "full" else compute.dtype
    return _load(experiment.model, experiment.revision, compute, weights)


def build_encoder(experiment: ImageTextExperiment, compute: Compute, texts: list[str]) -> DualEncoder:
    """The model from scratch, its tokenizer trained on ``texts``."""
    assert isinstance(experiment.model, ScratchClip)
    return build_clip(
        texts,
        seed=experiment.seed,
        device=compute.device,
        dtype=compute.dtype,
        attention=compute.attention,
        **experiment.model.model_dump(exclude={"scratch"}),
    )


def adapt_lora(encoder: DualEncoder, config: AdapterConfig, seed: int) -> LoraAdapter:
    """Freeze the encoder and put LoRA on its target layers."""
    targets = [
        TowerTargets(VISION_TOWER, tuple(config.vision_targets), key="adapter.vision_targets"),
        TowerTargets(TEXT_TOWER, tuple(config.text_targets), key="adapter.text_targets"),
    ]
    adapter = inject_lora(
        encoder.model,
        [target for target in targets if target.layers],
        rank=config.rank,
        alpha=config.alpha if config.alpha is not None else float(config.rank),
        dropout=config.dropout,
        rank_stabilized=config.rank_stabilized,
        seed=seed,
    )
    also_train(encoder.model, extra_parameters(encoder, config))
    return adapter


def adapt_full(encoder: DualEncoder, config: AdapterConfig, seed: int) -> None:
    """Open every parameter; the logit scalars only where the config says so."""
    del seed  # nothing new is initialised
    train_everything(encoder.model)
    if not config.train_logit_scale:
        for name in LOGIT_SCALARS:
            if isinstance(scalar := getattr(encoder.model, name, None), torch.nn.Parameter):
                scalar.requires_grad_(False)


ADAPTERS = {"lora": adapt_lora, "full": adapt_full}
"""What can be trained on an encoder: one line per method."""


def extra_parameters(encoder: DualEncoder, config: AdapterConfig) -> list[str]:
    """Names of what is trained in full beside LoRA."""
    model = encoder.model
    projections = [name for name in PROJECTIONS if hasattr(model, name)] if config.train_projections else []
    scalars = [name for name in LOGIT_SCALARS if hasattr(model, name)] if config.train_logit_scale else []
    if config.train_projections and not projections:
        raise ConfigError(
            f"{encoder.name} has no projections of its own", key="adapter.train_projections", remedy="set it to false"
        )
    return [name for name, _ in model.named_parameters() if name.split(".")[0] in {*projections, *scalars}]


def save_adapted(encoder: DualEncoder, adapter: LoraAdapter | None, config: AdapterConfig, folder: Path) -> None:
    """Write what was trained: LoRA in peft's format, everything else as a model that plain transformers loads."""
    if adapter is None:
        encoder.save(folder)
        return
    modules = [name for name in PROJECTIONS if hasattr(encoder.model, name)] if config.train_projections else []
    save_lora(
        adapter,
        folder,
        base_model=local_source(encoder.name),
        revision=encoder.commit,
        extra={name: encoder.model.get_submodule(name) for name in modules},
    )
    if config.train_logit_scale:
        scalars = {
            name: getattr(encoder.model, name).detach().cpu() for name in LOGIT_SCALARS if hasattr(encoder.model, name)
        }
        save_file(scalars, folder / SCALARS_FILE)


def load_adapted(experiment: ImageTextExperiment, compute: Compute, folder: Path) -> DualEncoder:
    """The encoder as a run left it: its base with the saved adapter, or the saved model itself."""
    if experiment.adapter.method == "full":
        return _load(str(folder), None, compute, torch.float32)
    encoder = load_encoder(experiment, compute)
    assert encoder is not None, "a model from scratch is trained in full"
    load_lora(encoder.model, folder)
    if (scalars := folder / SCALARS_FILE).is_file():
        for name, value in load_file(scalars).items():
            encoder.model.get_parameter(name).data.copy_(value)
    return encoder


def _load(name: str, revision: str | None, compute: Compute, weights: torch.dtype) -> DualEncoder:
    return load_dual_encoder(
        name,
        revision=revision,
        device=compute.device,
        dtype=compute.dtype,
        weights=weights,
        attention=compute.attention,
    )
