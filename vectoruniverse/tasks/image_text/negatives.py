"""What training rows have in common beside picture and text, as ``loss.negatives`` counts it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.data.pair_items import PairItems, number
from vectoruniverse.losses.negatives import Negatives, label_sets
from vectoruniverse.tasks.image_text.data import ImageTextData
from vectoruniverse.tasks.image_text.labels import too_few_labels
from vectoruniverse.tasks.image_text.metadata import Row, group_values
from vectoruniverse.tasks.image_text.settings import ImageTextExperiment
from vectoruniverse.tasks.image_text.text_views import TextViews


def training_negatives(
    experiment: ImageTextExperiment, data: ImageTextData, items: PairItems, texts: TextViews | None
) -> Negatives:
    """Who is a negative of whom among the training rows.

    Args:
        experiment: says what counts.
        data: the rows.
        items: pictures and texts of the training rows.
        texts: how their texts are drawn: rows of which a template makes the same text are none of each other either.

    Raises:
        ConfigError: labels are asked for, and none tells training rows apart.
        DataError: too few pairs of training rows would be negatives.
    """
    asked, rows = experiment.loss.negatives, [data.rows[i] for i in data.split.train]
    others = [] if texts is None else texts.same_texts()
    groups = None if asked.groups == "off" else group_numbers(rows, experiment.data.split.group_by)
    if asked.labels == "off":
        found = Negatives(items, groups, others=others)
    else:
        found = Negatives(items, groups, *_labels(rows), asked.labels, others)
    found.refuse_masked(asked.max_masked)
    return found


def group_numbers(rows: Sequence[Row], column: str | None) -> NDArray[np.int64]:
    """Number of each row's group (N,); -1 where the cell is blank."""
    values = group_values(rows, column) or []
    return np.where(np.array(values) == "", -1, number(values))


def _labels(rows: Sequence[Row]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Each row's set of labels, as ``label_sets`` numbers them."""
    found, sets = label_sets([row.labels for row in rows])
    if not sets.any():
        raise too_few_labels(rows, "loss.negatives.labels", "set it to off")
    return found, sets
