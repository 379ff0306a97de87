"""The experiment file that each task reads; ``tasks.table`` says how the runs of each are put together.

Nothing heavy is loaded here, so that a wrong key is told at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vectoruniverse.config import loading
from vectoruniverse.config.sections import Experiment
from vectoruniverse.config.strict_yaml import parse
from vectoruniverse.runs.files import check_regular
from vectoruniverse.runs.folder import Run
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


BEFORE_THREE_PARTS = {"val_fraction": 0.2, "test_fraction": 0.0}
"""What ``data.split`` meant by a key that a run's config.yaml lacks, since an earlier version wrote it."""


def load_experiment(config: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """Read and check an experiment file of any task; see ``config.loading.load``."""
    return loading.load(config, overrides, EXPERIMENTS)


def load_config_of(run: Run, overrides: Sequence[str] = ()) -> Experiment:
    """The settings of a run, from its own config.yaml; what an earlier version did not write there is as it was then.

    Raises:
        ConfigError: they cannot be read.
    """
    check_regular(run.config_file, inside=run.path)
    settings = parse(loading.read_config(loading.find_config(run.config_file)), str(run.config_file)).value
    data = settings.get("data") if isinstance(settings, dict) else None
    split = data.get("split", {}) if isinstance(data, dict) else None
    earlier = [
        f"data.split.{key}={value}"
        for key, value in BEFORE_THREE_PARTS.items()
        if isinstance(split, dict) and "test_fraction" not in split and key not in split
    ]
    return load_experiment(run.config_file, [*earlier, *overrides])
