"""The experiment file: contrastive losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from vectoruniverse.config.sections import LabelTemplate, Positive, Section, Share

PairKind = Literal["II", "TT", "I+I+", "T+T+", "IT", "I+T", "IT+", "I+T+", "II+", "TT+"]


def _refuse_self_pairs(key: str, pairs: Sequence[str]) -> None:
    for pair in pairs:
        if pair in ("II", "TT", "I+I+", "T+T+"):
            raise ValueError(f"{key}: {pair} pairs a vector with itself; its cosine is always 1")


class NegativesConfig(Section):
    """Which rows of a batch are pushed apart; rows of the same picture or text never are."""

    labels: Literal["off", "mask", "soft", "positive"] = Field(
        "off",
        description="Rows that share a label: `off`: are pushed apart like others; `mask`: are not; `soft`: are as far "
        "as their labels differ (Jaccard), and drawn together as far as they agree; `positive`: are drawn together.",
    )
    groups: Literal["off", "mask"] = Field(
        "off",
        description="Rows with the same value of `data.split.group_by`: `off`: are pushed apart like others; `mask`: "
        "say nothing about each other.",
    )
    max_masked: Share = Field(
        0.9,
        description="Refuse to train where more than this share of the pairs of training rows are not pushed apart.",
    )


class LabelKlConfig(Section):
    """Picture and text of a row, fused by a learned layer, beside the texts of its labels: KL divergence."""

    weight: Positive = Field(1.0, description="Factor on the divergence in the loss.")
    fusion: Literal["concat_mlp", "gated_sum", "cross_attention"] = Field(
        "concat_mlp", description="What makes one vector of a picture's and a text's: the learned f of the note."
    )
    kernel: Literal["dot", "rbf"] = Field(
        "dot",
        description="Likeness k of the fused vector x and a label's y: `dot`: x·y; `rbf`: exp(-‖x - y‖² / 2σ²).",
    )
    bandwidth: Positive | None = Field(None, description="σ of the rbf kernel (rbf); null: 1.")
    temperature: Positive = Field(0.05, description="Divides the kernel before the softmax over the labels.")
    direction: Literal["forward", "reverse"] = Field(
        "forward",
        description="`forward`: KL(q‖p) of the row's own labels q from the model's p; `reverse`: KL(p‖q), which needs "
        "smoothing.",
    )
    smoothing: float = Field(
        0.0, ge=0.0, lt=1.0, description="Share of q that is spread over all labels; the rest is on the row's own."
    )
    template: LabelTemplate = Field("{label}", description="Text of a label.")
    max_labels: int = Field(
        64,
        ge=2,
        le=1_000_000,
        description="Up to so many labels, all are compared at each step; of more, those of the batch's rows.",
    )

    @model_validator(mode="after")
    def _meaningful(self) -> LabelKlConfig:
        if self.bandwidth is not None and self.kernel != "rbf":
            raise ValueError(f"bandwidth: kernel {self.kernel} has none; remove it")
        if self.direction == "reverse" and self.smoothing == 0.0:
            raise ValueError("smoothing: KL(p‖q) is infinite where q is 0; give reverse a smoothing, such as 0.1")
        return self


NEGATIVES = Field(default_factory=NegativesConfig, description="Which other rows of a batch a row is pushed away from.")

LABEL_KL = Field(None, description="Added to the loss: how far a row, picture and text in one, is from its labels.")


class AlignmentAnisotropyConfig(Section):
    """Alignment + anisotropy in the manner of SimCSE (arXiv:2104.08821), over two views of pictures and texts."""

    name: Literal["alignment_anisotropy"] = Field(description="Which loss.")
    form: Literal["log_sum_exp", "linear"] = Field(
        "log_sum_exp",
        description="`log_sum_exp`: the formula; `linear`: the note's code, which can collapse (see README).",
    )
    temperature: Positive = Field(0.05, description="Divides every cosine (only the alignment in the linear form).")
    alignment_pairs: list[PairKind] = Field(
        default=["II+", "IT", "I+T+", "TT+"], min_length=1, description="Pairs of the same row that are drawn together."
    )
    anisotropy_pairs: list[PairKind] | None = Field(
        None,
        min_length=1,
        description="Pairs of different rows that are pushed apart; null: II, T+T+, IT, I+T+ (linear) "
        "or IT, I+T+, II+, TT+ (log_sum_exp).",
    )
    alignment_weight: Positive = Field(1.0, description="Weight of the alignment part.")
    anisotropy_weight: float = Field(1.0, ge=0.0, le=1e6, description="Weight of the anisotropy part.")
    symmetric: bool = Field(False, description="Average the log-sum over rows and over columns (log_sum_exp).")
    negatives: NegativesConfig = NEGATIVES
    label_kl: LabelKlConfig | None = LABEL_KL

    @model_validator(mode="after")
    def _meaningful(self) -> AlignmentAnisotropyConfig:
        if self.form == "linear" and self.symmetric:
            raise ValueError("symmetric changes nothing in the linear form, whose sum is the same both ways; remove it")
        if self.negatives.labels == "positive":
            raise ValueError(
                "negatives.labels: positive is for info_nce and siglip; the alignment draws only views of one row "
                "together, so that mask does the same here"
            )
        _refuse_self_pairs("alignment_pairs", self.alignment_pairs)
        return self


LOGIT_TEMPERATURE = Field(
    None,
    description="Divides the cosine; null takes the model's logit scale. Where adapter.train_logit_scale trains it, it "
    "starts here.",
)


class InfoNceConfig(Section):
    """Symmetric InfoNCE, the loss of CLIP (arXiv:2103.00020)."""

    name: Literal["info_nce"] = Field(description="Which loss.")
    temperature: Positive | None = LOGIT_TEMPERATURE
    pairs: list[PairKind] = Field(default=["IT"], min_length=1, description="Kinds of pairs; the losses are averaged.")
    negatives: NegativesConfig = NEGATIVES
    label_kl: LabelKlConfig | None = LABEL_KL

    @model_validator(mode="after")
    def _meaningful(self) -> InfoNceConfig:
        _refuse_self_pairs("pairs", self.pairs)
        return self


class SiglipConfig(Section):
    """Pairwise sigmoid loss, the loss of SigLIP (arXiv:2303.15343)."""

    name: Literal["siglip"] = Field(description="Which loss.")
    temperature: Positive | None = LOGIT_TEMPERATURE
    bias: float | None = Field(
        None,
        ge=-1e6,
        le=1e6,
        description="Added to the logits; null takes the model's logit bias. Where adapter.train_logit_scale trains "
        "it, it starts here, at -10 where the model has none.",
    )
    negatives: NegativesConfig = NEGATIVES
    label_kl: LabelKlConfig | None = LABEL_KL


class NoContrastConfig(Section):
    """No contrastive loss: the labels alone."""

    name: Literal["none"] = Field(description="Which loss.")
    label_kl: LabelKlConfig = Field(
        default_factory=LabelKlConfig, description="How far a row, picture and text in one, is from its labels."
    )

    @property
    def negatives(self) -> NegativesConfig:
        """Of no account, and none too many, where nothing is pushed apart."""
        return NegativesConfig(max_masked=1.0)


LossConfig = Annotated[AlignmentAnisotropyConfig | InfoNceConfig | SiglipConfig, Field(discriminator="name")]

LabelledLoss = AlignmentAnisotropyConfig | InfoNceConfig | SiglipConfig | NoContrastConfig
"""Of rows that may have labels."""

LabelledLossConfig = Annotated[LabelledLoss, Field(discriminator="name")]


def logit_start(loss: object) -> dict[str, float | None]:
    """Temperature and bias at which trained logit scalars start; None: where the model has them."""
    temperature = loss.temperature if isinstance(loss, InfoNceConfig | SiglipConfig) else None
    return {"temperature": temperature, "bias": loss.bias if isinstance(loss, SiglipConfig) else None}


def positive_pairs(loss: object) -> list[str]:
    """The kinds of pairs whose two views of the same row a loss draws together; none where it names no kinds."""
    if isinstance(loss, AlignmentAnisotropyConfig):
        return list(loss.alignment_pairs)
    return list(loss.pairs) if isinstance(loss, InfoNceConfig) else []


def loss_pairs(loss: object) -> list[str]:
    """The kinds of pairs that a loss uses."""
    if isinstance(loss, AlignmentAnisotropyConfig):
        # null stands for pairs of which I+T+ is one, in both forms
        return [*positive_pairs(loss), *(loss.anisotropy_pairs or ["I+T+"])]
    return positive_pairs(loss)


def loss_words(loss: LabelledLoss) -> str:
    """A loss and what is added to it, by name."""
    added = loss.label_kl
    if added is None:
        return loss.name
    divergence = f"label_kl ({added.fusion}, {added.kernel}, {added.direction})"
    return divergence if loss.name == "none" else f"{loss.name} + {added.weight:g} x {divergence}"
