"""Task ``image_text``: its base and its rows, its loss and its views, and what stays of a run."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from vectoruniverse.adapters.apply import draws_dropout
from vectoruniverse.adapters.methods import METHODS, put_on, write_beside
from vectoruniverse.config.losses import logit_start, loss_pairs, loss_words, positive_pairs
from vectoruniverse.config.sections import Experiment
from vectoruniverse.data.splits import by_part
from vectoruniverse.data.views import Augmentation
from vectoruniverse.errors import ConfigError
from vectoruniverse.evaluation.comparison import Comparison
from vectoruniverse.evaluation.label_report import LabelReport
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.evaluation.retrieval import Embeddings
from vectoruniverse.losses.build import build_loss
from vectoruniverse.models.dual import TEXT_TOWER, VISION_TOWER, DualEncoder, local_source
from vectoruniverse.models.fusion import FUSION_FILE
from vectoruniverse.models.patch_dropout import count_kept
from vectoruniverse.report.run import Findings, Rows, retrieval_findings
from vectoruniverse.runs.files import write_record
from vectoruniverse.runs.label_records import LabelsFile
from vectoruniverse.runs.records import BlendRecord, ForgettingRecord
from vectoruniverse.tasks.base import Prepared, Shared
from vectoruniverse.tasks.image_text.data import ImageTextData, cache_folder, decode
from vectoruniverse.tasks.image_text.forgetting import Side, known_rows, ledger, refuse_lone_group
from vectoruniverse.tasks.image_text.frozen import Frozen, freeze
from vectoruniverse.tasks.image_text.hard_negatives import hard_strata
from vectoruniverse.tasks.image_text.label_rules import LABELS_FILE, learn_labels, predicted_beside, read_labels
from vectoruniverse.tasks.image_text.labels import label_divergence, label_texts, make_fusion
from vectoruniverse.tasks.image_text.metadata import read_rows
from vectoruniverse.tasks.image_text.model import (
    adapter_host,
    build_encoder,
    load_encoder,
    picture_recipe,
)
from vectoruniverse.tasks.image_text.negatives import training_negatives
from vectoruniverse.tasks.image_text.rivals import free_rivals
from vectoruniverse.tasks.image_text.sampler import training_strata
from vectoruniverse.tasks.image_text.settings import ForgettingConfig, ImageTextExperiment, ViewsConfig
from vectoruniverse.tasks.image_text.task import ImageTextTask, Pairs, Preserved, TrainingParts
from vectoruniverse.tasks.image_text.text_views import text_views
from vectoruniverse.tasks.rows import RowChoice, refuse_lone_rows, reported_part
from vectoruniverse.tasks.sharing import sharing_key
from vectoruniverse.tasks.text_rows import tell_truncated, truncated_words
from vectoruniverse.terminal import Display
from vectoruniverse.training.device import choose_compute
from vectoruniverse.training.strata import Miner, Strata

SNIPPETS = {
    "lora": """
from peft import PeftModel  # pip install peft
from transformers import {model}

model = PeftModel.from_pretrained({model}.from_pretrained("{base}"), "adapter")
""",
    "full": """
from transformers import {model}

model = {model}.from_pretrained("adapter")
""",
    "prefix": """
from vectoruniverse import load_run

