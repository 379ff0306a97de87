"""The experiment file of task ``masked_lm``: BERT pre-training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vectoruniverse.config.sections import Division, Encoding, EvalConfig, Section
from vectoruniverse.tasks.text_settings import TextExperiment


class CorpusData(Section):
    """Where documents come from, and their division."""

    source: str = Field(
        description="A CSV or TSV with a column of documents, a text file with a blank line between documents, "
        "or a folder of text files; relative to the working directory, else to the experiment file."
    )
    column: str = Field("review", description="Column of the documents (CSV, TSV).")
    encoding: Encoding = Field("utf-8", description="Encoding of the table or text files, as in `cp949` or `utf-16`.")
    split: Division = Field(default_factory=Division, description="Training, validation and test documents.")


class MaskingConfig(Section):
    """How tokens are hidden."""

    share: float = Field(0.15, gt=0.0, lt=1.0, description="Share of the tokens that are to be told.")
    whole_word: bool = Field(False, description="Hide all pieces of a word together.")


class MaskedLmEvalConfig(EvalConfig):
    """Evaluation before the first step, after each epoch and by `vu eval`."""

    monitor: Literal["mlm_accuracy", "nsp_accuracy"] = Field(
        "mlm_accuracy", description="Metric that picks the best checkpoint."
    )


class MaskedLmExperiment(TextExperiment):
    """BERT pre-training: masked tokens and next sentences."""

    data: CorpusData = Field(description="Documents.")
    masking: MaskingConfig = Field(default_factory=MaskingConfig, description="Which tokens are hidden.")
    next_sentence: bool = Field(True, description="Also tell whether the second segment follows the first.")
    eval: MaskedLmEvalConfig = Field(default_factory=MaskedLmEvalConfig, description="Evaluation.")

    @property
    def draws_base(self) -> bool:
        """Yes: heads that a checkpoint lacks are drawn from the seed, and so is what is masked."""
        return True

    def _why_whole(self) -> str | None:
        return "pre-training reads the table of words twice, as what texts begin with and as what is told"

    @model_validator(mode="after")
    def _monitored(self) -> MaskedLmExperiment:
        if self.quantization is not None:
            raise ValueError("quantization is for encoders that are used, not for pre-training; remove it")
        if self.adapter.reserved_positions:
            raise ValueError("adapter.method: prefix is for encoders that are used, not for pre-training")
        if self.eval.monitor == "nsp_accuracy" and not self.next_sentence:
            raise ValueError("eval.monitor: nsp_accuracy needs next_sentence: true")
        return self
