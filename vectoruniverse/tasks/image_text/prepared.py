"""A dual encoder with what is trained on it, its rows and its task, and what the runner asks of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from vectoruniverse.adapters.apply import draws_dropout
from vectoruniverse.adapters.methods import write_beside
from vectoruniverse.config.losses import loss_pairs, loss_words, positive_pairs
from vectoruniverse.data.streamed import StreamedPictures
from vectoruniverse.data.views import Augmentation
from vectoruniverse.evaluation.comparison import Comparison
from vectoruniverse.evaluation.label_report import LabelReport
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.losses.build import build_loss
from vectoruniverse.models.dual import TEXT_TOWER, VISION_TOWER, DualEncoder, local_source
from vectoruniverse.models.fusion import FUSION_FILE
from vectoruniverse.models.patch_dropout import count_kept
from vectoruniverse.report.run import Findings, Rows, retrieval_findings
from vectoruniverse.runs.records import BlendRecord, ForgettingRecord
from vectoruniverse.tasks.base import Prepared
from vectoruniverse.tasks.image_text.data import ImageTextData
from vectoruniverse.tasks.image_text.forgetting import Side, ledger
from vectoruniverse.tasks.image_text.frozen import Frozen
from vectoruniverse.tasks.image_text.hard_negatives import hard_strata
from vectoruniverse.tasks.image_text.label_rules import LearnedLabels, learn_labels, predicted_beside, save_labels
from vectoruniverse.tasks.image_text.rivals import label_probes, training_rows
from vectoruniverse.tasks.image_text.settings import ForgettingConfig, ImageTextExperiment, ViewsConfig
from vectoruniverse.tasks.image_text.task import ImageTextTask, Pairs, TrainingParts
from vectoruniverse.tasks.text_rows import truncated_words
from vectoruniverse.training.strata import Blocks, Miner, Strata

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
    learned: LearnedLabels | None
    frozen: Frozen | None
    strata: Strata | Blocks | None

    @property
    def miner(self) -> Miner | None:
        """Pairs near rows, where the experiment asks for hard negatives."""
        config = self.experiment.train.hard_negatives
        return None if config is None else partial(hard_strata, self.task, config, self.experiment.seed)

    def ahead(self, rows: np.ndarray) -> None:
        """See ``Prepared``."""
        self.task.ahead(rows)

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
        if self.learned is not None:
            return self
        if base.probes:
            training = training_rows(self.task, self.experiment.train.epochs)
            adapted = replace(adapted, probes=label_probes(training, adapted))
        found = learn_labels(
            {"base": base, "adapted": adapted}, self.task.train.labels, self.experiment.data, self.fusion
        )
        return self if found is None else replace(self, learned=found)

    def save_labels(self, folder: Path) -> None:
        """Write the rules, if there are any."""
        if self.learned is not None:
            save_labels(self.learned, folder)

    def label_report(self, base: Evaluation, adapted: Evaluation, split: str) -> LabelReport | None:
        """By the rules of both models, and the rivals that know labels by theirs."""
        if self.learned is None or adapted.labels is None:
            return None
        return predicted_beside(
            self.learned,
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
        # peft would put it on plain weights, which it was not trained on
        snippet = SNIPPETS[self.experiment.adapter.method if self.experiment.quantization is None else "prefix"]
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
        if isinstance(self.data.pictures, StreamedPictures):
            read = (*read, "pictures are decoded whenever they are read (data.store)")
        return read if self.frozen is None else (*read, self.frozen.words)

    def findings(self, comparison: Comparison) -> Findings:
        """The space before and after, and the best and worst retrievals."""
        pairs = self.task.part(comparison.split)
        titles = [self.data.rows[i].text for i in getattr(self.data.split, comparison.split)]
        return retrieval_findings(comparison, pairs.items, Rows(titles, self.data.thumbnails(comparison.split)))


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
        micro_batch=experiment.train.micro_batch,
    )
