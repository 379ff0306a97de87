"""Labels of rows, and their texts as the encoder reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vectoruniverse.models.dual import DualEncoder
from vectoruniverse.models.encoder import TokenizedTexts
from vectoruniverse.tasks.image_text.metadata import Row


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
