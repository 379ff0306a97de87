"""The per-row outcomes that runs leave behind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from vectoruniverse.errors import DataError
from vectoruniverse.runs.files import check_regular
from vectoruniverse.runs.folder import Run

PER_QUERY_FILE = "per_query.safetensors"
"""Outcome of each held-out row, in the run folder."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One metric, row by row of the held-out rows, each (N,).

    Attributes:
        base: of the base.
        adapted: of the kept checkpoint.
        drawn: rows of equal number are drawn together.
    """

    base: NDArray[np.float64]
    adapted: NDArray[np.float64]
    drawn: NDArray[np.int64]


def outcomes(run: Run, metric: str) -> Outcomes:
    """Read what a finished run left.

    Raises:
        DataError: the file is missing or damaged.
    """
    file = run.path / PER_QUERY_FILE
    check_regular(file, inside=run.path)
    try:
        arrays = load_file(file)
        base, adapted = (arrays[f"{model}/{metric}"].astype(np.float64) for model in ("base", "adapted"))
        return Outcomes(base, adapted, arrays["drawn"])
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(f"cannot be read ({error})", file=file, remedy="delete that run and sweep again") from error
