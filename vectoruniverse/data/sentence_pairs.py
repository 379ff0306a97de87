"""Rows for BERT's pre-training from documents: pairs for next-sentence prediction, or single segments.

As in Google's ``create_pretraining_data`` (arXiv:1810.04805, appendix A.2): the sentences of a document are collected
until they reach the model's length; such a chunk is parted at a random sentence into A and its true continuation B, or
with probability 1/2 B comes from another document; a pair that is too long loses tokens of its longer side, at the
front or the back.

Different on purpose:

- Chunks are the same in every epoch, so that an epoch has a fixed number of rows and every row is a pure function of
  (stream, document, chunk). What B leaves out when it comes from elsewhere is read in other epochs.
- Every chunk of a document with two sentences or more holds at least two, so that every pair has an even chance; a last
  sentence alone is read together with the one before it.
- Length must not give the label away: in a chunk that does not fill the model (the end of a document), a B from
  elsewhere has as many sentences as the true one, instead of filling the model, and it comes from a document that has
  as many, where there is one.
- A document of one sentence has no pair: its row is A alone without a next-sentence label, and it serves as another's
  B. All pairs have the model's length as their limit, there are no purposely short ones.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.errors import DataError

IS_NEXT, IS_RANDOM, NO_PAIR = 0, 1, -100
"""Labels as transformers' ``BertForPreTraining`` numbers them; −100 is no label."""


@dataclass(frozen=True, slots=True)
class TokenizedDocuments:
    """Token ids of documents, sentence by sentence, without marks, in one array.

    Attributes:
        ids: (T,) int32, all tokens.
        sentences: (S + 1,) where each sentence begins in ``ids``, and the end.
        documents: (D + 1,) where each document begins in ``sentences``, and the end.
    """

    ids: NDArray[np.int32]
    sentences: NDArray[np.int64]
    documents: NDArray[np.int64]

    def __len__(self) -> int:
        """Documents."""
        return len(self.documents) - 1

    def tokens(self, first: int, end: int) -> NDArray[np.int64]:
        """Tokens of the sentences ``first`` ≤ s < ``end``, numbered across documents."""
        return self.ids[self.sentences[first] : self.sentences[end]].astype(np.int64)

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sentence (S,)."""
        return np.diff(self.sentences)


def collect_documents(documents: Iterable[Iterable[Sequence[int] | NDArray[np.int32]]]) -> TokenizedDocuments:
    """Token ids of documents → of sentences → in one array; what has no token is left out.

    Raises:
        DataError: there is no token.
    """
    ids: list[NDArray[np.int32]] = []
    bounds = [0]
    for document in documents:
        sentences = [np.asarray(sentence, dtype=np.int32) for sentence in document if len(sentence)]
        ids += sentences
        if sentences:
            bounds.append(len(ids))
    if not ids:
        raise DataError("there is no word in the documents", remedy="check the text column or the files")
    starts = np.concatenate([[0], np.cumsum([len(sentence) for sentence in ids])])
    return TokenizedDocuments(np.concatenate(ids), starts.astype(np.int64), np.array(bounds, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class PackedRow:
    """One row as the model reads it, unpadded.

    Attributes:
        ids: (L,) int64, ``[CLS] A [SEP]`` or ``[CLS] A [SEP] B [SEP]``.
        segments: (L,) int64, 0 for A and its marks, 1 for B and its mark.
        label: 0 where B is the true continuation, 1 where it comes from another document, −100 without B.
        cut: number of tokens that had to be left out.
    """

    ids: NDArray[np.int64]
    segments: NDArray[np.int64]
    label: int
    cut: int


class PackedDocuments:
    """Documents as rows: chunks of sentences, made into pairs anew for every stream.

    Attributes:
        documents: what the rows are made of.
        keys: (N,) uint64, a stable key of each row: document and chunk.
    """

    def __init__(
        self, documents: TokenizedDocuments, *, pairs: bool, max_tokens: int, cls_id: int, sep_id: int
    ) -> None:
        """Divide documents into chunks.

        Args:
            documents: token ids.
            pairs: make pairs; else each row is one segment of whole sentences as long as the model reads.
            max_tokens: longest row, marks included.
            cls_id: id of ``[CLS]``.
            sep_id: id of ``[SEP]``.

        Raises:
            DataError: pairs need a second document, and a document of two sentences.
        """
        assert max_tokens > 4, "room for three marks and a token on either side"
        self.documents = documents
        self._pairs, self._cls, self._sep = pairs, cls_id, sep_id
        self._limit = max_tokens - (3 if pairs else 2)
        self._single_limit = max_tokens - 2
        split = _pair_chunks if pairs else _segment_chunks
        lengths = documents.lengths()
        chunks = [
            (document, number, first, end)
            for document, (begin, stop) in enumerate(
                zip(documents.documents[:-1], documents.documents[1:], strict=True)
            )
            for number, (first, end) in enumerate(split(lengths, int(begin), int(stop), self._limit))
        ]
        self._chunks = np.array(chunks, dtype=np.int64)
        self.keys = (self._chunks[:, 0].astype(np.uint64) << np.uint64(32)) | self._chunks[:, 1].astype(np.uint64)
        if pairs:
            self._refuse_too_few()
        sizes = np.diff(documents.documents)
        self._by_size = np.argsort(sizes, kind="stable")
        self._sizes, self._rank = sizes[self._by_size], np.argsort(self._by_size, kind="stable")

    def _refuse_too_few(self) -> None:
        if len(self.documents) < 2 or np.diff(self.documents.documents).max() < 2:
            raise DataError(
                "next-sentence prediction needs at least two documents, and one of them with two sentences",
                remedy="give more documents, or leave out next-sentence prediction",
            )

    def __len__(self) -> int:
        """Rows."""
        return len(self._chunks)

    def units(self) -> list[str]:
        """Document of each row, by a digest of its tokens: rows of equal documents are of one."""
        bounds = self.documents.documents
        names = [
            hashlib.blake2b(self.documents.tokens(int(begin), int(stop)).tobytes(), digest_size=8).hexdigest()
            for begin, stop in itertools.pairwise(bounds)
        ]
        return [names[document] for document in self._chunks[:, 0]]

    def row(self, position: int, stream: Sequence[int]) -> PackedRow:
        """The row at this position; ``stream`` (such as seed and epoch) tells one drawing of it from another."""
        document, number, first, end = (int(value) for value in self._chunks[position])
        random = np.random.default_rng((*stream, document, number))
        if not self._pairs or end - first < 2:
            a, cut = _cut(self.documents.tokens(first, end), self._single_limit, random)
            return self._packed(a, None, NO_PAIR, cut)
        split = int(random.integers(first + 1, end))
        label = IS_NEXT if random.random() < 0.5 else IS_RANDOM
        a, b = self.documents.tokens(first, split), self.documents.tokens(split, end)
        if label == IS_RANDOM:
            is_full = len(a) + len(b) >= self._limit
            b = self._elsewhere(document, end - split, self._limit - len(a) if is_full else None, random)
        keep_a, keep_b = longest_first(len(a), len(b), self._limit)
        (a, cut_a), (b, cut_b) = _cut(a, keep_a, random), _cut(b, keep_b, random)
        return self._packed(a, b, label, cut_a + cut_b)

    def _elsewhere(
        self, document: int, sentences: int, fill: int | None, random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Successive sentences of another document: as many as asked for, or until they hold ``fill`` tokens."""
        begin, stop = self._partner(document, sentences, random)
        first = int(random.integers(begin, max(begin, stop - sentences) + 1))
        if fill is not None:
            starts = self.documents.sentences
            sentences = max(1, int(np.searchsorted(starts[first : stop + 1], starts[first] + fill)))
        return self.documents.tokens(first, min(stop, first + sentences))

    def _partner(self, document: int, sentences: int, random: np.random.Generator) -> tuple[int, int]:
        """Sentences (from, to) of any other document with so many sentences; of any other where there is none."""
        smallest, last = int(np.searchsorted(self._sizes, sentences)), len(self._sizes) - 1
        place = int(random.integers(smallest if smallest < last else 0, last))
        other = self._by_size[place + (place >= self._rank[document])]
        begin, stop = self.documents.documents[other : other + 2]
        return int(begin), int(stop)

    def _packed(self, a: NDArray[np.int64], b: NDArray[np.int64] | None, label: int, cut: int) -> PackedRow:
        cls, sep = np.array([self._cls]), np.array([self._sep])
        ids = np.concatenate([cls, a, sep] if b is None else [cls, a, sep, b, sep])
        segments = np.zeros(len(ids), dtype=np.int64)
        segments[len(a) + 2 :] = 1
        return PackedRow(ids, segments, label, cut)


