"""Token ids of texts: unpadded as a tokenizer gives them, and padded as a model takes them.

Shapes: N rows, B batch, L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenizedTexts:
    """Token ids of N texts, or of N pairs of texts, unpadded.

    Attributes:
        ids: one int64 array of token ids per row, marks such as ``[CLS]`` and ``[SEP]`` included.
        segments: one int64 array per row, as long as its ids: 0 for the first text and its marks, 1 for the second.
        truncated: positions of the rows that were longer than the model reads and were cut, ascending.
    """

    ids: list[np.ndarray]
    segments: list[np.ndarray]
    truncated: list[int]

    def __len__(self) -> int:
        """Rows."""
        return len(self.ids)

    def select(self, rows: np.ndarray) -> TokenizedTexts:
        """These rows, in this order."""
        cut = set(self.truncated)
        return TokenizedTexts(
            [self.ids[i] for i in rows],
            [self.segments[i] for i in rows],
            [place for place, i in enumerate(rows) if int(i) in cut],
        )


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Rows padded on the right to the longest of them, each field (B, L) int64.

    Attributes:
        ids: token ids, the padding token's behind the end of a row.
        mask: 1 where there is a token, 0 where there is padding.
        segments: 0 for the first text and for padding, 1 for the second text.
    """

    ids: Tensor
    mask: Tensor
    segments: Tensor
