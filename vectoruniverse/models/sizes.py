"""Sections of an experiment file that say what a model is like; without torch, which reading a file does without."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, model_validator

from vectoruniverse.config.sections import Section

Pooling = Literal["mean", "cls", "pooler"]
"""How token vectors become one: their mean, the first token's, or what the model's own pooler makes of the first."""

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


class ScratchClip(Section):
    """A CLIP with random weights and a byte-pair tokenizer trained on the training texts."""

    scratch: Literal["clip"] = Field(description="Architecture to build with random weights.")
    image_size: int = Field(64, ge=16, le=1024, description="Side of the square input picture, pixels.")
    patch_size: int = Field(8, ge=1, le=1024, description="Side of a patch, pixels; must divide image_size.")
    width: int = Field(192, ge=16, le=16_384, description="Hidden width of both towers.")
    heads: int = Field(3, ge=1, le=1_024, description="Attention heads; must divide width.")
    vision_layers: int = Field(4, ge=1, le=256, description="Layers of the image tower.")
    text_layers: int = Field(3, ge=1, le=256, description="Layers of the text tower.")
    projection_dim: int = Field(128, ge=1, le=16_384, description="Width of the shared embedding.")
    vocab_size: int = Field(
        2048, ge=520, le=1_000_000, description="Size of the byte-pair vocabulary (512 bytes, merges, 2 marks)."
    )
    max_text_tokens: int = Field(32, ge=4, le=8_192, description="Longest text in tokens, marks included.")

    @model_validator(mode="after")
    def _divides(self) -> ScratchClip:
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        return self


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
