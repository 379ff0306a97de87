"""The experiment file of task ``text_pairs``: texts that belong together."""

from __future__ import annotations

from pydantic import Field, model_validator

from vectoruniverse.config.losses import InfoNceConfig, LossConfig
from vectoruniverse.config.sections import ContrastiveTrainConfig, RetrievalEvalConfig
from vectoruniverse.tasks.text_settings import EncoderConfig, PairsData, TextExperiment


class TextPairsExperiment(TextExperiment):
    """Encoders compared on pairs of texts, and contrastive fine-tuning on them."""

    data: PairsData = Field(description="Pairs of texts.")
    beside: list[EncoderConfig] = Field(
        default_factory=list, description="Further encoders, evaluated beside `model` by vu eval."
    )
    loss: LossConfig = Field(
        default_factory=lambda: InfoNceConfig(name="info_nce", temperature=0.05), description="What is minimised."
    )
    train: ContrastiveTrainConfig = Field(default_factory=ContrastiveTrainConfig, description="The loop.")
    eval: RetrievalEvalConfig = Field(default_factory=RetrievalEvalConfig, description="Evaluation.")

    @model_validator(mode="after")
    def _has_temperature(self) -> TextPairsExperiment:
        if self.loss.name != "alignment_anisotropy" and self.loss.temperature is None:
            raise ValueError("loss.temperature: text encoders have no logit scale of their own; give a number")
        if self.loss.name == "siglip" and self.loss.bias is None:
            raise ValueError("loss.bias: text encoders have no logit bias of their own; give a number")
        return self

    @model_validator(mode="after")
    def _has_no_labels(self) -> TextPairsExperiment:
        for key in ("labels", "groups"):
            if getattr(self.loss.negatives, key) != "off":
                raise ValueError(f"loss.negatives.{key}: pairs of texts have no {key}; set it to off")
        if self.loss.label_kl is not None:
            raise ValueError("loss.label_kl: pairs of texts have no labels; remove it")
        return self
