"""THE TABLE OF TASKS: the settings that each task's experiment file has.

The module of the same name in ``assembly`` puts its runs together. A new task is a line here, a module there, and an
experiment file; one with the keys of another task shares that task's settings.
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
