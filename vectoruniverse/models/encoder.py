"""The one way of texts to vectors: token ids, padded batches, and vectors of all rows batch by batch.

Shapes: N rows, B batch, L tokens, E width of a vector.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vectoruniverse import processes
from vectoruniverse.data.transfer import send
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.load import check_vocabulary

TEXTS_AT_ONCE = 4096
"""Texts that are tokenized at a time: what a tokenizer tells of them takes ten times the memory of their ids."""


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

    def distinct(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first row that holds each text, in the order of ``rows``, and each row's place among these."""
        places: dict[tuple[bytes, bytes], int] = {}
        keys = [(self.ids[i].tobytes(), self.segments[i].tobytes()) for i in rows]
        place = np.array([places.setdefault(key, len(places)) for key in keys], dtype=np.int64)
        return rows[np.unique(place, return_index=True)[1]], place


_LEAST_SAVED, _LEAST_ROWS = 0.2, 16
"""Share of the tokens, and rows of a part, below which less padding does not pay for more passes (vu guide tried)."""


def similar_lengths(lengths: np.ndarray) -> list[np.ndarray]:
    """Places of B texts in 1, 2 or 4 parts of similar length; one where too little padding would be saved.

    Args:
        lengths: in tokens (B,).
    """
    order, parts = np.argsort(lengths, kind="stable"), [np.arange(len(lengths))]
    most = (1 - _LEAST_SAVED) * len(lengths) * lengths.max(initial=0)
    for count in (2, 4):
        some = np.array_split(order, count)
        if len(some[-1]) >= _LEAST_ROWS and sum(len(part) * lengths[part].max() for part in some) <= most:
            parts = some
    return parts


