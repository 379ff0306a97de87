"""The settings that each task's experiment file has; ``tasks.table`` says how the runs of each are put together.

A task with the keys of another shares that task's settings.
"""

from __future__ import annotations

from vectoruniverse.config.image_text import ImageTextExperiment
from vectoruniverse.config.sections import Experiment
from vectoruniverse.config.text import (
    MaskedLmExperiment,
    PairClassificationExperiment,
    SequenceClassificationExperiment,
    TextPairsExperiment,
)

TASKS: dict[str, type[Experiment]] = {
    "image_text": ImageTextExperiment,
    "text_pairs": TextPairsExperiment,
    "pair_classification": PairClassificationExperiment,
    "sequence_classification": SequenceClassificationExperiment,
    "masked_lm": MaskedLmExperiment,
}
