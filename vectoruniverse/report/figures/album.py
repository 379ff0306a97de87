"""All figures that a run has the numbers for, each with the words that stand below it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from matplotlib.figure import Figure

from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.metrics import geometry
from vectoruniverse.report.figures.curves import effective_rank, learning_rate, training_curves
from vectoruniverse.report.figures.retrieval import Intervals, recall, recall_keys
from vectoruniverse.report.figures.space import (
    Embedded,
    alignment_uniformity,
    cosine_histograms,
    similarity_matrix,
    spectra,
)
from vectoruniverse.tracking.series import Floats, Record

Section = Literal[
    "answer",
    "rivals",
    "labels",
    "beside",
    "rates",
    "cost",
    "curves",
    "adapters",
    "health",
    "forgetting",
    "cells",
    "config",
    "differences",
    "metrics",
]


@dataclass(frozen=True, slots=True)
class Plate:
    """A figure with its place in a report.

    Attributes:
        name: file name without its ending.
        title: a few words.
        section: the part of the report that it belongs to.
        caption: what is seen and how to read it.
        figure: the figure itself.
    """

    name: str
    title: str
    section: Section
    caption: str
    figure: Figure


def comparison_figures(
    base: Mapping[str, float], adapted: Mapping[str, float], intervals: Intervals | None = None
) -> Iterator[Plate]:
    """Recall of both directions, where both models have it.

    Args:
        base: metrics of the base model on the evaluated rows.
        adapted: metrics of the adapted model on the same rows.
        intervals: of the metrics.
    """
    if recall_keys(base, adapted):
        caption = "Share of the queries with a right answer among the first k, before and after."
        if intervals:
            caption += " Lines: the interval of each model by itself; that of the change is in the table."
        yield Plate("recall", "Recall before and after", "answer", caption, recall(base, adapted, intervals))


def history_figures(history: Sequence[Record], monitor: str, *, rows: str = "held-out rows") -> Iterator[Plate]:
    """What was logged while the run ran; figures that lack their numbers are left out.

    Args:
        history: records of ``metrics.jsonl``.
        monitor: the metric that picked the best checkpoint, such as ``recall@5``.
        rows: what the evaluated rows are called.
    """
    logged = {key for record in history for key in record}
    if "train/loss" in logged:
        caption = f"Training loss with its parts, and {monitor} of the {rows} after each epoch."
        curves = training_curves(history, monitor=monitor, rows=rows)
        yield Plate("training", f"Loss and {rows}", "curves", caption, curves)
    if "train/lr" in logged:
        yield Plate("learning_rate", "Learning rate", "curves", "At each logged step.", learning_rate(history))
    if logged & {"train/effective_rank", "val/effective_rank"}:
        caption = (
            "Effective rank: how many directions the embeddings use. A fall towards 1 is a collapse. "
            "Batches have fewer rows than the evaluated set, so compare each line with its own start."
        )
        yield Plate(
            "effective_rank", "Directions in use while training", "health", caption, effective_rank(history, rows=rows)
        )
    if "val/alignment" in logged and logged & {"val/image/uniformity", "val/text/uniformity"}:
        caption = (
            "The path of training between two aims: pairs close together (down) and everything spread out (left). "
            "Down and to the right, pairs came closer only because everything did."
        )
        yield Plate(
            "alignment_uniformity", "Alignment and uniformity", "health", caption, alignment_uniformity(history)
        )


def space_figures(base: Embedded, adapted: Embedded, items: PairItems) -> Iterator[Plate]:
    """The space of the evaluated rows before and after.

    Args:
        base: the base model's unit rows.
        adapted: the adapted model's.
        items: which rows hold the same picture or text.
    """
    caption = (
        "Cosines of pictures with right and with wrong texts; dotted: their means. Less overlap is better retrieval."
    )
    yield Plate("cosines", "Right and wrong pairs", "health", caption, cosine_histograms(base, adapted, items))
    caption = (
        "How the variance of all evaluated embeddings (pictures and texts, not centred) is spread over directions. "
        "A flat line uses the space; a steep one uses few directions."
    )
    shares = spectra({"base": _shares(base), "adapted": _shares(adapted)}, parts=(0.5, 0.9, 0.99))
    yield Plate("spectrum", "Eigenvalue spectrum", "health", caption, shares)
    caption = (
        "Cosines of pictures and texts, in the same order for both models. A bright diagonal is right pairs; "
        "bright blocks are rows that the adapted model takes for alike."
    )
    yield Plate("similarity", "Similarity matrix", "health", caption, similarity_matrix(base, adapted))


def _shares(model: Embedded) -> Floats:
    rows = torch.from_numpy(np.concatenate([model.image, model.text]))
    return geometry.spectrum(rows).numpy()