def _pair_chunks(lengths: NDArray[np.int64], begin: int, stop: int, limit: int) -> list[tuple[int, int]]:
    """Runs of sentences that just reach ``limit`` tokens, at least two sentences each where the document has two."""
    chunks = []
    first, held = begin, 0
    for sentence in range(begin, stop):
        held += int(lengths[sentence])
        if held >= limit and sentence > first:
            chunks.append((first, sentence + 1))
            first, held = sentence + 1, 0
    if first < stop:
        chunks.append((max(begin, min(first, stop - 2)), stop))
    return chunks


def _segment_chunks(lengths: NDArray[np.int64], begin: int, stop: int, limit: int) -> list[tuple[int, int]]:
    """Runs of sentences of at most ``limit`` tokens; a longer sentence is a run of its own."""
    chunks = []
    first, held = begin, 0
    for sentence in range(begin, stop):
        if sentence > first and held + int(lengths[sentence]) > limit:
            chunks.append((first, sentence))
            first, held = sentence, 0
        held += int(lengths[sentence])
    return [*chunks, (first, stop)]


def longest_first(a: int, b: int, limit: int) -> tuple[int, int]:
    """Lengths that are left when the longer side (B where they are equal) loses a token until both fit ``limit``."""
    if a + b <= limit:
        return a, b
    if 2 * b <= limit and a > b:
        return limit - b, b
    if 2 * a <= limit and b > a:
        return a, limit - a
    return limit - limit // 2, limit // 2


def _cut(tokens: NDArray[np.int64], keep: int, random: np.random.Generator) -> tuple[NDArray[np.int64], int]:
    """Leave out tokens at the front or the back, a fair coin for each, until ``keep`` are left."""
    cut = max(0, len(tokens) - keep)
    front = int(random.binomial(cut, 0.5)) if cut else 0
    return tokens[front : front + len(tokens) - cut], cut
