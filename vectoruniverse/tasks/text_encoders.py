"""Text encoders and what is trained on them: loaded or built, adapted, saved, and loaded as a run left them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vectoruniverse.adapters.base import Adapter, Host
from vectoruniverse.adapters.families import attention_targets
from vectoruniverse.adapters.methods import put_on
from vectoruniverse.adapters.targets import ATTENTION, TowerTargets, tower_targets
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.quantized import Quantization
from vectoruniverse.models.scratch import build_bert, random_like
from vectoruniverse.models.sizes import ScratchBert
from vectoruniverse.models.source import find_source
from vectoruniverse.models.text import TextEncoder, count_positions, load_text_encoder
from vectoruniverse.tasks.text_settings import EncoderConfig, TextAdapterConfig, TextExperiment


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
    trained_in_full = experiment.adapter.trains_everything
    encoder = load_named(named, compute, trained=trained_in_full, quantization=experiment.quantization)
    if reserved := experiment.adapter.reserved_positions:
        room = count_positions(encoder.model) - reserved
        encoder.max_tokens = min(encoder.max_tokens, max(room, 1))
    return encoder


def load_named(
    config: EncoderConfig,
    compute: Compute,
    *,
    trained: bool = False,
    quantization: Quantization | None = None,
    seed: int = 0,
) -> TextEncoder:
    """An encoder by name or folder; with ``random_weights``, drawn from ``seed``."""
    encoder = load_text_encoder(
        config.model,
        compute,
        revision=config.revision,
        pooling=config.pooling,
        trained=trained,
        quantization=quantization,
    )
    return random_like(encoder, seed) if config.random_weights else encoder


def put_adapters(
    encoders: Mapping[str, TextEncoder], experiment: TextExperiment, compute: Compute, trained: Path | None = None
) -> dict[str, Adapter]:
    """An adapter on each encoder, by part: a new one, or the ``trained`` one of a run's folder."""
    config, seed = experiment.adapter, experiment.seed
    return {
        part: put_on(
            _host(encoder, experiment, compute),
            config,
            seed,
            part=part,
            trained=None if trained is None else trained / part,
        )
        for part, encoder in encoders.items()
    }


def _host(encoder: TextEncoder, experiment: TextExperiment, compute: Compute) -> Host:
    return Host(
        encoder.model,
        encoder.module,
        name=find_source(encoder.name),
        revision=encoder.commit,
        save=encoder.save,
        load=lambda folder: load_trained(experiment, compute, folder).module.state_dict(),
        targets=lambda: [text_targets(encoder.model, "", experiment.adapter)],
    )


def load_trained(experiment: TextExperiment, compute: Compute, folder: Path) -> TextEncoder:
    """An encoder that ``method: full`` trained, from where its run saved it."""
    config = EncoderConfig(model=str(folder), pooling=experiment.pooling)
    return load_named(config, compute, trained=True)


def base_words(encoder: TextEncoder) -> str:
    """The base in words: its name and pooling, and its commit where known."""
    commit = f" at commit `{encoder.commit}`" if encoder.commit else ""
    return f"`{encoder.name}`{commit}, {encoder.pooling} pooling"


def text_targets(model: Any, tower: str, config: TextAdapterConfig) -> TowerTargets:
    """The layers to adapt in a text model, which stands at ``tower``."""
    own = attention_targets(model)[""] if ATTENTION in config.targets else ()
    keys = ("adapter.targets", "adapter.layers_to_transform")
    return tower_targets(tower, config.targets, config.layers_to_transform, own, keys=keys)
