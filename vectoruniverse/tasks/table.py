"""THE TABLE OF TASKS: how the runs of each are put together; the settings of each stand in ``tasks.experiments``.

A new task is a folder here, a line in both tables, and an experiment file.
"""

from __future__ import annotations

from types import ModuleType
from typing import cast

from vectoruniverse.config.sections import Experiment
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.tasks.base import Setup, Shared
from vectoruniverse.tasks.classification import setup as classification
from vectoruniverse.tasks.image_text import setup as image_text
from vectoruniverse.tasks.masked_lm import setup as masked_lm
from vectoruniverse.tasks.text_pairs import setup as text_pairs

TASKS: dict[str, ModuleType] = {
    "image_text": image_text,
    "text_pairs": text_pairs,
    "pair_classification": classification,
    "sequence_classification": classification,
    "masked_lm": masked_lm,
}


def setup(experiment: Experiment) -> Setup:
    """How runs of an experiment's task are put together."""
    return cast("Setup", TASKS[experiment.task])


def evaluated_base(experiment: Experiment, shared: Shared, split: str) -> Evaluation:
    """What the base reaches on a split, evaluated once for all who share it."""
    if split not in shared.evaluations:
        shared.evaluations[split] = setup(experiment).evaluate_base(experiment, shared, split)
    return shared.evaluations[split]
