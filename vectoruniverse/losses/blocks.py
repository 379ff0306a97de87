"""Sums over all pairs of rows, some rows at a time: no (A, B) matrix of a large batch is held, forward or backward.

Shapes: A and B rows, E width. A *part* is a function of the logits a_i·b_j of some rows i with all j, (R, B), and of
which rows these are; what is asked for is the sum of the parts. Its gradient by the logits is taken block by block on
the way forward and leaves as two matrices (A, E) and (B, E): memory is O((A + B)·E + `ELEMENTS`), and no product is
made twice. Cut Cross-Entropy (arXiv:2411.09009) goes through its logits in such blocks, and makes them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ELEMENTS = {"cpu": 2**20, "cuda": 2**26}
"""Logits that are held at a time, by the kind of device: up to a square batch of 1,024 rows, or 8,192 on a GPU."""

Masked = Callable[[Tensor, slice], Tensor]
"""The logits of a block as the sum is to see them, of the logits and which rows these are."""


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """All cosines (.., A, B) of unit rows (.., A, E) and (B, E).

    They are in the rows' own precision: under autocast they would lose all but 8 bits.
    """
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.T


def log_sum_exps(a: Tensor, b: Tensor, masked: Masked, *, both_ways: bool) -> Tensor:
    """Σ_i log Σ_j exp(s_ij) of logits s = masked(a_i·b_j), plus Σ_j log Σ_i exp(s_ij) where ``both_ways``; 0-d.

    Both directions take one product more than one, and none more where all logits are one block.
    """
    if not both_ways:
        return sum_of_parts(lambda logits, rows: masked(logits, rows).logsumexp(dim=1).sum(), a, b)
    blocks = list(_blocks(a, b))
    columns = _log_sum_exps_of_columns(a, b, masked, blocks) if len(blocks) > 1 else None

    def part(logits: Tensor, rows: slice) -> Tensor:
        logits = masked(logits, rows)
        if columns is None:
            return logits.logsumexp(dim=1).sum() + logits.logsumexp(dim=0).sum()
        # each exponent is one share of a sum that is 1, and its gradient that of the logarithm of the whole
        return logits.logsumexp(dim=1).sum() + (logits - columns).exp().sum()

    total = sum_of_parts(part, a, b)
    return total if columns is None else total + (columns - 1.0).sum()


def sum_of_parts(part: Callable[..., Tensor], a: Tensor, b: Tensor, *scalars: Tensor) -> Tensor:
    """Σ of ``part(a_R bᵀ, R, …)`` over blocks R of rows, with gradient by a, b and the scalars.

    Args:
        part: of logits (R, B), a slice of rows and the scalars; gives a tensor of one shape for all blocks, of which
            all elements are minimised alike.
        a: (A, E).
        b: (B, E).
        scalars: what else the parts depend on, 0-d.
    """
    if len(list(_blocks(a, b))) == 1:
        return part(cosines(a, b), slice(0, len(a)), *scalars)
    total: Tensor = _SumOfParts.apply(part, a, b, *scalars)  # type: ignore[no-untyped-call]
    return total


class _SumOfParts(torch.autograd.Function):
    """`sum_of_parts` in several blocks."""

    @staticmethod
    def forward(context: Any, part: Callable[..., Tensor], a: Tensor, b: Tensor, *scalars: Tensor) -> Tensor:
        totals: list[Tensor] = []
        by_a, by_b, by_scalars = torch.empty_like(a), torch.zeros_like(b), [torch.zeros_like(s) for s in scalars]
        wanted = any(context.needs_input_grad)
        for rows in _blocks(a, b):
            leaves = [leaf.detach().requires_grad_(wanted) for leaf in (cosines(a[rows], b), *scalars)]
            with torch.set_grad_enabled(wanted):
                value = part(leaves[0], rows, *leaves[1:])
                whole = value.sum()
            totals.append(value.detach())
            if wanted:
                by_logits, *others = torch.autograd.grad(whole, leaves)
                with torch.autocast(a.device.type, enabled=False):
                    torch.mm(by_logits, b, out=by_a[rows])
                    by_b.addmm_(by_logits.T, a[rows])
                for so_far, more in zip(by_scalars, others, strict=True):
                    so_far += more
        context.save_for_backward(by_a, by_b, *by_scalars)
        return torch.stack(totals).sum(dim=0)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        one = gradients[0].flatten()[0]
        return None, *(found * one for found in context.saved_tensors)


def _log_sum_exps_of_columns(a: Tensor, b: Tensor, masked: Masked, blocks: list[slice]) -> Tensor:
    """Log Σ_i exp(s_ij) of each column j, (B,), without gradient."""
    with torch.no_grad():
        found = a.new_full((len(b),), -torch.inf)
        for rows in blocks:
            found = torch.logaddexp(found, masked(cosines(a[rows], b), rows).logsumexp(dim=0))
        return found


def _blocks(a: Tensor, b: Tensor) -> Iterator[slice]:
    """Stretches of the rows of a of which the logits with all rows of b are few enough."""
    size = max(1, ELEMENTS.get(a.device.type, ELEMENTS["cpu"]) // len(b))
    return (slice(first, min(first + size, len(a))) for first in range(0, len(a), size))
