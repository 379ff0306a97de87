"""Labels of rows, their texts as the encoder reads them, and how far training rows are from theirs.

Shapes: N training rows, B rows of a batch, C labels, E shared embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vectoruniverse.adapters.methods import read_beside
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.losses.build import build_label_kl
from vectoruniverse.losses.contrastive import LossValue
from vectoruniverse.models.dual import DualEncoder
from vectoruniverse.models.encoder import TokenizedTexts
from vectoruniverse.models.fusion import FUSION_FILE, build_fusion
from vectoruniverse.tasks.image_text.metadata import Row
from vectoruniverse.tasks.image_text.settings import ImageTextExperiment


@dataclass(frozen=True, slots=True)
class LabelTexts:
    """Label names (C), token ids of each label's text, and which row has which label, (N, C) bool."""

    names: Sequence[str]
    tokens: TokenizedTexts
    of_row: Tensor


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
    return LabelTexts(names, encoder.tokenize([template.replace("{label}", name) for name in names]), of_row)


@dataclass(frozen=True, slots=True)
class LabelDivergence:
    """Picture and text of a row, fused, beside the texts of its labels, as ``loss.label_kl`` asks.

    Attributes:
        fusion: makes X (.., B, E) of unit vectors of pictures and texts.
        labels: of the training rows; two at least.
        loss: of X (V, B, E), of unit vectors of labels (C, E), and of which row has which (B, C), on the CPU.
        max_labels: up to so many labels are compared at each step; of more, those of the batch's rows.
    """

    fusion: nn.Module
    labels: LabelTexts
    loss: Callable[[Tensor, Tensor, Tensor], LossValue]
    max_labels: int

    def among(
        self, encoder: DualEncoder, rows: np.ndarray, images: Sequence[Tensor], texts: Sequence[Tensor]
    ) -> LossValue:
        """Of these training rows, whose pictures and texts were seen in one or two views, each (b, E) of own rows."""
        has = self.labels.of_row[torch.from_numpy(rows)]
        which = self._compared(has)
        names = encoder.encode_texts(encoder.pad(self.labels.tokens, which.numpy()))
        fused = self.fusion(*(torch.stack([views[0], views[-1]]) for views in (images, texts)))
        return self.loss(fused, names, has[:, which])

    def _compared(self, has: Tensor) -> Tensor:
        """Places of the labels among which a row's are told apart, of all (B, C)."""
        every = torch.arange(has.shape[1])
        some = every[has.any(dim=0)]
        return every if len(every) <= self.max_labels else some if len(some) else every[:1]


def label_divergence(
    experiment: ImageTextExperiment, encoder: DualEncoder, rows: Sequence[Row], fusion: nn.Module
) -> LabelDivergence:
    """What ``loss.label_kl`` adds to the loss of these training rows.

    Raises:
        ConfigError: fewer than two labels tell training rows apart.
    """
    config = experiment.loss.label_kl
    assert config is not None
    labels = label_texts(rows, encoder, config.template)
    if labels is None:
        raise too_few_labels(rows, "loss.label_kl", "remove it")
    return LabelDivergence(fusion, labels, build_label_kl(config), config.max_labels)


def make_fusion(experiment: ImageTextExperiment, encoder: DualEncoder, trained: Path | None = None) -> nn.Module | None:
    """The fusion of ``loss.label_kl``, a new one or that of a ``trained`` adapter's folder; None where none is asked.

    Raises:
        DataError: the saved one is missing or damaged.
    """
    config = experiment.loss.label_kl
    if config is None:
        return None
    fusion = build_fusion(config.fusion, encoder.width, experiment.seed)
    if trained is not None:
        own, file = dict(fusion.named_parameters()), trained / FUSION_FILE
        saved = read_beside(file, own)
        if saved.keys() != own.keys():
            raise DataError(f"lacks a {config.fusion} fusion", file=file, remedy="Take an intact copy of the adapter.")
        fusion.load_state_dict(saved)
    return fusion.to(encoder.device)


def too_few_labels(rows: Sequence[Row], key: str, otherwise: str) -> ConfigError:
    """Why what ``key`` asks of the training rows' labels cannot be.

    Args:
        rows: of training.
        key: of the experiment.
        otherwise: what to do with the key where there are no labels.
    """
    names = {label for row in rows for label in row.labels}
    message = "no two labels tell training rows apart"
    if not names:
        message = "the training rows have no labels"
    elif all(set(row.labels) == names for row in rows):
        message = "no label tells training rows apart: all have the same"
    return ConfigError(message, key=key, remedy=f"name the column of labels in data.columns.labels, or {otherwise}")
