"""The experiment file that each task reads; ``tasks.table`` says how the runs of each are put together.

Nothing heavy is loaded here, so that a wrong key is told at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vectoruniverse.config import loading
from vectoruniverse.config.sections import Experiment
from vectoruniverse.tasks.classification.settings import PairClassificationExperiment, SequenceClassificationExperiment
from vectoruniverse.tasks.image_text.settings import ImageTextExperiment
from vectoruniverse.tasks.masked_lm.settings import MaskedLmExperiment
from vectoruniverse.tasks.text_pairs.settings import TextPairsExperiment

EXPERIMENTS: dict[str, type[Experiment]] = {
    "image_text": ImageTextExperiment,
    "text_pairs": TextPairsExperiment,
    "pair_classification": PairClassificationExperiment,
    "sequence_classification": SequenceClassificationExperiment,
    "masked_lm": MaskedLmExperiment,
}


def load_experiment(config: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """Read and check an experiment file of any task; see ``config.loading.load``."""
    return loading.load(config, overrides, EXPERIMENTS)
