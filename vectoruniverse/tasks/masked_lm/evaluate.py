"""How pre-training is evaluated: losses and accuracies of masked tokens and of pairs, beside what counting would reach.

Shapes: B batch, N rows of a split, L tokens, M masked tokens of a batch, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vectoruniverse.data.sentence_pairs import NO_PAIR
from vectoruniverse.data.transfer import send
from vectoruniverse.errors import DataError
from vectoruniverse.evaluation.comparison import means
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.metrics.language import perplexity, rows_of_ratio
from vectoruniverse.processes import gathered


@dataclass(frozen=True, slots=True)
class MaskedBatch:
    """Rows as the model reads them, and what it should say.

    Attributes:
        ids, mask, segments: (B, L) int64, with tokens masked.
        positions: (M,) places of the targets among the B·L tokens, ascending.
        targets: (M,) the tokens that were there.
        pairs: (B,) 0 for a true continuation, 1 for a random one, −100 for neither.
    """

    ids: Tensor
    mask: Tensor
    segments: Tensor
    positions: Tensor
    targets: Tensor
    pairs: Tensor

    def to(self, device: torch.device) -> MaskedBatch:
        """The CPU's batch on another device."""
        return MaskedBatch(*(send(getattr(self, field.name), device) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Predictions:
    """Logits of the masked tokens (M, V), of the pairs (B, 2), and the rows' pooled vectors (B, D), all float32."""

    tokens: Tensor
    pairs: Tensor
    pooled: Tensor


@dataclass(frozen=True, slots=True)
class RowScores:
    """What each row adds to the metrics.

    Attributes:
        targets: number of its masked tokens, (B,) like the rest.
        mlm_loss, mlm_hits, unigram: sums over them: cross-entropy, right first guesses, cross-entropy by counting.
        nsp_loss, nsp_hits: of its pair; NaN without one.
        pooled: its vector, (B, D) float32.
    """

    targets: NDArray[np.float64]
    mlm_loss: NDArray[np.float64]
    mlm_hits: NDArray[np.float64]
    unigram: NDArray[np.float64]
    nsp_loss: NDArray[np.float64]
    nsp_hits: NDArray[np.float64]
    pooled: NDArray[np.float32]


def score_rows(batch: MaskedBatch, predictions: Predictions, unigram: NDArray[np.float64]) -> RowScores:
    """Score one batch; ``unigram`` (V,) is the logarithm of each token's share of the training corpus."""
    targets = batch.targets.to(predictions.tokens.device)
    row_of = (batch.positions // batch.ids.shape[1]).cpu().numpy()

    def by_row(values: Tensor | NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(row_of, weights=np.asarray(values), minlength=len(batch.ids)).astype(np.float64)

    pairs = batch.pairs.to(predictions.pairs.device)
    nsp_loss = F.cross_entropy(predictions.pairs, pairs, reduction="none", ignore_index=NO_PAIR).double().cpu().numpy()
    nsp_hits = (predictions.pairs.argmax(1) == pairs).double().cpu().numpy()
    has_pair = (pairs != NO_PAIR).cpu().numpy()
    return RowScores(
        by_row(np.ones(len(row_of))),
        by_row(F.cross_entropy(predictions.tokens, targets, reduction="none").double().cpu()),
        by_row((predictions.tokens.argmax(1) == targets).double().cpu()),
        by_row(-unigram[batch.targets.cpu().numpy()]),
        np.where(has_pair, nsp_loss, np.nan),
        np.where(has_pair, nsp_hits, np.nan),
        predictions.pooled.cpu().numpy(),
    )


def gathered_scores(scores: Sequence[RowScores], rows: int) -> RowScores:
    """The scores of all ``rows`` rows, of which ``scores`` are this process's stretch, batch by batch."""

    def together(name: str) -> NDArray[Any]:
        return gathered(torch.from_numpy(np.concatenate([getattr(part, name) for part in scores])), rows).numpy()

    return RowScores(*(together(field.name) for field in fields(RowScores)))


def evaluate(scores: RowScores, order: NDArray[np.int64]) -> Evaluation:
    """Make metrics of what every row adds to them.

    Metrics of tokens are means over all masked tokens, so long rows count for more; their values in ``per_query`` have
    these means (see ``rows_of_ratio``).

    Args:
        scores: of all rows.
        order: (N,) which row of the split each scored row is.

    Raises:
        DataError: no token was masked.
    """

    def of_rows(name: str) -> NDArray[np.float64]:
        values: NDArray[np.float64] = getattr(scores, name)
        spread = np.empty_like(values)
        spread[order] = values
        return spread

    targets = of_rows("targets")
    if not targets.any():
        raise DataError(
            "no token could be masked: every one is unknown to the tokenizer", remedy="train a tokenizer on these texts"
        )
    rows = {
        "mlm_loss": rows_of_ratio(of_rows("mlm_loss"), targets),
        "mlm_accuracy": rows_of_ratio(of_rows("mlm_hits"), targets),
        "nsp_loss": of_rows("nsp_loss"),
        "nsp_accuracy": of_rows("nsp_hits"),
    }
    rows = {name: values for name, values in rows.items() if np.isfinite(values).any()}
    metrics = means(rows)
    metrics["perplexity"] = perplexity(metrics["mlm_loss"])
    metrics["unigram_entropy"] = float(of_rows("unigram").sum() / targets.sum())
    loss = metrics["mlm_loss"] + metrics.get("nsp_loss", 0.0)
    return Evaluation(metrics, rows, vectors={"pooled": torch.from_numpy(of_rows("pooled"))}, loss=loss)
