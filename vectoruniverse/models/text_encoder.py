"""A text encoder: texts, or pairs of texts, to one vector each.

Shapes: B batch, N rows, L tokens, D width of a pooled text vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vectoruniverse.models.load import check_vocabulary
from vectoruniverse.models.sentence_folder import write_layout
from vectoruniverse.models.text_tower import Pooling, TextTower
from vectoruniverse.models.tokens import TextBatch, TokenizedTexts


class TextEncoder:
    """A transformers encoder, pooling, and what a sentence-transformers folder puts behind it.

    Attributes:
        module: everything with weights; what adapters are put on.
        tokenizer: its tokenizer.
        name: how the user named it.
        dtype: compute format.
        max_tokens: longest row in tokens, marks included.
        commit: commit of the hub repository it came from, where known.
    """

    def __init__(
        self,
        module: TextTower,
        tokenizer: Any,
        *,
        name: str,
        dtype: torch.dtype,
        max_tokens: int,
        commit: str | None = None,
    ) -> None:
        tokenizer.model_max_length = max_tokens  # which a saved folder tells others
        self.module, self.tokenizer, self.name, self.dtype = module, tokenizer, name, dtype
        self.max_tokens, self.commit = max_tokens, commit

    @property
    def model(self) -> nn.Module:
        """The transformers model inside ``module``."""
        return self.module.model

    @property
    def pooling(self) -> Pooling:
        """How token vectors become one."""
        return self.module.pooling

    @property
    def width(self) -> int:
        """D."""
        return self.module.width

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Token ids of every text; special tokens written out in a text are read as plain characters."""
        return self._tokenized([list(texts)])

    def tokenize_pairs(self, first: Sequence[str], second: Sequence[str]) -> TokenizedTexts:
        """Token ids of pairs, ``[CLS] a [SEP] b [SEP]`` in BERT's case; of a long pair the longer text is cut first."""
        if len(first) != len(second):
            raise ValueError(f"{len(first)} first texts and {len(second)} second ones are no pairs")
        return self._tokenized([list(first), list(second)])

    def _tokenized(self, columns: list[list[str]]) -> TokenizedTexts:
        if not columns[0]:
            return TokenizedTexts([], [], [])
        marks = {"split_special_tokens": True, "return_token_type_ids": True, "padding": False, "verbose": False}
        rows = self.tokenizer(*columns, truncation=False, **marks)
        ids, segments = rows["input_ids"], rows["token_type_ids"]
        long = [i for i, row in enumerate(ids) if len(row) > self.max_tokens]
        if long:
            texts = [[column[i] for i in long] for column in columns]
            cut = self.tokenizer(*texts, truncation="longest_first", max_length=self.max_tokens, **marks)
            for i, row, segment in zip(long, cut["input_ids"], cut["token_type_ids"], strict=True):
                ids[i], segments[i] = row, segment
        tokens = TokenizedTexts(_as_arrays(ids), _as_arrays(segments), long)
        self._check_vocabulary(tokens)
        return tokens

    def _check_vocabulary(self, tokens: TokenizedTexts) -> None:
        model: Any = self.model
        highest = max(int(row.max()) for row in tokens.ids)
        check_vocabulary(self.name, highest, model.get_input_embeddings().num_embeddings)

    def pad(self, tokens: TokenizedTexts, rows: Sequence[int] | np.ndarray) -> TextBatch:
        """The chosen rows, B ≥ 1, padded on the right to the longest of them, on this encoder's device."""
        length = max(len(tokens.ids[i]) for i in rows)
        ids = np.full((len(rows), length), self.tokenizer.pad_token_id, dtype=np.int64)
        mask, segments = np.zeros_like(ids), np.zeros_like(ids)
        for at, i in enumerate(rows):
            end = len(tokens.ids[i])
            ids[at, :end], mask[at, :end], segments[at, :end] = tokens.ids[i], 1, tokens.segments[i]
        return TextBatch(*(torch.from_numpy(array).to(self.device) for array in (ids, mask, segments)))

    def encode(self, batch: TextBatch) -> Tensor:
        """Pooled vectors, float32 (B, D), with gradients; of length 1 only where the model's own folder says so."""
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            vectors: Tensor = self.module(batch.ids, batch.mask, batch.segments)
        return vectors

    def embed(self, tokens: TokenizedTexts, *, batch_size: int) -> Tensor:
        """Pooled vectors of all rows, (N, D) float32 on the CPU, without dropout and without gradients.

        Rows of similar length share a batch, so that little of it is padding.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} is below 1")
        order = np.argsort([len(row) for row in tokens.ids], kind="stable")
        embedded, training = torch.empty(len(tokens), self.width), self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                for start in range(0, len(tokens), batch_size):
                    rows = order[start : start + batch_size]
                    embedded[torch.from_numpy(rows)] = self.encode(self.pad(tokens, rows)).cpu()
        finally:
            self.module.train(training)
        return embedded

    def save(self, folder: Path) -> None:
        """Write a folder that plain transformers and sentence-transformers load; merge or remove adapters first."""
        model: Any = self.model
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        hidden = int(model.config.hidden_size)
        layers = list(self.module.layers)
        write_layout(folder, pooling=self.pooling, hidden=hidden, layers=layers, max_tokens=self.max_tokens)


def _as_arrays(rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    return [np.asarray(row, dtype=np.int64) for row in rows]
