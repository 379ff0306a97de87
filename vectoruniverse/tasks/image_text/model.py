"""Encoder and adapter: what is loaded, what is trained on it, and how the encoder becomes the base again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vectoruniverse.adapters.apply import (
    LoraAdapter,
    TowerTargets,
    also_train,
    train_everything,
)
from vectoruniverse.adapters.build import ATTENTION, put_lora, tower_targets
from vectoruniverse.adapters.families import attention_targets
from vectoruniverse.adapters.lora import check_tensor
from vectoruniverse.adapters.peft_format import load_lora, save_lora
from vectoruniverse.adapters.prefix import PrefixAdapter, inject_prefix
from vectoruniverse.adapters.prefix_format import load_prefix, save_prefix
from vectoruniverse.data.decoding import PictureRecipe
from vectoruniverse.errors import ConfigError, DataError, UserError
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.dual import TEXT_TOWER, VISION_TOWER, DualEncoder, load_dual_encoder, local_source
from vectoruniverse.models.scratch import build_clip
from vectoruniverse.models.sizes import ScratchClip
from vectoruniverse.tasks.image_text.settings import AdapterConfig, ImageTextExperiment

PROJECTIONS = ("visual_projection", "text_projection")
"""Linear layers into the shared space, where a model has them."""

SCALARS_FILE = "logit_scalars.safetensors"
"""What peft's format has no place for: trained logit scalars, and beside a prefix trained projections too."""

LOGIT_SCALARS = ("logit_scale", "logit_bias")
"""Scalars of the logits, where a model has them."""


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
    trained = experiment.adapter.method == "full"
    encoder = load_dual_encoder(experiment.model, compute, revision=experiment.revision, trained=trained)
    _take_fit(encoder, experiment)
    return encoder


