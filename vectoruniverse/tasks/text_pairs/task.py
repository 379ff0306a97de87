"""Task ``text_pairs``: bring texts that belong together close in one space, evaluated pair by pair and by retrieval.

Shapes: B batch, N rows of a split, D width of a pooled text vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.evaluation.retrieval import evaluate_pairs
from vectoruniverse.losses.contrastive import ViewLoss, Views
from vectoruniverse.losses.negatives import Negatives
from vectoruniverse.metrics.pair_scores import pair_scores
from vectoruniverse.models.encoder import TokenizedTexts, each_once
from vectoruniverse.models.text import TextEncoder
from vectoruniverse.training.micro_batches import in_micro_batches
from vectoruniverse.training.task import StepLoss

SIDES = ("first", "second")


@dataclass(frozen=True, slots=True)
class TextPairs:
    """Pairs of texts, row by row.

    Attributes:
        first: N tokenized texts.
        second: N tokenized texts; row i is the partner of row i of the first.
        items: which rows hold the same first or second text.
    """

    first: TokenizedTexts
    second: TokenizedTexts
    items: PairItems

    def __len__(self) -> int:
        return len(self.items)


class TextPairsTask:
    """Contrastive training of one text encoder on pairs, after Sentence-BERT (arXiv:1908.10084) and SimCSE."""

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        train: TextPairs,
        val: TextPairs,
        test: TextPairs | None = None,
        loss: ViewLoss,
        text_is_random: bool,
        recall_at: Sequence[int],
        eval_batch: int,
        micro_batch: int | None = None,
    ) -> None:
        """Bind an encoder to its rows.

        Args:
            encoder: reads both sides, with whatever is trained on it already in place.
            train: training rows.
            val: validation rows.
            test: rows that are sealed until the end; None: there are none.
            loss: what is minimised; views ``I`` and ``T`` are first and second texts, ``I+`` and ``T+`` other passes.
            text_is_random: whether dropout makes two passes of the same text differ (arXiv:2104.08821); else ``I+`` is
                ``I`` and ``T+`` is ``T``, and they cost nothing.
            recall_at: the k of recall@k.
            eval_batch: texts encoded at a time in evaluation.
            micro_batch: rows at most that are encoded with gradients at a time; None: the whole batch.
        """
        self.encoder, self.train, self.val = encoder, train, val
        self._test = test
        self.view_loss, self._text_is_random = loss, text_is_random
        self._recall_at, self._eval_batch, self._micro_batch = tuple(recall_at), eval_batch, micro_batch

    @property
    def train_rows(self) -> int:
        """Number of training rows."""
        return len(self.train)

    def part(self, split: str) -> TextPairs:
        """Rows of ``train``, ``val`` or ``test``."""
        part = {"train": self.train, "val": self.val, "test": self._test}[split]
        assert part is not None, "there are no test rows"
        return part

    def trained(self) -> dict[str, nn.Parameter]:
        """Whatever the adapter left open to training, by its path in the encoder."""
        return {name: p for name, p in self.encoder.module.named_parameters() if p.requires_grad}

    def modules(self) -> list[nn.Module]:
        """The encoder and all its layers."""
        return list(self.encoder.module.modules())

    def loss(self, rows: np.ndarray, epoch: int) -> StepLoss:
        """Loss of the training rows at these positions; epochs differ only by torch's seed."""
        count = 2 if self._text_is_random else 1
        first, second = (self.passes(tokens, rows, count=count) for tokens in (self.train.first, self.train.second))
        views = {"I": first[0], "I+": first[-1], "T": second[0], "T+": second[-1]}
        return self.step_loss(views, rows)

    def step_loss(self, views: Views, rows: np.ndarray) -> StepLoss:
        """Loss of the views of these rows, of which those with the same text are no negatives of each other."""
        relations = Negatives(self.train.items).among(rows)
        value = self.view_loss(views, relations)
        embedded = torch.cat([views["I"], views["T"]]).detach()
        return StepLoss(value.total, value.parts, embedded, value.chance, {"masked_share": relations.masked_share()})

    def passes(self, tokens: TokenizedTexts, rows: np.ndarray, *, count: int) -> list[Tensor]:
        """Unit vectors (B, D) of as many passes, each with dropout of its own; of rows that are this process's.

        Without dropout rows of a micro-batch with the same text are encoded once.
        """

        def encode(some: np.ndarray) -> list[Tensor]:
            batch = self.encoder.pad(tokens, some)
            return [normalize(self.encoder.encode_texts(batch), dim=1) for _ in range(count)]

        def encode_some(some: np.ndarray) -> list[Tensor]:
            return each_once(encode, tokens, some, differ=self._text_is_random, apart=self.encoder.passes_apart)

        return in_micro_batches(encode_some, rows, self._micro_batch)

    def after_step(self) -> None:
        """Nothing that is trained here has bounds."""

    def embed(self, pairs: TextPairs) -> dict[str, Tensor]:
        """Unit vectors of ``first`` and ``second``, both (N, D) float32 on the CPU, without dropout."""
        return {
            side: normalize(self.encoder.embed_texts(tokens, batch_size=self._eval_batch), dim=1)
            for side, tokens in zip(SIDES, (pairs.first, pairs.second), strict=True)
        }

    def evaluate(self, split: str = "val") -> Evaluation:
        """Everything there is to say about the rows of a split, and their unit vectors ``first`` and ``second``.

        Metrics: retrieval (``first_to_second/recall@k``, ..., means of both directions under the bare names), scores of
        single pairs as ``vectoruniverse.metrics.pair_scores`` names them, and the geometry of both sides.
        """
        pairs = self.part(split)
        vectors = self.embed(pairs)
        retrieval = evaluate_pairs(vectors["first"], vectors["second"], pairs.items, self._recall_at, names=SIDES)
        scores = pair_scores(vectors["first"], vectors["second"])
        return Evaluation(
            {**retrieval.metrics, **scores.metrics()},
            {**retrieval.per_query, **scores.per_pair()},
            retrieval.ranks,
            vectors,
        )
