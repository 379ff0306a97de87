"""What the experiment files of the text tasks share: the model, the table of texts and its division, the adapter."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from vectoruniverse.config.sections import AdapterSettings, Block, Division, Encoding, Experiment, Name, Section, Share
from vectoruniverse.models.sizes import Pooling, ScratchBert


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
        0.15,
        ge=0.0,
        lt=1.0,
        description="Share of the rows held out for validation, which picks the epoch; 0 holds none out and evaluates "
        "on the training rows.",
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

    @model_validator(mode="before")
    @classmethod
    def _nothing_held_out(cls, given: Any) -> Any:
        """Without validation rows there is no test either, unless it is asked for, which is refused."""
        drawn = isinstance(given, dict) and given.get("column") is None and given.get("folds") is None
        return {"test_fraction": 0.0, **given} if drawn and given.get("val_fraction") == 0 else given

    @model_validator(mode="after")
    def _drawn(self) -> TextSplitConfig:
        drawn = self.column is None and self.val_fraction > 0.0
        if self.val_fraction == 0.0 and self.test_fraction > 0.0 and self.column is None:
            or_none = "test_fraction: needs validation rows, which pick the epoch; give a val_fraction, or 0"
            raise ValueError(or_none if self.folds is None else "folds: need validation rows; give a val_fraction")
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
    split: TextSplitConfig = Field(default_factory=TextSplitConfig, description="Training, validation and test rows.")
    max_bad_share: Share = Field(0.01, description="Stop when more than this share of the rows cannot be used.")


class PairsData(TextData):
    """A table of text pairs."""

    first: str = Field("first", description="Column of the first text.")
    second: str = Field("second", description="Column of the second text.")


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
