"""Tasks ``sequence_classification`` and ``pair_classification``: put each text, or pair of texts, into its class.

Shapes: B batch, N rows of a split, D width of the pooled vectors, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vectoruniverse.data.transfer import send
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.losses.penalties import l1_penalty, l2_penalty, penalised
from vectoruniverse.metrics.classification import (
    accuracy,
    class_scores,
    confusion_matrix,
    cross_entropies,
    macro_f1,
    macro_f1_rows,
    reliability,
)
from vectoruniverse.metrics.geometry import effective_rank
from vectoruniverse.models.encoder import TokenizedTexts
from vectoruniverse.models.heads import TextClassifier
from vectoruniverse.processes import count, own
from vectoruniverse.training.task import StepLoss

ClassWeights = Literal["balanced"]
"""``balanced``: every class has the same say, however many rows it has."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Texts and their classes, row by row.

    Attributes:
        inputs: for each encoder of the model, what it reads, N rows each.
        labels: (N,) int64, 0 to C - 1.
        names: of the C classes.
    """

    inputs: Sequence[TokenizedTexts]
    labels: np.ndarray
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)


class ClassificationTask:
    """Cross-entropy of one classifier, with penalties on its trained weights."""

    def __init__(
        self,
        model: TextClassifier,
        *,
        train: Examples,
        val: Examples,
        test: Examples | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
        class_weights: ClassWeights | None = None,
        eval_batch: int = 64,
    ) -> None:
        """Bind a classifier to its rows.

        Args:
            model: the classifier, with whatever is trained on it already in place.
            train: training rows.
            val: validation rows, of the same classes.
            test: rows that are sealed until the end; None: there are none.
            l1: factor on Σ|w| of the trained weights (see `regularisation.penalised`).
            l2: factor on Σw² of them.
            class_weights: None: every row has the same say. ``balanced``: see `balanced_weights`.
            eval_batch: rows encoded at a time in evaluation.
        """
        assert list(train.names) == list(val.names) and len(train.names) == model.classifier.out_features
        assert all(len(tokens) == len(part) for part in (train, val, test or val) for tokens in part.inputs)
        self.model, self.train, self.val = model, train, val
        self._test = test
        self._l1, self._l2, self._eval_batch = l1, l2, eval_batch
        weights = balanced_weights(train.labels, len(train.names)) if class_weights else np.ones(len(train.names))
        self._class_weights = torch.from_numpy(weights).float().to(model.device)
        counted = np.bincount(train.labels, minlength=len(train.names)) * weights
        # weighted cross-entropy of a row of each class, for a model that knows how frequent classes are and no more
        costs = -weights * np.log(np.where(counted > 0, counted, counted.sum()) / counted.sum())
        self._by_counting = torch.from_numpy(costs).float().to(model.device)

    @property
    def train_rows(self) -> int:
        """Number of training rows."""
        return len(self.train)

    def part(self, split: str) -> Examples:
        """Rows of ``train``, ``val`` or ``test``."""
        part = {"train": self.train, "val": self.val, "test": self._test}[split]
        assert part is not None, "there are no test rows"
        return part

    def trained(self) -> dict[str, nn.Parameter]:
        """The head, and whatever the adapter left open to training in the encoders, by path."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def modules(self) -> list[nn.Module]:
        """The classifier and all its layers."""
        return list(self.model.modules())

    def loss(self, rows: np.ndarray, epoch: int) -> StepLoss:
        """Mean cross-entropy of the training rows at these positions, plus the penalties; no epoch differs.

        The parts add up to the total. No embeddings are handed out to be watched for a collapse: a classifier that has
        learned holds little more than one direction for each class, and must.
        """
        mine = rows[own(len(rows))]
        logits = self.model(self.model.pad(self.train.inputs, mine))
        labels = send(torch.from_numpy(self.train.labels[mine]), logits.device)
        losses = F.cross_entropy(logits, labels, weight=self._class_weights, reduction="none")
        # over the rows and not, as torch's own mean, over their weights: those would cancel in a batch of one class
        parts = {"cross_entropy": losses.sum() / len(rows), **self._penalties()}
        told = {name: part.detach() for name, part in parts.items()}
        counting = self._by_counting[labels].sum() / len(rows)
        chance = torch.stack([*told.values(), counting]).sum() - told["cross_entropy"]
        return StepLoss(torch.stack(list(parts.values())).sum(), told, chance=chance)

    def _penalties(self) -> dict[str, Tensor]:
        chosen = {"l1": (self._l1, l1_penalty), "l2": (self._l2, l2_penalty)}
        if not any(factor for factor, _ in chosen.values()):
            return {}
        weights = penalised(self.trained(), self.modules()).values()
        return {name: factor * penalty(weights) / count() for name, (factor, penalty) in chosen.items() if factor}

    def after_step(self) -> None:
        """Nothing has bounds."""

    def evaluate(self, split: str = "val") -> Evaluation:
        """Everything there is to say about the rows of a split, and their pooled vectors.

        ``accuracy``, ``macro_f1``, ``loss`` (mean cross-entropy, nats), ``calibration_error``, the pooled vectors'
        ``effective_rank``, and ``precision/…``, ``recall/…``, ``f1/…`` and ``support/…`` of each class by name.
        """
        part = self.part(split)
        pooled = self.model.embed(part.inputs, batch_size=self._eval_batch)
        return _evaluation(pooled, self.model.logits(pooled), part)


def balanced_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Weight of each class, N / (K n_c) for the K classes that occur, n_c times each; scikit-learn's ``balanced``.

    They average 1 over the rows, so that learning rate and penalties keep their meaning.

    Args:
        labels: class of each training row (N,).
        classes: C.

    Returns:
        (C,) float64; 0 for a class without rows.
    """
    counts = np.bincount(labels, minlength=classes)
    return np.where(counts > 0, len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1)), 0.0)


def _evaluation(pooled: Tensor, logits: Tensor, part: Examples) -> Evaluation:
    rank = effective_rank(pooled)  # first, because it tells of vectors that are not finite
    losses, confusion = cross_entropies(logits.numpy(), part.labels), _confusion(logits, part)
    predicted = logits.argmax(dim=1).numpy()
    metrics = {
        "accuracy": accuracy(confusion),
        "macro_f1": macro_f1(confusion),
        "loss": float(losses.mean()),
        "effective_rank": rank,
        **_calibration(logits, part),
        **_by_class(logits, part),
    }
    per_row = {
        "accuracy": (predicted == part.labels).astype(np.float64),
        "macro_f1": macro_f1_rows(part.labels, predicted, len(part.names)),
        "loss": losses,
    }
    return Evaluation(metrics, per_row, vectors={"pooled": pooled}, loss=metrics["loss"])


def _confusion(logits: Tensor, part: Examples) -> np.ndarray:
    return confusion_matrix(part.labels, logits.argmax(dim=1).numpy(), len(part.names))


def _calibration(logits: Tensor, part: Examples) -> dict[str, float]:
    confidence, predictions = logits.double().softmax(dim=1).max(dim=1)
    return {"calibration_error": reliability(confidence.numpy(), predictions.numpy() == part.labels).error}


def _by_class(logits: Tensor, part: Examples) -> dict[str, float]:
    scores = class_scores(_confusion(logits, part))
    columns = {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1, "support": scores.support}
    return {
        f"{metric}/{name}": float(value)
        for metric, values in columns.items()
        for name, value in zip(part.names, values, strict=True)
    }
