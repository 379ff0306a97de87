"""Task ``image_text``: bring pictures and their texts together in one space, evaluated by retrieval in both directions.

Shapes: B batch, N rows of a split, S side of the stored picture, H side of the model's input, E shared embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.data.transfer import send
from vectoruniverse.data.views import Augmentation, to_input
from vectoruniverse.evaluation.result import Evaluation, Labels
from vectoruniverse.evaluation.retrieval import Embeddings, evaluate_labels, evaluate_pairs
from vectoruniverse.losses.contrastive import LossValue, ViewLoss, summed
from vectoruniverse.losses.distillation import Distance, distillation
from vectoruniverse.losses.negatives import Negatives
from vectoruniverse.models.dual import DualEncoder
from vectoruniverse.models.encoder import TokenizedTexts
from vectoruniverse.processes import common_seed, own
from vectoruniverse.tasks.image_text.encoded_texts import EncodedTexts
from vectoruniverse.tasks.image_text.frozen import Frozen
from vectoruniverse.tasks.image_text.labels import LabelDivergence, LabelTexts
from vectoruniverse.tasks.image_text.picture_views import PictureSource, PictureViews
from vectoruniverse.tasks.image_text.text_views import TextViews
from vectoruniverse.training.micro_batches import in_micro_batches
from vectoruniverse.training.task import StepLoss


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pictures and their texts, row by row.

    Attributes:
        pictures: stored pictures, row by row.
        keys: stable 64-bit key of each row; views depend on it and not on the row's place.
        tokens: token ids of each row's text, unpadded.
        items: which rows hold the same picture or text.
        labels: the rows' labels; None where there are none.
    """

    pictures: PictureSource
    keys: Sequence[int]
    tokens: TokenizedTexts
    items: PairItems
    labels: LabelTexts | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, rows: np.ndarray) -> Pairs:
        """The rows at these positions, in this order."""
        labels = self.labels
        some = None if labels is None else replace(labels, of_row=labels.of_row[torch.from_numpy(rows)])
        keys = [self.keys[i] for i in rows]
        return Pairs(self.pictures.select(rows), keys, self.tokens.select(rows), self.items.select(rows), some)


@dataclass(frozen=True, slots=True)
class Preserved:
    """The frozen base's vectors, which training is held to.

    They are made once, before anything is trained, of the stored pictures without augmentation, and looked up by row:
    what is to stay is what searches will see; it serves every kind of adapter alike, full fine-tuning and prefixes
    included, which leave no base beside them; and a step costs nothing more. A teacher that sees the very views that
    the student sees (arXiv:2106.05237) would cost one more pass of the model at each step.

    Attributes:
        weight: factor on the distance in the loss.
        distance: from the base's vectors.
        base: its vectors of the training rows.
        old: rows that the base knew, some of which are distilled too at each step, unaugmented; None without.
        old_base: the base's vectors of these.
        old_rows: how many at each step.
    """

    weight: float
    distance: Distance
    base: Embeddings
    old: Pairs | None = None
    old_base: Embeddings | None = None
    old_rows: int = 0


@dataclass(frozen=True, slots=True)
class TrainingParts:
    """What only training needs, beside rows, loss and views.

    Attributes:
        preserved: what training is held to beside the loss.
        negatives: who is a negative of whom; None: rows with the same picture or text are none of each other.
        divergence: of rows from their labels, added to the loss, with a fusion that is trained, too.
        texts: how a row's text is drawn for each view; None: as it was tokenized.
        frozen: keeps what frozen blocks make of fixed views and of texts, so that a step begins behind them.
    """

    preserved: Preserved | None = None
    negatives: Negatives | None = None
    divergence: LabelDivergence | None = None
    texts: TextViews | None = None
    frozen: Frozen | None = None