run = load_run(".")
""",
}
"""Python that loads what a run made, by what was trained."""


def augmentation(config: ViewsConfig) -> Augmentation:
    """The configured ranges as plain values."""
    (scale_low, scale_high), (ratio_low, ratio_high) = config.crop_scale, config.crop_ratio
    return Augmentation(
        crop_scale=(scale_low, scale_high),
        crop_ratio=(ratio_low, ratio_high),
        brightness=config.brightness,
        contrast=config.contrast,
        saturation=config.saturation,
        flip=config.flip,
    )


SAME_VIEW = {
    "I": "no picture is augmented (views)",
    "T": "no views.text draws a text twice, nor does dropout make two passes of it differ (adapter.dropout, or a model "
    "with its own)",
}
"""Why a second view equals the first, and by which keys it would not."""


@dataclass(frozen=True, slots=True)
class Known:
    """Rows that the base knew before, and the same as the task reads them, by split."""

    data: ImageTextData
    pairs: Mapping[str, Pairs]


@dataclass(slots=True)
class ImageTextShared(Shared):
    """The base and the rows that runs of it share.

    Attributes:
        data: decoded pictures, texts and their division.
        encoder: the base; whoever puts an adapter on it takes it off again.
        pairs: the rows as the task reads them, by split.
        known: rows that the base knew before, where the experiment says which.
        base_vectors: what the base makes of training rows and of known ones, once somebody asked.
    """

    data: ImageTextData
    encoder: DualEncoder
    pairs: Mapping[str, Pairs]
    known: Known | None = None
    base_vectors: dict[str, Embeddings] = field(default_factory=dict)


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
    compute = choose_compute(experiment.train.device, experiment.train.precision)
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

    Validation rows choose among those.
    """
    task, data = build_task(experiment, shared.encoder, shared.pairs), shared.data
    found = task.evaluate(split)
    reported = reported_part(experiment, data.split.reported)
    held_out = split == reported and not np.isin(getattr(data.split, split), data.split.train).any()
    if not (held_out and experiment.eval.rivals and len(data.split.val)):
        return found
    picking = found if split == "val" else shared.evaluations.get("val") or task.evaluate("val")
    rivals = free_rivals(task, experiment, choosing=(task.part("val"), picking), reported=(task.part(split), found))
    return dataclasses.replace(found, rivals=rivals)


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
        rules=None if trained is None else read_labels(trained),
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


