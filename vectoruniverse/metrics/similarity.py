"""The similarity matrix of two sets of embeddings, a stripe at a time: it is never held as a whole.

Shapes: N queries, M gallery items, E width, R queries in a stripe.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vectoruniverse.errors import DivergedError

STRIPE = 1 << 25
"""Similarities held at once (128 MiB in fp32).

With a quarter of it a stripe of 100,000 columns has 83 rows, and ranking takes half as long again (guide/speed.md).
"""

TIE = 1e-6
"""Cosines that differ by less are equal: two fp32 matrix products of the same 512 numbers differ by about as much."""


def check_unit_rows(**embeddings: Tensor) -> None:
    """Refuse embeddings that would give a number without meaning; the arguments' names are used in the messages.

    Raises:
        DivergedError: a row holds NaN or infinity.
        ValueError: not a matrix with rows, widths differ, or a row's norm is not 1.
    """
    for name, rows in embeddings.items():
        if rows.ndim != 2 or not rows.numel():
            raise ValueError(f"{name} must have shape (rows, width), got {tuple(rows.shape)}")
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32)
        if bad := int((~norms.isfinite()).sum()):
            raise DivergedError(
                f"{bad} of {len(rows)} {name} embeddings are not finite numbers",
                remedy="lower the learning rate, or train in fp32",
            )
        if float((norms - 1).abs().max()) > 1e-2:
            raise ValueError(f"{name} must have rows of norm 1, found norms {norms.min():.3g} to {norms.max():.3g}")
    if len(widths := {rows.shape[1] for rows in embeddings.values()}) > 1:
        raise ValueError(f"{' and '.join(embeddings)} must have one width, got {sorted(widths)}")


def similarity_stripes(query: Tensor, gallery: Tensor, *, stripe: int = STRIPE) -> Iterator[tuple[slice, Tensor]]:
    """Yield the rows of ``query @ gallery.T``, a stripe at a time.

    Args:
        query: (N, E).
        gallery: (M, E).
        stripe: similarities held at once; a stripe is one row of M at the least.

    Yields:
        The slice of the queries, and their similarities (R, M) in fp32. The next stripe uses the same memory: the
        caller may overwrite a stripe, and must not keep it.
    """
    rows = min(len(query), max(1, stripe // len(gallery)))
    columns = gallery.detach().float().T
    buffer = columns.new_empty((rows, len(gallery)))
    for start in range(0, len(query), rows):
        block = query[start : start + rows].detach().float()
        out = buffer[: len(block)]
        with torch.no_grad(), torch.autocast(block.device.type, enabled=False):
            torch.mm(block, columns, out=out)
        yield slice(start, start + len(block)), out