class ImageTextTask:
    """Contrastive training of a dual encoder."""

    def __init__(
        self,
        encoder: DualEncoder,
        *,
        train: Pairs,
        val: Pairs,
        test: Pairs | None = None,
        loss: ViewLoss,
        augmentation: Augmentation,
        views: int,
        text_is_random: bool,
        seed: int,
        recall_at: Sequence[int],
        eval_batch: int,
        parts: TrainingParts | None = None,
        patches: int | None = None,
        pool: int | None = None,
        micro_batch: int | None = None,
    ) -> None:
        """Bind an encoder to its rows.

        Args:
            encoder: the model, with whatever is trained on it already in place.
            train: training rows.
            val: validation rows.
            test: rows that are sealed until the end; None: there are none.
            loss: what is minimised, of the views ``I``, ``I+``, ``T`` and ``T+``.
            augmentation: how views are made.
            views: 1 or 2 views of each picture per step.
            text_is_random: whether the loss compares two views of a text, which differ by dropout or by what is drawn;
                else T+ is T and costs nothing.
            seed: seed of the views.
            recall_at: the k of recall@k.
            eval_batch: rows encoded at a time in evaluation.
            parts: what only training needs.
            patches: how many patches of each view training reads, drawn anew; None: all.
            pool: of how many fixed views of a picture a step draws its own; None: views are new in every epoch.
            micro_batch: rows at most that are encoded with gradients at a time; None: the whole batch.
        """
        self.encoder, self.train, self.val = encoder, train, val
        self._test = test
        self._loss, self._text_is_random = loss, text_is_random
        self._parts = parts or TrainingParts()
        self._negatives = self._parts.negatives or Negatives(train.items)
        self._pictures = PictureViews(
            encoder,
            train.pictures,
            train.keys,
            augmentation,
            count=views,
            seed=seed,
            patches=patches,
            pool=pool,
            frozen=self._parts.frozen,
        )
        self._texts = EncodedTexts(
            encoder,
            train.tokens,
            count=2 if text_is_random else 1,
            drawn=self._parts.texts,
            frozen=self._parts.frozen,
            micro_batch=micro_batch,
            eval_batch=eval_batch,
        )
        self._recall_at, self._eval_batch, self._micro_batch = tuple(recall_at), eval_batch, micro_batch

    @property
    def same_views(self) -> tuple[str, ...]:
        """Which of ``I`` and ``T`` have a second view that is the first one itself."""
        pictures = () if self._pictures.count > 1 else ("I",)
        return (*pictures, *(() if self._text_is_random else ("T",)))

    @property
    def negatives(self) -> Negatives:
        """Who is a negative of whom among the training rows."""
        return self._negatives

    @property
    def texts(self) -> TextViews | None:
        """How the texts of training rows are drawn, where they are."""
        return self._parts.texts

    @property
    def train_rows(self) -> int:
        """Number of training rows."""
        return len(self.train)

    def part(self, split: str) -> Pairs:
        """Rows of ``train``, ``val`` or ``test``."""
        part = {"train": self.train, "val": self.val, "test": self._test}[split]
        assert part is not None, "there are no test rows"
        return part

    def trained(self) -> dict[str, nn.Parameter]:
        """Whatever the adapter left open to training, by its path in the model, an added logit bias, and the fusion."""
        every = (*self.encoder.model.named_parameters(), *self.encoder.added.items())
        divergence = self._parts.divergence
        fusion = {} if divergence is None else dict(divergence.fusion.named_parameters(prefix="fusion"))
        return {name: p for name, p in every if p.requires_grad} | fusion

    def modules(self) -> list[nn.Module]:
        """The model and the fusion, with all their layers."""
        fusion = [] if self._parts.divergence is None else self._parts.divergence.fusion.modules()
        return [*self.encoder.model.modules(), *fusion]

    def loss(self, rows: np.ndarray, epoch: int) -> StepLoss:
        """Loss of the training rows at these positions in the views of this epoch."""
        images = in_micro_batches(lambda some: self._pictures.encode(some, epoch), rows, self._micro_batch)
        texts = self._texts.of_batch(rows, epoch)
        relations = self._negatives.among(rows)
        found = [self._loss({"I": images[0], "I+": images[-1], "T": texts[0], "T+": texts[-1]}, relations)]
        if self._parts.preserved is not None:
            found.append(self._distances(self._parts.preserved, rows, images, texts))
        if self._parts.divergence is not None:
            found.append(self._parts.divergence.among(self.encoder, rows, images, texts))
        loss, embedded = summed(found), torch.cat([images[0], texts[0]]).detach()
        share = {"masked_share": relations.masked_share()}
        return StepLoss(loss.total, loss.parts, embedded, loss.chance, {**share, **self.encoder.trained_scalars()})

    def _distances(self, held: Preserved, rows: np.ndarray, images: list[Tensor], texts: list[Tensor]) -> LossValue:
        """How far the batch is from the base, and as many old rows as are wanted; drawn by torch's seed."""
        found = {"preserve": self._distance(held, held.base, rows, images, texts)}
        if held.old is not None and held.old_base is not None:
            order = torch.randperm(len(held.old), generator=torch.Generator().manual_seed(common_seed()))
            drawn = order[: held.old_rows].numpy()
            found["preserve_old"] = self._old_distance(held.old, held, held.old_base, drawn)
        total = held.weight * torch.stack(list(found.values())).sum()
        return LossValue(total, {name: part.detach() for name, part in found.items()}, total.detach())

    def _old_distance(self, old: Pairs, held: Preserved, base: Embeddings, rows: np.ndarray) -> Tensor:
        """This process's share of the distance of old rows from the base's vectors of them."""
        share = rows[own(len(rows))]
        mine = share if len(share) else rows[:1]  # passes the model as all do, and counts for nothing
        squares = send(torch.from_numpy(old.pictures.take(mine)), self.encoder.device)
        image = self.encoder.encode_images(
            to_input(squares, self.encoder.picture.size, self._pictures.mean, self._pictures.std)
        )
        text = self.encoder.encode_texts(self.encoder.pad(old.tokens, mine))
        if not len(share):
            return 0.0 * (image.sum() + text.sum())
        return self._distance(held, base, rows, [image], [text])

    def _distance(
        self, held: Preserved, base: Embeddings, rows: np.ndarray, images: list[Tensor], texts: list[Tensor]
    ) -> Tensor:
        """Mean of the distances of pictures and of texts from the base's vectors of the same rows; of own rows a share.

        Args:
            held: how distances are measured.
            base: its vectors.
            rows: of all processes.
            images: views of this process's own pictures.
            texts: and of its own texts.
        """
        mine, sides = rows[own(len(rows))], ((images, base.image), (texts, base.text))
        each = [distillation(views, send(of[mine], views[0].device), distance=held.distance) for views, of in sides]
        return torch.stack(each).mean() * (len(mine) / len(rows))

    def after_step(self) -> None:
        """Clamp a trained logit scale."""
        self.encoder.clamp_logit_scale()

    @property
    def passes_per_step(self) -> int:
        """How many forward passes of a row an update costs at the least: as many back as forth, for each view."""
        return (2 if self._micro_batch is None else 3) * self._pictures.count

    def embed(self, pairs: Pairs) -> Embeddings:
        """Unit vectors of every row, unaugmented and without dropout."""
        return Embeddings(self._embed_pictures(pairs.pictures, len(pairs)), self._embed_texts(pairs.tokens))

    def _embed_pictures(self, pictures: PictureSource, count: int) -> Tensor:
        """Unit vectors of ``count`` pictures, in their order, which need not be that in which they are read."""
        order, size = pictures.reading_order(), self._eval_batch
        if order is None:
            return self.encoder.embed_squares(pictures.take, count, batch_size=size)

        def take(part: slice) -> np.ndarray:
            found = pictures.take(order[part])
            pictures.ahead(order[part.stop : part.stop + size])
            return found

        return self.encoder.embed_squares(take, count, batch_size=size)[np.argsort(order)]

    def ahead(self, rows: np.ndarray) -> None:
        """That these training rows are those of the next step, which may be read meanwhile."""
        self._pictures.ahead(rows[own(len(rows))])

    def labels(self, pairs: Pairs) -> Labels | None:
        """The rows' labels, with the unit vectors of their texts."""
        if (labels := pairs.labels) is None:
            return None
        return Labels(labels.names, self._embed_texts(labels.tokens), labels.of_row)

    def _embed_texts(self, tokens: TokenizedTexts) -> Tensor:
        return self.encoder.embed_texts(tokens, batch_size=self._eval_batch)

    def evaluate(self, split: str = "val") -> Evaluation:
        """Everything there is to say about the rows of a split: retrieval, labels and geometry."""
        pairs = self.part(split)
        embeddings = self.embed(pairs)
        sides = (embeddings.image, embeddings.text)
        retrieval = evaluate_pairs(*sides, pairs.items, self._recall_at, names=("image", "text"))
        if (labels := self.labels(pairs)) is None:
            return retrieval
        by_label = evaluate_labels(embeddings, labels)
        return Evaluation(
            {**retrieval.metrics, **by_label.metrics},
            {**retrieval.per_query, **by_label.per_query},
            retrieval.ranks,
            retrieval.vectors,
            labels=labels,
        )
