"""``train.sampler``: what rows of a batch are to have in common, or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.data.pair_items import PairItems, number
from vectoruniverse.errors import ConfigError
from vectoruniverse.losses.negatives import Negatives
from vectoruniverse.tasks.image_text.data import ImageTextData
from vectoruniverse.tasks.image_text.labels import too_few_labels
from vectoruniverse.tasks.image_text.metadata import Row
from vectoruniverse.tasks.image_text.negatives import group_numbers
from vectoruniverse.tasks.image_text.settings import ImageTextExperiment
from vectoruniverse.training.strata import Blocks, Strata

ROWS_OF_A_GROUP = 4
"""How many rows of a group stand together in a batch, with ``train.sampler: groups``."""


def training_strata(
    experiment: ImageTextExperiment, data: ImageTextData, negatives: Negatives
) -> Strata | Blocks | None:
    """How the training rows are dealt out to batches; None where they are shuffled.

    Args:
        experiment: says how.
        data: the rows.
        negatives: which training rows hold the same picture or text.

    Raises:
        ConfigError: no label tells training rows apart, or no two of them are of one group, or rows that are to share
            a batch may lie anywhere in shards.
        DataError: a row group is too large to be shuffled.
    """
    found = data.pictures.select(data.split.train).blocks()
    if found is not None:
        _refuse_scattered(experiment)
        return Blocks(*found)
    rows, asked = [data.rows[i] for i in data.split.train], experiment.train.sampler
    if asked == "labels":
        return Strata(_rarest_labels(rows))
    if asked == "groups":
        return Strata(_groups(rows, experiment.data.split.group_by), run=ROWS_OF_A_GROUP)
    return Strata(_duplicates(negatives)) if asked == "no_duplicates" else None


def _refuse_scattered(experiment: ImageTextExperiment) -> None:
    """Raise where the rows of a batch would lie all over the shards, so that each costs a block of them."""
    asked = {
        "train.sampler": experiment.train.sampler != "shuffle",
        "train.hard_negatives": experiment.train.hard_negatives,
    }
    for key, needed in asked.items():
        if needed:
            message = "rows that are to share a batch may lie anywhere in the shards, which are read in order"
            raise ConfigError(message, key=key, remedy="leave it out, or set data.store to on")


def _rarest_labels(rows: Sequence[Row]) -> NDArray[np.int64]:
    """Number of each row's rarest label, as frequent ones are spread anyway; rows without any are one stratum."""
    counts = Counter(label for row in rows for label in row.labels)
    found = number([min(row.labels, key=lambda label: (counts[label], label), default="") for row in rows])
    if found.max(initial=0) == 0:
        raise too_few_labels(rows, "train.sampler", "set it to shuffle")
    return found


def _groups(rows: Sequence[Row], column: str | None) -> NDArray[np.int64]:
    """Number of each row's group; a row of none is a group of its own."""
    groups = group_numbers(rows, column)
    alone = groups < 0
    if len(np.unique(groups[~alone])) in (0, len(rows) - alone.sum()):
        remedy = "set it to shuffle, or group by another column"
        raise ConfigError("no two training rows are of one group", key="train.sampler", remedy=remedy)
    groups[alone] = groups.max() + 1 + np.arange(alone.sum())
    return groups


def _duplicates(negatives: Negatives) -> NDArray[np.int64]:
    """Equal numbers for rows that share a picture or a text, also by way of others."""
    found = negatives.items.clusters()
    for other in negatives.others:
        found = PairItems(found, other).clusters()
    return found
