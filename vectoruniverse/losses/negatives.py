r"""Who is a negative of whom: from which other rows of its batch a contrastive loss pushes a row away.

For rows i ≠ j of a batch let x_ij be 1 where they hold the same picture, the same text or are of one group, else 0,
and r_ij how related their labels make them::

    off         r_ij = 0
    mask        r_ij = 1 where they share a label, else 0
    positive    the same
    soft        r_ij = |L_i ∩ L_j| / |L_i ∪ L_j| of their sets of labels (Jaccard), 0 for rows without labels

Then j is a negative of i with weight w_ij and a positive with weight q_ij::

    w_ij = (1 - x_ij)(1 - r_ij)        q_ij = (1 - x_ij) r_ij for soft and positive, else 0        w_ii = 0, q_ii = 1

so that rows with x_ij = 1 say nothing about each other. Both are symmetric.

Shapes: N training rows, B rows of a batch, b of them this process's own (all, where there is one), K kinds of row in
it, C labels, E width of the shared embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vectoruniverse.data.pair_items import PairItems, number
from vectoruniverse.data.transfer import send
from vectoruniverse.errors import DataError
from vectoruniverse.processes import own, summed

LabelUse = Literal["off", "mask", "soft", "positive"]

BLOCK = 2**20
"""Weights that are held at a time where no (B, B) matrix may be."""

SAMPLED = 4096
"""Training rows at most whose pairs are counted before training."""


@dataclass(frozen=True)
class Relations:
    """How the rows of a batch stand to each other.

    Rows that share the same things with others are of one *kind*; where no two rows of a batch share anything, there is
    one kind. Weights depend on kinds alone, unless a row meets itself.

    Attributes:
        kind: (B,) int64 number of each row's kind, on the CPU like the rest.
        shared: (K, S) int64 picture, text, group, ... of each kind; -1: no other row of the batch has it.
        labels: (K, C) bool.
        use: what sharing a label does.
    """

    kind: Tensor
    shared: Tensor
    labels: Tensor
    use: LabelUse

    @classmethod
    def strangers(cls, rows: int) -> Relations:
        """Of rows that share nothing: all others are negatives."""
        labels = torch.zeros(1, 0, dtype=torch.bool)
        return cls(torch.zeros(rows, dtype=torch.int64), torch.empty(1, 0, dtype=torch.int64), labels, "off")

    @property
    def rows(self) -> int:
        """B."""
        return len(self.kind)

    @property
    def own(self) -> slice:
        """Which rows are this process's."""
        return own(self.rows)

    @property
    def all_negatives(self) -> bool:
        """Whether all other rows are negatives of weight 1, so that no weight need be made."""
        return len(self.shared) == 1 and not self.shared.numel() and not self.labels.numel()

    def weights(self, like: Tensor, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Both weights w and q of some own rows with all, (R, B) each, on the device and in the format of ``like``."""
        kind, first = send(self.kind, like.device), self.own.start + (rows.start or 0)
        negative, positive = (weights[:, kind] for weights in self._between(self.kind[self.own][rows], like))
        negative.diagonal(first).fill_(0.0)
        positive.diagonal(first).fill_(1.0)
        return negative, positive

    def negative_weights(self, rows: Tensor, like: Tensor) -> Tensor:
        """W of some rows (R) with all others, (R, B), where a row with itself counts as another of its kind."""
        return self._between(self.kind[rows], like)[0][:, self.kind]

    def sum_of_negatives(self, a: Tensor, b: Tensor) -> Tensor:
        """Own rows' share of Σ_{i≠j} w_ij a_i·b_j, of rows (b, E), with gradient and without a (b, B) matrix."""
        return self._sum_of_products(a, b, ((first, w) for first, w, _ in self._blocks(a)))

    def mean_of_positives(self, a: Tensor, b: Tensor) -> Tensor:
        """The share of Σ_ij (t_ij + t_ji) / 2 · a_i·b_j of rows (b, E) with t_ij = q_ij / Σ_k q_ik, likewise."""
        itself = (a * b).sum(dim=1)
        if self.use not in ("soft", "positive"):
            return itself.sum()
        each = torch.from_numpy(1.0 / self.masses[1])
        share = send(each.new_zeros(len(self.shared)).index_put((self.kind,), each).to(a.dtype), a.device)
        blocks = ((first, q * (share[first : first + len(q), None] + share) / 2) for first, _, q in self._blocks(a))
        return (itself * send(each[self.own].to(a.dtype), a.device)).sum() + self._sum_of_products(a, b, blocks)

    def _sum_of_products(self, a: Tensor, b: Tensor, blocks: Iterable[tuple[int, Tensor]]) -> Tensor:
        """The share of Σ_{i≠j} w_ij a_i·b_j, of the first kind of each block and its symmetric weights (R, K).

        With A_k, B_k the sums of the rows of kind k it is Σ_kl w_kl A_k·B_l less what each row has with itself, in
        O(B·E) memory and O(B·E + K²·(E + C)) time: weights of kinds are made block by block, and not kept. Processes
        tell each other 2·K·E numbers.
        """
        kind = send(self.kind, a.device)[self.own]
        sums = [a.new_zeros(len(self.shared), a.shape[1]).index_add(0, kind, rows) for rows in (a, b)]
        with torch.no_grad(), torch.autocast(a.device.type, enabled=False):
            every = summed(torch.stack(sums))
            parts = [(w @ every[0], w @ every[1], w.diagonal(first)) for first, w in blocks]
        pushed_a, pushed_b, itself = (torch.cat(part) for part in zip(*parts, strict=True))
        # the gradient of Σ_k A_k·(w B)_k is w B for A and, as w is symmetric, w A for B; the third term ends the first
        products = (sums[0] * pushed_b).sum() + (sums[1] * pushed_a).sum() - (sums[0].detach() * pushed_b).sum()
        return products - (itself[kind] * (a * b).sum(dim=1)).sum()

    @cached_property
    def masses(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Σ_j w_ij and Σ_j q_ij of each row (B,), made on the CPU and without a (B, B) matrix."""
        rows = torch.bincount(self.kind, minlength=len(self.shared)).double()
        parts = [
            (w @ rows - w.diagonal(first), q @ rows - q.diagonal(first) + 1.0) for first, w, q in self._blocks(rows)
        ]
        negative, positive = (torch.cat(part)[self.kind].numpy() for part in zip(*parts, strict=True))
        return negative, positive

    def masked_share(self) -> float:
        """Share of the pairs of different rows that are no negatives: 1 - mean of w_ij over i ≠ j."""
        negative, _ = self.masses
        return 1.0 - float(negative.sum()) / (len(negative) * (len(negative) - 1))

    def _blocks(self, like: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The first kind of each block and the block's w and q, each (R, K)."""
        kinds = len(self.shared)
        size = max(1, BLOCK // kinds)
        for first in range(0, kinds, size):
            yield first, *self._between(slice(first, first + size), like)

    def _between(self, kinds: slice | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Both weights w and q, each (R, K), of rows of some kinds with other rows of any kind."""
        apart = torch.ones(len(self.shared[kinds]), len(self.shared), device=like.device, dtype=like.dtype)
        for thing in send(self.shared, like.device).T:
            some = thing[kinds, None]
            apart.masked_fill_((some == thing) & (some >= 0), 0.0)
        related = apart * self._related(kinds, like)
        positive = related if self.use in ("soft", "positive") else torch.zeros_like(related)
        return apart - related, positive

    def _related(self, kinds: slice | Tensor, like: Tensor) -> Tensor:
        """How related labels make rows of some kinds to those of any kind, r (R, K)."""
        every = send(self.labels, like.device).to(like.dtype)
        some = every[kinds]
        with torch.autocast(like.device.type, enabled=False):
            both = some @ every.T
        if self.use != "soft":
            return (both > 0).to(like)
        either = some.sum(dim=1)[:, None] + every.sum(dim=1) - both
        return both / either.clamp(min=1.0)


@dataclass(frozen=True, slots=True)
class Negatives:
    """What training rows have in common, and what that does to their pairs in a batch.

    Attributes:
        items: their pictures and texts.
        groups: (N,) int64; -1: of no group; None: groups do nothing.
        label_set: (N,) int64 row of ``label_sets``; None: labels do nothing.
        label_sets: (S, C) bool, each distinct set of labels once.
        use: what sharing a label does.
        others: further things, (N,) int64 each, that are shared as a text is.
    """

    items: PairItems
    groups: NDArray[np.int64] | None = None
    label_set: NDArray[np.int64] | None = None
    label_sets: NDArray[np.bool_] | None = None
    use: LabelUse = "off"
    others: Sequence[NDArray[np.int64]] = ()

    def among(self, rows: NDArray[np.int64]) -> Relations:
        """How these rows stand to each other."""
        things = [self.items.first, self.items.second, *self.others]
        shared = [_where_repeated(thing[rows]) for thing in (things if self.groups is None else [*things, self.groups])]
        sets = np.zeros(len(rows), dtype=np.int64) if self.label_set is None else self.label_set[rows]
        facts = np.stack([*(thing for thing in shared if (thing >= 0).any()), sets], axis=1)
        kinds, kind = np.unique(facts, axis=0, return_inverse=True)
        labels = np.zeros((1, 0), dtype=np.bool_) if self.label_sets is None else self.label_sets
        labels = labels[kinds[:, -1]]
        return Relations(
            torch.from_numpy(kind.reshape(-1)),
            torch.from_numpy(kinds[:, :-1].copy()),
            torch.from_numpy(labels[:, labels.any(axis=0)]),
            self.use,
        )

    def refuse_masked(self, limit: float) -> None:
        """Count the pairs of all training rows, or of a sample of them, as a batch is one.

        Raises:
            DataError: more than ``limit`` of the pairs are no negatives.
        """
        rows = np.random.default_rng(0).permutation(len(self.items))[:SAMPLED]
        share = self.among(rows).masked_share() if len(rows) > 1 else 0.0
        if share > limit:
            asked = {"label": self.label_set, "group": self.groups}
            things = ["picture or text", *(thing for thing, found in asked.items() if found is not None)]
            off = [f"loss.negatives.{thing}s: off" for thing in things[1:]] or [
                "fewer rows of the same picture or text"
            ]
            raise DataError(
                f"{share:.0%} of the pairs of training rows share their {' or '.join(things)} and are no negatives of "
                f"each other; {limit:.0%} at most may be",
                key="loss.negatives.max_masked",
                remedy=f"use {' or '.join(off)}, or allow more",
            )


def label_sets(labels: Sequence[Sequence[str]]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Each row's number of its set of labels (N,), and which labels each distinct set has (S, C).

    Labels that every row has tell no row from another and are left out.
    """
    common = set.intersection(*map(set, labels)) if labels else set()
    sets = [frozenset(row) - common for row in labels]
    column = {name: i for i, name in enumerate(sorted(set().union(*sets)))}
    distinct = list(dict.fromkeys(sets))
    has = np.zeros((len(distinct), len(column)), dtype=np.bool_)
    for i, names in enumerate(distinct):
        has[i, [column[name] for name in names]] = True
    return number(sets), has


def _where_repeated(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The values that occur more than once, -1 in place of the others."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.where(count[place] > 1, values, -1)
