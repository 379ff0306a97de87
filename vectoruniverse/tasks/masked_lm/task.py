"""Task ``masked_lm``: BERT's own pre-training, masked-language modelling and next-sentence prediction, on documents.

Shapes: B batch, N rows of a split, L tokens, M masked tokens of a batch, D width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vectoruniverse.data.masking import IGNORED, mask_tokens, masking_of
from vectoruniverse.data.sentence_pairs import NO_PAIR, PackedDocuments, PackedRow, TokenizedDocuments
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.metrics.language import unigram_log_probabilities
from vectoruniverse.models.encoder import attention_mask
from vectoruniverse.models.pretraining import PARTS
from vectoruniverse.models.wordpiece import CONTINUATION
from vectoruniverse.processes import apart, count, own
from vectoruniverse.tasks.masked_lm.evaluate import MaskedBatch, Predictions, evaluate, gathered_scores, score_rows
from vectoruniverse.training.task import StepLoss

TRAINING, EVALUATING = 0, 1
"""Streams of random numbers: views for training, new every epoch, and those that never change."""


class MaskedLmTask:
    """Pre-training of a BERT on documents."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        train: TokenizedDocuments,
        val: TokenizedDocuments,
        test: TokenizedDocuments | None = None,
        *,
        mask_share: float,
        whole_word: bool,
        nsp: bool,
        max_tokens: int,
        seed: int,
        eval_batch: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Bind a model to its documents.

        Args:
            model: transformers' ``BertForPreTraining``.
            tokenizer: its tokenizer.
            train: training documents.
            val: validation documents.
            test: documents that are sealed until the end; None: there are none.
            mask_share: share of the tokens that are chosen as targets.
            whole_word: choose whole words.
            nsp: also predict whether B continues A; else rows are single segments.
            max_tokens: longest row, marks included.
            seed: of pairs and masks.
            eval_batch: rows encoded at a time in evaluation.
            dtype: compute format of the forward pass.

        Raises:
            DataError: pairs cannot be made of the documents.
        """
        assert max_tokens <= model.config.max_position_embeddings, "the model has a position for every token"
        self.model, self.nsp = model, nsp
        self._seed, self._eval_batch, self._dtype, self._pad = seed, eval_batch, dtype, int(tokenizer.pad_token_id)
        self._masking = masking_of(
            tokenizer.get_vocab(), set(tokenizer.all_special_ids), mask_id=int(tokenizer.mask_token_id),
            continuation=CONTINUATION, share=mask_share, whole_word=whole_word,
        )  # fmt: skip
        marks = {"cls_id": int(tokenizer.cls_token_id), "sep_id": int(tokenizer.sep_token_id)}
        self.train = PackedDocuments(train, pairs=nsp, max_tokens=max_tokens, **marks)
        self.val = PackedDocuments(val, pairs=nsp, max_tokens=max_tokens, **marks)
        self._test = None if test is None else PackedDocuments(test, pairs=nsp, max_tokens=max_tokens, **marks)
        self._counted = unigram_log_probabilities(train.ids, self._masking.ordinary)

    @property
    def train_rows(self) -> int:
        """Number of training rows."""
        return len(self.train)

    def part(self, split: str) -> PackedDocuments:
        """Rows of ``train``, ``val`` or ``test``."""
        part = {"train": self.train, "val": self.val, "test": self._test}[split]
        assert part is not None, "there are no test rows"
        return part

    def trained(self) -> dict[str, nn.Parameter]:
        """Parameters open to training, by path; pooler and next-sentence head only where pairs are predicted."""
        unused = () if self.nsp else (PARTS["pooler"], PARTS["nsp_head"])
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad and not name.startswith(unused)}

    def modules(self) -> list[nn.Module]:
        """The model and all its layers."""
        return list(self.model.modules())

    def after_step(self) -> None:
        """Nothing is bounded."""

    def batch(self, rows: np.ndarray, epoch: int) -> MaskedBatch:
        """Training rows at these positions, in the pairs and masks of this epoch."""
        stream = (self._seed, TRAINING, epoch)
        return self._masked([self.train.row(int(i), stream) for i in rows], self.train.keys[rows], stream)

    def _masked(self, rows: Sequence[PackedRow], keys: NDArray[np.uint64], stream: Sequence[int]) -> MaskedBatch:
        """Pad and mask."""
        lengths = np.array([len(row.ids) for row in rows])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self._pad, dtype=np.int64)
        segments = np.zeros_like(ids)
        ids[mask] = np.concatenate([row.ids for row in rows])
        segments[mask] = np.concatenate([row.segments for row in rows])
        inputs, labels = mask_tokens(ids, keys, self._masking, stream)
        positions = np.flatnonzero(labels != IGNORED)
        return MaskedBatch(
            ids=torch.from_numpy(inputs),
            mask=torch.from_numpy(mask.astype(np.int64)),
            segments=torch.from_numpy(segments),
            positions=torch.from_numpy(positions),
            targets=torch.from_numpy(labels.ravel()[positions]),
            pairs=torch.tensor([row.label for row in rows]),
        )

    def predict(self, batch: MaskedBatch) -> Predictions:
        """Run the model; words are predicted at masked positions only, which is what the loss asks for.

        With 15 % of the tokens masked, the product with the vocabulary shrinks to 15 %.
        """
        model, device = self.model, batch.ids.device
        with torch.autocast(device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            attended = attention_mask(batch.mask, model.config)
            read = model.bert(input_ids=batch.ids, attention_mask=attended, token_type_ids=batch.segments)
            hidden = read.last_hidden_state.flatten(0, 1).index_select(0, batch.positions)  # (M, D)
            tokens = model.cls.predictions(hidden)
            pairs = model.cls.seq_relationship(read.pooler_output)
        pooled = read.pooler_output if self.nsp else _mean(read.last_hidden_state, batch.mask)
        return Predictions(tokens.float(), pairs.float(), pooled.float())

    def loss(self, rows: np.ndarray, epoch: int) -> StepLoss:
        """Mean cross-entropy of the masked tokens plus, with pairs, that of the next-sentence labels, in nats.

        Equal to ``BertForPreTraining``'s own loss; where a batch has no target of a kind, that part is 0.
        """
        chosen, mine = self.batch(rows, epoch), rows[own(len(rows))]
        batch = (chosen if len(mine) == len(rows) else self.batch(mine, epoch)).to(self.model.device)
        predictions = self.predict(batch)
        summed = F.cross_entropy(predictions.tokens, batch.targets, reduction="sum")
        parts = {"mlm": summed / max(1, len(chosen.targets))}
        if self.nsp:
            labelled = max(1, int((chosen.pairs != NO_PAIR).sum()))
            summed = F.cross_entropy(predictions.pairs, batch.pairs, reduction="sum", ignore_index=NO_PAIR)
            parts["nsp"] = summed / labelled
        total = torch.stack(list(parts.values())).sum()
        return StepLoss(total, {name: part.detach() for name, part in parts.items()}, chance=self._by_counting(chosen))

    def _by_counting(self, batch: MaskedBatch) -> float:
        """Loss of a model that knows how frequent tokens are, and guesses which pairs continue; of a CPU's batch."""
        targets = batch.targets.numpy()
        tokens = -float(self._counted[targets].mean()) if len(targets) else 0.0
        return tokens + (math.log(2.0) if self.nsp and bool((batch.pairs != NO_PAIR).any()) else 0.0)

    def evaluate(self, split: str = "val") -> Evaluation:
        """Losses in nats, accuracies and perplexity on pairs and masks that never change.

        On several processes each scores a stretch of the rows, and all have the scores of all.

        ``unigram_entropy`` is the cross-entropy of the same masked tokens under the training corpus's smoothed token
        frequencies: a model above it has learned nothing that counting does not know.

        Raises:
            DataError: no token of the split could be masked.
        """
        part, stream = self.part(split), (self._seed, EVALUATING, 0)
        rows = [part.row(i, stream) for i in range(len(part))]
        order = np.argsort([len(row.ids) for row in rows], kind="stable")  # rows of like length: little padding
        alone = apart() if len(order) < count() else contextlib.nullcontext()
        with self._evaluating(), alone:
            mine, scores = order[own(len(order))], []
            for start in range(0, len(mine), self._eval_batch):
                chosen = mine[start : start + self._eval_batch]
                batch = self._masked([rows[i] for i in chosen], part.keys[chosen], stream)
                scores.append(score_rows(batch, self.predict(batch.to(self.model.device)), self._counted))
            return evaluate(gathered_scores(scores, len(order)), order)

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """No dropout and no gradients; the model's mode is put back afterwards."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.model.train(was_training)


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean of the tokens' vectors (B, L, D) → (B, D): what stands for a row where the pooler is not trained."""
    weights = mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)