@dataclass(frozen=True, slots=True)
class PreparedImageText(Prepared):
    """A dual encoder with what is trained on it, and its rows.

    Attributes:
        encoder: the model.
        known: rows that the base knew before, where the experiment says which.
        fusion: what makes one vector of a picture's and a text's for ``loss.label_kl``; retrieval does without it.
        frozen: what is kept of frozen blocks; None: nothing.
    """

    experiment: ImageTextExperiment
    data: ImageTextData
    task: ImageTextTask
    encoder: DualEncoder
    known: Known | None
    fusion: nn.Module | None
    rules: LabelsFile | None
    frozen: Frozen | None
    strata: Strata | None

    @property
    def miner(self) -> Miner | None:
        """Pairs near rows, where the experiment asks for hard negatives."""
        config = self.experiment.train.hard_negatives
        return None if config is None else partial(hard_strata, self.task, config, self.experiment.seed)

    def save(self, folder: Path) -> None:
        """Write what was trained on the encoder, and the fusion beside it."""
        Prepared.save(self, folder)
        if self.fusion is not None:
            write_beside(folder / FUSION_FILE, dict(self.fusion.named_parameters()))

    @property
    def beside(self) -> Mapping[str, nn.Module]:
        """The fusion, where there is one."""
        return {} if self.fusion is None else {"fusion": self.fusion}

    def learn_labels(self, base: Evaluation, adapted: Evaluation) -> PreparedImageText:
        """The same with the rules of its labels, which are learned once."""
        if self.rules is not None:
            return self
        found = learn_labels(
            {"base": base, "adapted": adapted}, self.task.train.labels, self.experiment.data, self.fusion
        )
        return self if found is None else replace(self, rules=found)

    def save_labels(self, folder: Path) -> None:
        """Write the rules, if there are any."""
        if self.rules is not None:
            write_record(folder / LABELS_FILE, self.rules)

    def label_report(self, base: Evaluation, adapted: Evaluation, split: str) -> LabelReport | None:
        """By the rules of both models, and the rivals that know labels by theirs."""
        if self.rules is None or adapted.labels is None:
            return None
        return predicted_beside(
            self.rules,
            base,
            adapted,
            self.experiment.data,
            self.units(split),
            in_sample=split == "val",
            fusion=self.fusion,
        )

    def choose_scale(self, split: str) -> BlendRecord:
        """The scale that keeps most of both sides, where the experiment says what the base knew."""
        if self.experiment.forgetting is None or self.known is None:
            return super(PreparedImageText, self).choose_scale(split)
        found = self.ledger(self.known, self.experiment.forgetting, split, shrink=False)
        curve = [{"scale": one.scale, "new": one.new.estimate, "old": one.old.estimate} for one in found.curve]
        return BlendRecord(scale=found.best_scale, split=split, metric=found.metric, curve=curve, rule=found.rule)

    def forgotten(self, split: str, kept_scale: float = 1.0) -> ForgettingRecord | None:
        """Where the experiment says what the base knew: both sides along the adapter's scale."""
        config = self.experiment.forgetting
        if config is None or self.known is None:
            return None
        return self.ledger(self.known, config, split).model_copy(update={"kept_scale": kept_scale})

    def ledger(self, known: Known, config: ForgettingConfig, split: str, *, shrink: bool = True) -> ForgettingRecord:
        """What adapting gained on the rows of a split and lost on ``known`` ones."""
        old = build_task(self.experiment, self.encoder, known.pairs)
        return ledger(
            self.adapters[""],
            Side(lambda: self.task.evaluate(split), self.units(split)),
            Side(old.evaluate, known.data.units("val")),
            scales=config.scales,
            metric=self.experiment.eval.monitor,
            shrink=shrink,
        )

    def base_model(self) -> str:
        """The base in words."""
        return f"`{self.encoder.name}`" + (f" at commit `{self.encoder.commit}`" if self.encoder.commit else "")

    def snippet(self) -> str:
        """Python that loads what the run made."""
        snippet = SNIPPETS[self.experiment.adapter.method]
        return snippet.format(model=type(self.encoder.model).__name__, base=local_source(self.encoder.name))

    @property
    def towers(self) -> tuple[str, ...]:
        """Both."""
        return (VISION_TOWER, TEXT_TOWER)

    @property
    def tags(self) -> tuple[str, ...]:
        """What the hub files it under."""
        return (self.library, "clip", "image-text", "vectoruniverse")

    def facts(self) -> dict[str, str]:
        """The loss."""
        return {"loss": "; ".join([loss_words(self.experiment.loss), *self.remarks()])}

    def warnings(self) -> list[str]:
        """How many texts of ``views.text``, nothing left out, are longer than the encoder reads."""
        if (texts := self.task.texts) is None:
            return []
        tokens = self.encoder.tokenize([text for template in texts.templates for text in texts.whole(template)])
        return truncated_words({"views.text": tokens}, self.encoder.max_tokens)

    def remarks(self) -> tuple[str, ...]:
        """Which pairs compare a view with itself, whether labels stand in the texts already, and patches left out."""
        drawn_together = positive_pairs(self.experiment.loss)
        given = any("{labels}" in template for template in self.experiment.training_templates)
        key = "data.text" if self.experiment.views.text is None else "views.text"
        read = (f"label_kl finds the labels in the texts themselves ({key})",) if given and self.fusion else ()
        return (
            read
            + self._what_is_read()
            + tuple(
                f"{pair} draws nothing together: {view}+ is {view}, since {SAME_VIEW[view]}"
                for view in self.task.same_views
                if (pair := f"{view}{view}+") in drawn_together
            )
        )

    def _what_is_read(self) -> tuple[str, ...]:
        kept = count_kept(self.encoder.patches, self.experiment.views.patch_dropout)
        read = () if kept is None else (f"training reads {kept} of the {self.encoder.patches} patches of a picture",)
        return read if self.frozen is None else (*read, self.frozen.words)

    def findings(self, comparison: Comparison) -> Findings:
        """The space before and after, and the best and worst retrievals."""
        pairs = self.task.part(comparison.split)
        titles = [self.data.rows[i].text for i in getattr(self.data.split, comparison.split)]
        return retrieval_findings(comparison, pairs.items, Rows(titles, self.data.thumbnails(comparison.split)))


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


def build_task(
    experiment: ImageTextExperiment,
    encoder: DualEncoder,
    pairs: Mapping[str, Pairs],
    parts: TrainingParts | None = None,
) -> ImageTextTask:
    """Bind encoder, rows, loss and views to the task, and what only training needs."""
    dropout = draws_dropout(encoder.model.get_submodule(TEXT_TOWER), encoder.model.config.text_config)
    compared = experiment.loss.label_kl is not None or any("T+" in pair for pair in loss_pairs(experiment.loss))
    return ImageTextTask(
        encoder,
        train=pairs["train"],
        val=pairs["val"],
        test=pairs.get("test"),
        loss=build_loss(experiment.loss, encoder, trained=experiment.adapter.train_logit_scale),
        augmentation=augmentation(experiment.views),
        views=experiment.views.count,
        text_is_random=compared and (dropout or experiment.views.text is not None),
        seed=experiment.seed,
        recall_at=experiment.eval.recall_at,
        eval_batch=experiment.eval.batch_size,
        parts=parts,
        patches=count_kept(encoder.patches, experiment.views.patch_dropout),
        pool=experiment.views.pool,
    )


def row_key(row_id: str) -> int:
    """A stable 64-bit number for a row."""
    return int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:8], "big")
