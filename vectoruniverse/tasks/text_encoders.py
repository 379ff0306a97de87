"""Text encoders and what is trained on them: loaded or built, adapted, saved, and loaded as a run left them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectoruniverse.adapters.apply import TowerTargets, train_everything
from vectoruniverse.adapters.base_weights import BaseWeights
from vectoruniverse.adapters.build import ATTENTION, put_lora, tower_targets
from vectoruniverse.adapters.families import attention_targets
from vectoruniverse.adapters.lora import LoraAdapter
from vectoruniverse.adapters.peft_format import load_lora, save_lora
from vectoruniverse.adapters.prefix import PrefixAdapter, inject_prefix
from vectoruniverse.adapters.prefix_format import load_prefix, save_prefix
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.scratch import build_bert, random_like
from vectoruniverse.models.sizes import ScratchBert
from vectoruniverse.models.source import find_source
from vectoruniverse.models.text import TextEncoder, count_positions, load_text_encoder
from vectoruniverse.tasks.text_settings import EncoderConfig, TextAdapterConfig, TextExperiment

Adapters = dict[str, LoraAdapter | PrefixAdapter]


def load_encoder(
    experiment: TextExperiment,
    compute: Compute,
    texts: Callable[[], Iterable[str]],
    trained: Path | None = None,
) -> TextEncoder:
    """The named encoder, or one from scratch whose vocabulary is learned on ``texts``.

    Where a run from scratch wrote what it ``trained`` (the folder of one encoder), its vocabulary is taken.

    A prefix takes positions of its own, so that texts can be so much shorter.
    """
    if isinstance(experiment.model, ScratchBert) and trained is not None:
        scratch = random_like(load_trained(experiment, compute, trained), experiment.seed)
        scratch.name = "scratch"
        return scratch
    if isinstance(experiment.model, ScratchBert):
        pooling = experiment.pooling or "mean"
        return build_bert(texts(), experiment.model, compute, seed=experiment.seed, pooling=pooling)
    named = EncoderConfig(model=experiment.model, revision=experiment.revision, pooling=experiment.pooling)
    encoder = load_named(named, compute, trained=experiment.adapter.method == "full")
    if experiment.adapter.method == "prefix":
        room = count_positions(encoder.model) - experiment.adapter.prefix_length
        encoder.max_tokens = min(encoder.max_tokens, max(room, 1))
    return encoder


def load_named(config: EncoderConfig, compute: Compute, *, trained: bool = False, seed: int = 0) -> TextEncoder:
    """An encoder by name or folder; with ``random_weights``, drawn from ``seed``."""
    encoder = load_text_encoder(
        config.model, compute, revision=config.revision, pooling=config.pooling, trained=trained
    )
    return random_like(encoder, seed) if config.random_weights else encoder


def twin(encoder: TextEncoder, seed: int | None) -> TextEncoder:
    """Another encoder like this one: a copy, or with weights of its own drawn from ``seed``."""
    if seed is not None:
        return random_like(encoder, seed)
    other = copy.copy(encoder)
    other.module = copy.deepcopy(encoder.module)
    return other


@dataclass(frozen=True, slots=True)
class Adapted:
    """Encoders with what is trained on them.

    Attributes:
        encoders: by part of the model; the part is empty where there is only one.
        adapters: what was put on each; none where everything is trained.
        before: what makes them their bases again.
    """

    encoders: Mapping[str, TextEncoder]
    adapters: Adapters
    before: tuple[BaseWeights, ...]

    def release(self) -> None:
        """Make the encoders their bases again."""
        for adapter in self.adapters.values():
            adapter.remove()
        for base in self.before:
            base.restore([])

    def save(self, folder: Path) -> None:
        """Write what was trained: adapters in peft's format, all else as plain transformers loads it, part by part."""
        for part, encoder in self.encoders.items():
            adapter, place = self.adapters.get(part), folder / part
            if isinstance(adapter, LoraAdapter):
                save_lora(adapter, place, base_model=find_source(encoder.name), revision=encoder.commit)
            elif isinstance(adapter, PrefixAdapter):
                save_prefix(adapter, place, base_model=find_source(encoder.name), revision=encoder.commit)
            else:
                encoder.save(place)


def adapt(encoders: Mapping[str, TextEncoder], config: TextAdapterConfig, seed: int) -> Adapted:
    """Freeze the encoders and put an adapter on each, or open everything in them."""
    before = remember(encoders, config)
    adapters: Adapters = {}
    for part, encoder in encoders.items():
        if config.method == "full":
            train_everything(encoder.module)
            continue
        encoder.module.requires_grad_(False)
        if config.method == "lora":
            adapters[part] = put_lora(encoder.model, [text_targets(encoder.model, "", config)], config, seed, part)
        else:
            adapters[part] = _prefix(encoder, config, seed)
    return Adapted(encoders, adapters, before)


def load_adapters(encoders: Mapping[str, TextEncoder], config: TextAdapterConfig, folder: Path) -> Adapted:
    """The encoders as a run left them: saved adapters put on them; ``method: full`` has none to put on."""
    before = remember(encoders, config)
    adapters: Adapters = {}
    for part, encoder in encoders.items():
        if config.method == "lora":
            adapters[part] = load_lora(encoder.model, folder / part)
        elif config.method == "prefix":
            adapters[part] = load_prefix(encoder.model, "", folder / part)
    return Adapted(encoders, adapters, before)


def load_trained(experiment: TextExperiment, compute: Compute, folder: Path) -> TextEncoder:
    """An encoder that ``method: full`` trained, from where ``Adapted.save`` wrote it."""
    config = EncoderConfig(model=str(folder), pooling=experiment.pooling)
    return load_named(config, compute, trained=True)


def remember(encoders: Mapping[str, TextEncoder], config: TextAdapterConfig) -> tuple[BaseWeights, ...]:
    """What makes encoders their bases again after training."""
    return tuple(
        BaseWeights(
            encoder.module, [name for name, _ in encoder.module.named_parameters()] if config.method == "full" else ()
        )
        for encoder in encoders.values()
    )


def _prefix(encoder: TextEncoder, config: TextAdapterConfig, seed: int) -> PrefixAdapter:
    return inject_prefix(
        encoder.model,
        "",
        length=config.prefix_length,
        projection=config.prefix_projection,
        dropout=config.dropout,
        seed=seed,
    )


def base_words(encoder: TextEncoder) -> str:
    """The base in words: its name and pooling, and its commit where known."""
    commit = f" at commit `{encoder.commit}`" if encoder.commit else ""
    return f"`{encoder.name}`{commit}, {encoder.pooling} pooling"


def text_targets(model: Any, tower: str, config: TextAdapterConfig) -> TowerTargets:
    """The layers to adapt in a text model, which stands at ``tower``."""
    own = attention_targets(model)[""] if ATTENTION in config.targets else ()
    keys = ("adapter.targets", "adapter.layers_to_transform")
    return tower_targets(tower, config.targets, config.layers_to_transform, own, keys=keys)
