"""The experiment files of the text tasks: pairs, classification of pairs and of sequences, pre-training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vectoruniverse.config.losses import InfoNceConfig, LossConfig
from vectoruniverse.config.sections import (
    AdapterSettings,
    Block,
    Division,
    Encoding,
    EvalConfig,
    Experiment,
    Name,
    RetrievalEvalConfig,
    Section,
    Share,
)

Pooling = Literal["mean", "cls", "pooler"]


class ScratchBert(Section):
    """A BERT with random weights and a WordPiece tokenizer trained on the training texts."""

    scratch: Literal["bert"] = Field(description="Architecture to build with random weights.")
    vocab_size: int = Field(8000, ge=64, le=1_000_000, description="Size of the WordPiece vocabulary.")
    lowercase: bool = Field(True, description="Whether the tokenizer lowers letters, as BERT's uncased models do.")
    width: int = Field(256, ge=16, le=16_384, description="Hidden width.")
    layers: int = Field(4, ge=1, le=256, description="Layers.")
    heads: int = Field(4, ge=1, le=1_024, description="Attention heads; must divide width.")
    intermediate: int = Field(1024, ge=16, le=65_536, description="Width of the feed-forward layers.")
    max_text_tokens: int = Field(128, ge=8, le=8_192, description="Longest text in tokens, marks included.")
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="Dropout of hidden states and attention.")

    @model_validator(mode="after")
    def _divides(self) -> ScratchBert:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        return self


class TextAdapterConfig(AdapterSettings):
    """What is trained on the text encoder."""

    targets: list[str] = Field(
        default=["attention"],
        min_length=1,
        description="Layers by name; `attention`: the family's own projections (lora).",
    )
    layers_to_transform: list[Block] | None = Field(
        None, description="Blocks that are adapted, counted from 0 (lora); null: all."
    )


class TextSplitConfig(Division):
    """How rows are divided; rows that share a text stay on one side."""

    val_fraction: float = Field(
        0.2,
        ge=0.0,
        lt=1.0,
        description="Share of the rows held out for validation; 0 holds none out and judges on the training rows.",
    )
    column: str | None = Field(
        None, description="Column that says `train` or `val` of each row; null divides by val_fraction and seed."
    )
    together: list[Literal["text", "first", "second"]] | None = Field(
        None,
        min_length=1,
        description="Whose equal texts hold rows together, as in `[second]` where many rows share a stock answer; "
        "null: every text's.",
    )

    @property
    def holds_out(self) -> bool:
        """Not where the share is 0 and no column says otherwise."""
        return self.column is not None or self.val_fraction > 0.0

    @model_validator(mode="after")
    def _drawn(self) -> TextSplitConfig:
        drawn = self.column is None and self.val_fraction > 0.0
        if self.together is not None and not drawn:
            raise ValueError(
                "together: means nothing where rows are not drawn; remove it, or column, or val_fraction: 0"
            )
        return self


class TextData(Section):
    """A table of texts."""

    file: str = Field(
        description="Table of texts, CSV or TSV with a header; relative to the working directory, "
        "else to the experiment file."
    )
    encoding: Encoding = Field("utf-8", description="Encoding of the table, as in `cp949` or `utf-16`.")
    split: TextSplitConfig = Field(default_factory=TextSplitConfig, description="Training and validation rows.")
    max_bad_share: Share = Field(0.01, description="Stop when more than this share of the rows cannot be used.")


class PairsData(TextData):
    """A table of text pairs."""

    first: str = Field("first", description="Column of the first text.")
    second: str = Field("second", description="Column of the second text.")


class LabelledPairsData(PairsData):
    """A table of text pairs with a label."""

    label: str = Field("label", description="Column of the label.")


class LabelledData(TextData):
    """A table of texts with a label."""

    text: str = Field("text", description="Column of the text.")
    label: str = Field("label", description="Column of the label.")


class CorpusData(Section):
    """Where documents come from, and their division."""

    source: str = Field(
        description="A CSV or TSV with a column of documents, a text file with a blank line between documents, "
        "or a folder of text files; relative to the working directory, else to the experiment file."
    )
    column: str = Field("review", description="Column of the documents (CSV, TSV).")
    encoding: Encoding = Field("utf-8", description="Encoding of the table or text files, as in `cp949` or `utf-16`.")
    split: Division = Field(default_factory=Division, description="Training and validation documents.")


class EncoderConfig(Section):
    """A text encoder."""

    model: str = Field(description="A Hugging Face name, or a folder of sentence-transformers or transformers.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hugging Face name.")
    pooling: Pooling | None = Field(
        None, description="How tokens become one vector; null: as a sentence-transformers folder says, else mean."
    )
    random_weights: bool = Field(False, description="The same architecture and tokenizer with random weights.")
    name: Name | None = Field(None, description="What tables call it; null makes a name of the other keys.")


class TextExperiment(Experiment):
    """What the text tasks share."""

    model: str | ScratchBert = Field(
        description="A Hugging Face name, a folder of sentence-transformers or transformers, or a BERT from scratch."
    )
    pooling: Pooling | None = Field(
        None, description="How tokens become one vector; null: as a sentence-transformers folder says, else mean."
    )
    adapter: TextAdapterConfig = Field(default_factory=TextAdapterConfig, description="What is trained.")


class TextPairsExperiment(TextExperiment):
    """Encoders compared on pairs of texts, and contrastive fine-tuning on them."""

    data: PairsData = Field(description="Pairs of texts.")
    beside: list[EncoderConfig] = Field(
        default_factory=list, description="Further encoders, judged beside `model` by vu eval."
    )
    loss: LossConfig = Field(
        default_factory=lambda: InfoNceConfig(name="info_nce", temperature=0.05), description="What is minimised."
    )
    eval: RetrievalEvalConfig = Field(default_factory=RetrievalEvalConfig, description="Evaluation.")

    @model_validator(mode="after")
    def _has_temperature(self) -> TextPairsExperiment:
        if self.loss.name != "alignment_anisotropy" and self.loss.temperature is None:
            raise ValueError("loss.temperature: text encoders have no logit scale of their own; give a number")
        if self.loss.name == "siglip" and self.loss.bias is None:
            raise ValueError("loss.bias: text encoders have no logit bias of their own; give a number")
        return self


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

    @model_validator(mode="after")
    def _monitored(self) -> MaskedLmExperiment:
        if self.adapter.method == "prefix":
            raise ValueError("adapter.method: prefix is for encoders that are used, not for pre-training")
        if self.eval.monitor == "nsp_accuracy" and not self.next_sentence:
            raise ValueError("eval.monitor: nsp_accuracy needs next_sentence: true")
        return self
