"""The experiment files of tasks ``sequence_classification`` and ``pair_classification``: texts into classes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vectoruniverse.config.sections import EvalConfig, Section
from vectoruniverse.tasks.text_settings import PairsData, TextData, TextExperiment


class LabelledPairsData(PairsData):
    """A table of text pairs with a label."""

    label: str = Field("label", description="Column of the label.")


class LabelledData(TextData):
    """A table of texts with a label."""

    text: str = Field("text", description="Column of the text.")
    label: str = Field("label", description="Column of the label.")


class HeadConfig(Section):
    """The linear layer on the pooled vectors."""

    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="Dropout on the pooled vectors.")


class ClassificationLossConfig(Section):
    """Cross-entropy with penalties."""

    l1: float = Field(
        0.0, ge=0.0, le=1e6, description="Weight of Σ|w| over trained parameters; biases and norms are spared."
    )
    l2: float = Field(
        0.0, ge=0.0, le=1e6, description="Weight of Σw² likewise; AdamW's decoupled decay is train.weight_decay."
    )
    balanced: bool = Field(False, description="Weigh each class by 1 / its frequency.")


class ClassificationEvalConfig(EvalConfig):
    """Evaluation before the first step, after each epoch and by `vu eval`."""

    monitor: Literal["accuracy", "macro_f1"] = Field("accuracy", description="Metric that picks the best checkpoint.")


class ClassificationExperiment(TextExperiment):
    """What both kinds of classification share."""

    data: LabelledData | LabelledPairsData = Field(description="Texts and labels.")
    head: HeadConfig = Field(default_factory=HeadConfig, description="The classifier on the pooled vectors.")
    loss: ClassificationLossConfig = Field(default_factory=ClassificationLossConfig, description="What is minimised.")
    eval: ClassificationEvalConfig = Field(default_factory=ClassificationEvalConfig, description="Evaluation.")

    @property
    def draws_base(self) -> bool:
        """Yes: the untrained head is drawn from the seed."""
        return True

    @property
    def starts_random(self) -> bool:
        """Yes: a head that has seen no class puts rows into classes by chance."""
        return True


class SequenceClassificationExperiment(ClassificationExperiment):
    """Texts into classes."""

    data: LabelledData = Field(description="Texts and labels.")


class PairClassificationExperiment(ClassificationExperiment):
    """Pairs of texts into classes, by two encoders that read them in either order."""

    data: LabelledPairsData = Field(description="Pairs of texts and labels.")
    shared_encoder: bool = Field(False, description="One encoder reads both orders; false: each has its own.")