def build_encoder(
    experiment: ImageTextExperiment, compute: Compute, texts: list[str], trained: Path | None = None
) -> DualEncoder:
    """The model from scratch, its tokenizer trained on ``texts``, or that of the run that wrote ``trained``."""
    assert isinstance(experiment.model, ScratchClip)
    encoder = build_clip(
        texts if trained is None else load_dual_encoder(str(trained), compute, trained=True).tokenizer,
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


def adapt_lora(encoder: DualEncoder, config: AdapterConfig, seed: int) -> LoraAdapter:
    """Freeze the encoder and put LoRA on its target layers."""
    extra = extra_parameters(encoder, config)
    adapter = put_lora(encoder.model, lora_targets(encoder, config), config, seed)
    if config.init_from is not None:
        file = Path(config.init_from).expanduser() / SCALARS_FILE
        adapter.overwrite(_read_beside(file, encoder.model, LOGIT_SCALARS))
    also_train(encoder.model, extra)
    return adapter


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


def adapt_full(encoder: DualEncoder, config: AdapterConfig, seed: int) -> None:
    """Open every parameter; the logit scalars only where the config says so."""
    del seed  # nothing new is initialised
    train_everything(encoder.model)
    if not config.train_logit_scale:
        for name in LOGIT_SCALARS:
            if isinstance(scalar := getattr(encoder.model, name, None), torch.nn.Parameter):
                scalar.requires_grad_(False)


def adapt_prefix(encoder: DualEncoder, config: AdapterConfig, seed: int) -> PrefixAdapter:
    """Freeze the encoder and put a prefix before the keys and values of its text tower."""
    extra = extra_parameters(encoder, config)
    adapter = inject_prefix(
        encoder.model,
        TEXT_TOWER,
        length=config.prefix_length,
        projection=config.prefix_projection,
        dropout=config.dropout,
        seed=seed,
    )
    also_train(encoder.model, extra)
    return adapter


ADAPTERS: dict[str, Callable[[DualEncoder, AdapterConfig, int], LoraAdapter | PrefixAdapter | None]] = {
    "lora": adapt_lora,
    "prefix": adapt_prefix,
    "full": adapt_full,
}
"""What can be trained on an encoder: one line per method."""


def trained_in_place(encoder: DualEncoder, config: AdapterConfig) -> list[str]:
    """Names of the base's own parameters that training writes to."""
    if config.method == "full":
        return [name for name, _ in encoder.model.named_parameters()]
    return extra_parameters(encoder, config)


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


def save_adapted(
    encoder: DualEncoder, adapter: LoraAdapter | PrefixAdapter | None, config: AdapterConfig, folder: Path
) -> None:
    """Write what was trained: adapters in peft's format, everything else as a model that plain transformers loads."""
    if adapter is None:
        encoder.save(folder)
        return
    if isinstance(adapter, PrefixAdapter):
        save_prefix(adapter, folder, base_model=local_source(encoder.name), revision=encoder.commit)
        extra = {name: encoder.model.get_parameter(name).detach().cpu() for name in extra_parameters(encoder, config)}
        if extra:
            save_file(extra, folder / SCALARS_FILE)
        return
    modules = [name for name in PROJECTIONS if hasattr(encoder.model, name)] if config.train_projections else []
    save_lora(
        adapter,
        folder,
        base_model=local_source(encoder.name),
        revision=encoder.commit,
        extra={name: encoder.model.get_submodule(name) for name in modules},
    )
    trained = LOGIT_SCALARS if config.train_logit_scale else [n for n in LOGIT_SCALARS if n in adapter.overwritten]
    scalars = {name: getattr(encoder.model, name).detach().cpu() for name in trained if hasattr(encoder.model, name)}
    if scalars:
        save_file(scalars, folder / SCALARS_FILE)


def load_adapted(
    experiment: ImageTextExperiment, encoder: DualEncoder, compute: Compute, folder: Path
) -> tuple[DualEncoder, LoraAdapter | PrefixAdapter | None]:
    """The model as a run left it: the saved adapter put on ``encoder``, or the saved model itself.

    Args:
        experiment: the run's.
        encoder: its base, without an adapter; ``LoraAdapter.remove`` makes it the base again.
        compute: where and in which format.
        folder: the run's adapter folder.

    Raises:
        ConfigError: the adapter was made for another base model.
        DataError: a file is missing or damaged.
    """
    if experiment.adapter.method == "full":
        return load_dual_encoder(str(folder), compute, trained=True), None
    if experiment.adapter.method == "prefix":
        beside = _read_beside(folder / SCALARS_FILE, encoder.model, extra_parameters(encoder, experiment.adapter))
        prefix = load_prefix(encoder.model, TEXT_TOWER, folder)
        with torch.no_grad():
            for name, value in beside.items():
                encoder.model.get_parameter(name).copy_(value)
        return encoder, prefix
    scalars = _read_beside(folder / SCALARS_FILE, encoder.model, LOGIT_SCALARS)
    adapter = load_lora(encoder.model, folder)
    adapter.overwrite(scalars)
    return encoder, adapter


def _read_beside(file: Path, model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Parameters saved beside an adapter, of these names and fit for their place; none where there is no such file."""
    if not file.exists():
        return {}
    remedy = "Take an intact copy of the adapter."
    try:
        beside: dict[str, Tensor] = load_file(file)
        live = dict(model.named_parameters())
        for name, value in beside.items():
            if name not in names or name not in live:
                raise DataError(f"holds {name}, which was not trained beside this adapter", file=file, remedy=remedy)
            check_tensor(name, value, live[name].shape)
    except (SafetensorError, OSError) as error:
        raise DataError(f"cannot be read: {error}", file=file, remedy=remedy) from error
    except UserError as error:
        raise DataError(error.message, file=file, remedy=error.remedy) from error
    return beside


class Blend:
    """A point on the way from the base (0) to the adapted model (1).

    LoRA's update is multiplied; what was trained in full is interpolated, as WiSE-FT does (arXiv:2109.01903).
    """

    def __init__(self, base: Mapping[str, Tensor], encoder: DualEncoder, adapter: LoraAdapter | None) -> None:
        """Compare ``encoder`` with the ``base``'s float tensors by name; those that differ are interpolated."""
        self._adapter = adapter
        live = dict(encoder.model.named_parameters())
        self._ways: list[tuple[nn.Parameter, Tensor, Tensor]] = [
            (live[name], before, live[name].detach().clone())
            for name, before in base.items()
            if name in live and not torch.equal(live[name].to(before.dtype), before)
        ]

    def move(self, scale: float) -> None:
        """Go to ``scale``, 0 to 1."""
        if self._adapter is not None:
            self._adapter.set_scale(scale)
        for parameter, before, after in self._ways:
            parameter.data.copy_(torch.lerp(before.to(after.dtype), after, scale))