def each_once(
    encode: Callable[[np.ndarray], list[Tensor]], tokens: TokenizedTexts, rows: np.ndarray, *, differ: bool, apart: bool
) -> list[Tensor]:
    """Vectors of the texts of ``rows`` in V views, V times (B, E), of which equal ones are encoded once.

    Value and gradient are those of encoding every row.

    Args:
        encode: rows (M,) → V times (M, E).
        tokens: texts of all rows.
        rows: B positions in ``tokens``.
        differ: whether two vectors of one text differ, as under dropout: then every row is encoded.
        apart: whether texts of other lengths may be encoded in other passes, where that saves padding.
    """
    if differ:
        return encode(rows)
    distinct, place = tokens.distinct(rows)
    parts = similar_lengths(np.array([len(tokens.ids[i]) for i in distinct])) if apart else [np.arange(len(distinct))]
    views = [torch.cat(view) for view in zip(*(encode(distinct[part]) for part in parts), strict=True)]
    if len(parts) == 1 and len(distinct) == len(rows):
        return views
    place = np.argsort(np.concatenate(parts))[place]
    return [view[send(torch.from_numpy(place), view.device)] for view in views]


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Rows padded on the right, each field (B, L) int64.

    Attributes:
        ids: token ids, the padding token's behind the end of a row.
        mask: 1 where there is a token, 0 where there is padding.
        segments: 0 for the first text and for padding, 1 for the second text.
    """

    ids: Tensor
    mask: Tensor
    segments: Tensor


_LOCAL = ("modernbert",)
"""Families that make masks of several widths of one mask, and take none that is ready."""


def attention_mask(mask: Tensor, config: Any) -> Tensor:
    """A mask (B, L) as a transformers model of this configuration is given it: (B, 1, L, L) bool for sdpa.

    Of one that is not ready it would ask whether it masks anything at all, and wait for the GPU to tell.
    """
    if config._attn_implementation != "sdpa" or config.model_type in _LOCAL:
        return mask
    return mask.bool()[:, None, None, :].expand(-1, -1, mask.shape[1], -1)


class TextReader:
    """A model's tokenizer, and what the model can read of its tokens.

    Attributes:
        tokenizer: of transformers.
        name: how the user named the model.
        max_tokens: longest row in tokens, marks included.
        vocabulary: how many tokens the model has vectors for.
        pads_to_end: whether every row is padded to ``max_tokens`` and read without a mask, as SigLIP was trained.
    """

    def __init__(
        self, tokenizer: Any, *, name: str, max_tokens: int, vocabulary: int, pads_to_end: bool = False
    ) -> None:
        self.tokenizer, self.name, self.max_tokens = tokenizer, name, max_tokens
        self.vocabulary, self.pads_to_end = vocabulary, pads_to_end

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Token ids of every text; special tokens written out in a text are read as plain characters."""
        return self._tokenized([list(texts)])

    def tokenize_pairs(self, first: Sequence[str], second: Sequence[str]) -> TokenizedTexts:
        """Token ids of pairs, ``[CLS] a [SEP] b [SEP]`` in BERT's case; of a long pair the longer text is cut first."""
        if len(first) != len(second):
            raise ValueError(f"{len(first)} first texts and {len(second)} second ones are no pairs")
        return self._tokenized([list(first), list(second)])

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Length of each text in tokens, marks included, nothing cut."""
        return [len(row) for row in self._rows([list(texts)])["input_ids"]]

    def pad(self, tokens: TokenizedTexts, rows: Sequence[int] | np.ndarray, length: int = 0) -> TextBatch:
        """The chosen rows, B ≥ 1, on the CPU.

        L is the longest of them and no less than ``length``; with ``pads_to_end`` it is ``max_tokens``.
        """
        length = self.max_tokens if self.pads_to_end else max(length, *(len(tokens.ids[i]) for i in rows))
        ids = np.full((len(rows), length), self.tokenizer.pad_token_id, dtype=np.int64)
        mask, segments = np.zeros_like(ids), np.zeros_like(ids)
        for at, i in enumerate(rows):
            end = len(tokens.ids[i])
            ids[at, :end], mask[at, :end], segments[at, :end] = tokens.ids[i], 1, tokens.segments[i]
        return TextBatch(*map(torch.from_numpy, (ids, mask, segments)))

    def _tokenized(self, columns: list[list[str]]) -> TokenizedTexts:
        tokens = TokenizedTexts([], [], [])
        for first in range(0, len(columns[0]), TEXTS_AT_ONCE):
            some = [column[first : first + TEXTS_AT_ONCE] for column in columns]
            rows = self._rows(some)
            ids, segments = rows["input_ids"], rows["token_type_ids"]
            long = [i for i, row in enumerate(ids) if len(row) > self.max_tokens]
            if long:
                texts = [[column[i] for i in long] for column in some]
                cut = self._rows(texts, truncation="longest_first", max_length=self.max_tokens)
                for i, row, segment in zip(long, cut["input_ids"], cut["token_type_ids"], strict=True):
                    ids[i], segments[i] = row, segment
            tokens.ids.extend(_as_arrays(ids))
            tokens.segments.extend(_as_arrays(segments))
            tokens.truncated.extend(first + i for i in long)
        if tokens.ids:
            check_vocabulary(self.name, max(int(row.max(initial=0)) for row in tokens.ids), self.vocabulary)
        return tokens

    def _rows(self, columns: list[list[str]], truncation: str | bool = False, max_length: int | None = None) -> Any:
        return self.tokenizer(
            *columns,
            truncation=truncation,
            max_length=max_length,
            padding=False,
            split_special_tokens=True,
            return_token_type_ids=True,
            verbose=False,
        )


class Encoder(TextReader, ABC):
    """A model that turns texts, and perhaps pictures, into vectors.

    Attributes:
        module: everything with weights; what adapters are put on.
        compute: where and in which format it computes.
        commit: commit of the hub repository it came from, where known.
    """

    def __init__(self, module: nn.Module, reader: TextReader, *, compute: Compute, commit: str | None) -> None:
        super().__init__(**vars(reader))
        self.module: Any = module
        self.compute, self.commit = compute, commit

    @property
    def passes_apart(self) -> bool:
        """Whether texts of other lengths may have other passes: not where all are padded alike or processes wait."""
        return not self.pads_to_end and processes.count() == 1

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.module.parameters()).device
        return device

    def pad(self, tokens: TokenizedTexts, rows: Sequence[int] | np.ndarray, length: int = 0) -> TextBatch:
        """As ``TextReader.pad``, on this encoder's device."""
        batch = super().pad(tokens, rows, length)
        return TextBatch(*(send(each, self.device) for each in (batch.ids, batch.mask, batch.segments)))

    @abstractmethod
    def encode_texts(self, batch: TextBatch) -> Tensor:
        """Vectors of a batch, float32 (B, E), with gradients."""

    def embed_texts(self, tokens: TokenizedTexts, *, batch_size: int) -> Tensor:
        """Vectors of all rows, (N, E) float32 on the CPU, without dropout and without gradients.

        Rows of similar length share a batch, so that little of it is padding.
        """
        if not len(tokens):
            return self.embed_texts(self.tokenize([""]), batch_size=batch_size)[:0]
        order = np.argsort([len(row) for row in tokens.ids], kind="stable")
        embedded = self._in_batches(
            lambda part: self.encode_texts(self.pad(tokens, order[part])), len(tokens), batch_size
        )
        return torch.empty_like(embedded).index_copy_(0, torch.from_numpy(order), embedded)

    def _in_batches(self, encode: Any, count: int, batch_size: int) -> Tensor:
        """What ``encode`` makes of each slice of ``count`` ≥ 1 rows, one below the other, on the CPU.

        On several processes each takes a stretch of the rows; of a base in shards all make as many passes.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} is below 1")
        alone = processes.apart() if count < processes.count() else contextlib.nullcontext()
        with self.evaluating(), alone:
            own = processes.own(count)
            starts = [*range(own.start, own.stop, batch_size)]
            if self.compute.sharded and len(starts) * batch_size < processes.longest(count):
                starts.append(own.start)  # once more, and not kept
            made = torch.cat([encode(slice(i, min(i + batch_size, own.stop))).cpu() for i in starts])
            return processes.gathered(made[: own.stop - own.start], count)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within this there is neither dropout nor a gradient.

        The model is in one mode as a whole, which is not set again for each batch: that takes as long as a small one.
        """
        training = self.module.training
        if training:
            self.module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            if training:
                self.module.train()


def _as_arrays(rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    return [np.asarray(row, dtype=np.int64) for row in rows]
