"""Task ``image_text``: its base and its rows, its loss and its views, and what stays of a run."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vectoruniverse.adapters.methods import METHODS, put_on
from vectoruniverse.config.losses import logit_start
from vectoruniverse.config.sections import Experiment
from vectoruniverse.data.splits import by_part
from vectoruniverse.errors import ConfigError
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.evaluation.retrieval import Embeddings
from vectoruniverse.evaluation.rivals import EmbeddedRows
from vectoruniverse.models.dual import DualEncoder
from vectoruniverse.models.patch_dropout import count_kept
from vectoruniverse.tasks.base import Shared
from vectoruniverse.tasks.image_text.data import ImageTextData, cache_folder, decode
from vectoruniverse.tasks.image_text.forgetting import known_rows, refuse_lone_group
from vectoruniverse.tasks.image_text.frozen import Frozen, freeze
from vectoruniverse.tasks.image_text.label_rules import read_labels
from vectoruniverse.tasks.image_text.labels import label_divergence, label_texts, make_fusion
from vectoruniverse.tasks.image_text.metadata import read_rows
from vectoruniverse.tasks.image_text.model import (
    adapter_host,
    build_encoder,
    load_encoder,
    picture_recipe,
)
from vectoruniverse.tasks.image_text.negatives import training_negatives
from vectoruniverse.tasks.image_text.prepared import Known, PreparedImageText, augmentation, build_task
from vectoruniverse.tasks.image_text.rivals import free_rivals, label_probes, row_limit, training_rows
from vectoruniverse.tasks.image_text.sampler import training_strata
from vectoruniverse.tasks.image_text.settings import ForgettingConfig, ImageTextExperiment
from vectoruniverse.tasks.image_text.task import ImageTextTask, Pairs, Preserved, TrainingParts
from vectoruniverse.tasks.image_text.text_views import text_views
from vectoruniverse.tasks.rows import RowChoice, refuse_lone_rows, reported_part
from vectoruniverse.tasks.sharing import sharing_key
from vectoruniverse.tasks.text_rows import tell_truncated
from vectoruniverse.terminal import Display
from vectoruniverse.training.device import choose_compute


@dataclass(slots=True)
class ImageTextShared(Shared):
    """The base and the rows that runs of it share.

    Attributes:
        data: decoded pictures, texts and their division.
        encoder: the base; whoever puts an adapter on it takes it off again.
        pairs: the rows as the task reads them, by split.
        known: rows that the base knew before, where the experiment says which.
        base_vectors: what the base makes of training rows and of known ones, once somebody asked.
        seen: what it makes of the training rows that its probes and rivals are fitted on, by how many they may be.
    """

    data: ImageTextData
    encoder: DualEncoder
    pairs: Mapping[str, Pairs]
    known: Known | None = None
    base_vectors: dict[str, Embeddings] = field(default_factory=dict)
    seen: dict[int, EmbeddedRows] = field(default_factory=dict)


def as_image_text(experiment: Experiment, what: str) -> ImageTextExperiment:
    """The experiment, where it is about pictures and texts.

    Raises:
        ConfigError: it is of another task, which ``what`` does not serve.
    """
    if not isinstance(experiment, ImageTextExperiment):
        raise ConfigError(f"{what} serves task image_text; {experiment.name} is of task {experiment.task}", key="task")
    return experiment


def share(experiment: ImageTextExperiment, display: Display, choice: RowChoice | None = None) -> ImageTextShared:
    """Config → data → encoder; nothing is written but the cache of decoded pictures."""
    train = experiment.train
    compute = choose_compute(train.device, train.precision, sharded=train.shard_base)
    metadata = read_rows(experiment.data)
    encoder = load_encoder(experiment, compute)
    data = decode(experiment.data, metadata, picture_recipe(experiment, encoder), display, choice)
    refuse_lone_rows(data, choice)
    encoder = encoder or build_encoder(experiment, compute, data.train_texts(), choice.trained if choice else None)
    pairs = build_pairs(encoder, data, experiment.eval.label_template, display)
    shared = ImageTextShared(sharing_key(experiment), compute, data, {}, encoder, pairs)
    if experiment.forgetting is not None and choice is None:  # of a run that was trained, its record tells
        shared.known = load_known(experiment, experiment.forgetting, shared, display)
    return shared


def load_known(
    experiment: ImageTextExperiment, forgetting: ForgettingConfig, shared: ImageTextShared, display: Display
) -> Known:
    """The rows that ``forgetting`` says the base knew.

    Raises:
        ConfigError: no row is left that the experiment does not itself use, either side is a single group of rows, of
            which no interval can be told, or there is no way from the base to what the experiment trains.
    """
    if not METHODS[experiment.adapter.method].mergeable:
        raise ConfigError(
            "a prefix has no scale between base and adapted model", key="forgetting", remedy="leave it out"
        )
    old = known_rows(experiment, forgetting, shared.data, shared.encoder, display)
    for whose, data in (("new", shared.data), ("old", old)):
        refuse_lone_group(data, whose)
    return Known(old, build_pairs(shared.encoder, old, experiment.eval.label_template, display))


def evaluate_base(experiment: ImageTextExperiment, shared: ImageTextShared, split: str) -> Evaluation:
    """What the base reaches, and beside it, on the rows that are reported, what its rivals that cost nothing do.

    Validation rows choose among those, and the strengths of the linear probes that stand beside them.
    """
    task, data = build_task(experiment, shared.encoder, shared.pairs), shared.data
    found = task.evaluate(split)
    reported, part = reported_part(experiment, data.split.reported), getattr(data.split, split)
    if not (len(data.split.train) and len(data.split.val)) or np.isin(part, data.split.train).any():
        return found  # nothing to fit on, or evaluated on what it was fitted on
    if split == "val" and found.labels is not None:
        found = dataclasses.replace(found, probes=label_probes(seen_by_base(experiment, task, shared), found))
    if not (split == reported and experiment.eval.rivals):
        return found
    picking = found if split == "val" else shared.evaluations.get("val") or task.evaluate("val")
    training = seen_by_base(experiment, task, shared)
    parts = {"choosing": (task.part("val"), picking), "reported": (task.part(split), found)}
    return dataclasses.replace(found, rivals=free_rivals(task, experiment, training, **parts))


def seen_by_base(experiment: ImageTextExperiment, task: ImageTextTask, shared: ImageTextShared) -> EmbeddedRows:
    """Training rows as the base sees them, embedded once for probes and rivals."""
    epochs = experiment.train.epochs
    limit = row_limit(len(task.train), epochs, task.passes_per_step)
    if limit not in shared.seen:
        shared.seen[limit] = training_rows(task, epochs)
    return shared.seen[limit]


def prepare(experiment: ImageTextExperiment, shared: ImageTextShared, trained: Path | None = None) -> PreparedImageText:
    """Adapter → task, on what is shared; ``release`` undoes it."""
    assert shared.key == sharing_key(experiment), "prepared on another base or other data"
    encoder, config = shared.encoder, experiment.adapter
    held, negatives, divergence, texts, strata = None, None, None, None, None
    fusion = make_fusion(experiment, encoder, trained)
    if trained is None:
        held = preserved(experiment, shared)  # of the base, before anything is put on it
        texts = text_views(experiment, shared.data, shared.pairs["train"].keys)
        negatives = training_negatives(experiment, shared.data, shared.pairs["train"].items, texts)
        strata = training_strata(experiment, shared.data, negatives)
        rows = [shared.data.rows[i] for i in shared.data.split.train]
        divergence = None if fusion is None else label_divergence(experiment, encoder, rows, fusion)
    adapter = put_on(adapter_host(encoder, experiment, shared.compute), config, experiment.seed, trained=trained)
    frozen = None if trained is not None else frozen_blocks(experiment, shared)
    if trained is None and config.train_logit_scale:
        encoder.start_logits(**logit_start(experiment.loss))
    return PreparedImageText(
        experiment,
        shared.compute,
        shared.data,
        encoder.model,
        {"": adapter},
        build_task(experiment, encoder, shared.pairs, TrainingParts(held, negatives, divergence, texts, frozen)),
        starts_as_base=config.starts_as_base,
        encoder=encoder,
        known=shared.known,
        fusion=fusion,
        learned=None if trained is None else read_labels(trained, encoder.width),
        strata=strata,
        frozen=frozen,
    )


def frozen_blocks(experiment: ImageTextExperiment, shared: ImageTextShared) -> Frozen | None:
    """What is kept of blocks below LoRA, which must be in place, where ``views.pool`` asks for it."""
    config, encoder, train = experiment.views, shared.encoder, shared.pairs["train"]
    if config.pool is None:
        return None
    kept = count_kept(encoder.patches, config.patch_dropout)
    picture = (picture_recipe(experiment, encoder).key, encoder.picture.size, encoder.picture.mean, encoder.picture.std)
    return freeze(
        encoder,
        cache_folder(experiment.data),
        pool=config.pool if augmentation(config).is_random or kept is not None else 1,
        pictures=[str(one) for one in shared.data.pictures.select(shared.data.split.train).digests],
        views={"picture": picture, "views": config.model_dump(exclude={"count", "pool", "text"})},
        kept=kept,
        tokens=train.tokens.ids,
        longest=max(len(ids) for pairs in shared.pairs.values() for ids in pairs.tokens.ids),
    )


def preserved(experiment: ImageTextExperiment, shared: ImageTextShared) -> Preserved | None:
    """What ``train.preserve`` holds training to; the base must be as it was loaded."""
    config, known = experiment.train.preserve, shared.known
    if config is None:
        return None

    def vectors(name: str, pairs: Mapping[str, Pairs]) -> Embeddings:
        if name not in shared.base_vectors:
            shared.base_vectors[name] = build_task(experiment, shared.encoder, pairs).embed(pairs["train"])
        return shared.base_vectors[name]

    held = Preserved(config.weight, config.distance, vectors("train", shared.pairs))
    if known is None:
        return held
    return replace(held, old=known.pairs["train"], old_base=vectors("known", known.pairs), old_rows=config.rows)


def build_pairs(
    encoder: DualEncoder, data: ImageTextData, label_template: str | None, display: Display
) -> dict[str, Pairs]:
    """Tokenize and number the rows of every part; ``display`` is told of texts that are cut."""
    tokenized, items = encoder.tokenize([row.text for row in data.rows]), data.items()
    tell_truncated({"": tokenized}, encoder.max_tokens, display)
    keys = [row_key(row.id) for row in data.rows]
    labels = label_texts(data.rows, encoder, label_template)
    everything = Pairs(data.pictures, keys, tokenized, items, labels)
    return by_part(data.split, everything.select)


def row_key(row_id: str) -> int:
    """A stable 64-bit number for a row."""
    return int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:8], "big")
