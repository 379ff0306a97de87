"""Task ``image_text``: its loss, its views, its rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from vectoruniverse import losses
from vectoruniverse.assembly.rows import ImageTextData
from vectoruniverse.config.schema import (
    AdapterConfig,
    AlignmentAnisotropyConfig,
    ImageTextExperiment,
    InfoNceConfig,
    SiglipConfig,
    ViewsConfig,
)
from vectoruniverse.data.metadata import Row
from vectoruniverse.data.views import Augmentation
from vectoruniverse.encoders.dual import DualEncoder
from vectoruniverse.tasks.image_text import ImageTextTask, LabelTexts, Pairs, ViewLoss


def build_loss(config: object, encoder: DualEncoder) -> ViewLoss:
    """The configured loss as a function of the views."""
    if isinstance(config, AlignmentAnisotropyConfig):
        return partial(losses.alignment_anisotropy, **config.model_dump(exclude={"name"}))
    if isinstance(config, InfoNceConfig):
        return partial(_info_nce, encoder, config.temperature, tuple(config.pairs))
    assert isinstance(config, SiglipConfig)
    return partial(_siglip, encoder, config.temperature, config.bias)


def _info_nce(
    encoder: DualEncoder, temperature: float | None, pairs: tuple[str, ...], views: Mapping[str, Tensor]
) -> losses.LossValue:
    scale = encoder.logit_scale if temperature is None else 1.0 / temperature
    return losses.info_nce(views, logit_scale=scale, pairs=pairs)


def _siglip(
    encoder: DualEncoder, temperature: float | None, bias: float | None, views: Mapping[str, Tensor]
) -> losses.LossValue:
    scale = encoder.logit_scale if temperature is None else 1.0 / temperature
    return losses.siglip(views, logit_scale=scale, logit_bias=encoder.logit_bias if bias is None else bias)


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


def build_task(experiment: ImageTextExperiment, encoder: DualEncoder, data: ImageTextData) -> ImageTextTask:
    """Tokenize, number, and bind everything to the task."""
    tokenized = encoder.tokenize([row.text for row in data.rows])
    _, groups = np.unique(np.array([row.text for row in data.rows], dtype=object).astype(str), return_inverse=True)

    labels = label_texts(data.rows, encoder, experiment.eval.label_template)

    def pairs(part: np.ndarray) -> Pairs:
        return Pairs(
            data.pictures,
            data.positions[part],
            [row_key(data.rows[i].id) for i in part],
            [tokenized.ids[i] for i in part],
            groups[part].astype(np.int64),
            None if labels is None else LabelTexts(labels.names, labels.tokens, labels.of_row[part]),
        )

    return ImageTextTask(
        encoder,
        train=pairs(data.split.train),
        val=pairs(data.split.val),
        loss=build_loss(experiment.loss, encoder),
        augmentation=augmentation(experiment.views),
        views=experiment.views.count,
        text_is_random=_has_dropout(encoder, experiment.adapter),
        seed=experiment.seed,
        recall_at=experiment.eval.recall_at,
        eval_batch=experiment.eval.batch_size,
    )


def label_texts(rows: Sequence[Row], encoder: DualEncoder, template: str | None) -> LabelTexts | None:
    """The labels, most frequent first, and their texts as the encoder reads them.

    A label that every row has tells no row from another and is left out.
    """
    counts = Counter(label for row in rows for label in set(row.labels))
    names = sorted((label for label in counts if counts[label] < len(rows)), key=lambda label: (-counts[label], label))
    if template is None or len(names) < 2:
        return None
    column = {name: i for i, name in enumerate(names)}
    of_row = torch.zeros(len(rows), len(names), dtype=torch.bool)
    for i, row in enumerate(rows):
        of_row[i, [column[label] for label in row.labels if label in column]] = True
    return LabelTexts(names, encoder.tokenize([template.replace("{label}", name) for name in names]).ids, of_row)


def row_key(row_id: str) -> int:
    """A stable 64-bit number for a row."""
    return int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:8], "big")


def _has_dropout(encoder: DualEncoder, adapter: AdapterConfig) -> bool:
    """Whether two passes of the same text differ while training."""
    if adapter.method == "lora" and adapter.dropout > 0.0 and adapter.text_targets:
        return True
    text = vars(encoder.model.config.text_config)  # type: ignore[union-attr]
    return any(value for key, value in text.items() if "dropout" in key and isinstance(value, float))
