"""The tokenizer and the image processor that make the run's model inputs in plain transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vectoruniverse.api import LoadedRun
from vectoruniverse.errors import ConfigError


def save_processor(loaded: LoadedRun, folder: Path) -> None:
    """Write tokenizer and image processor so that ``AutoProcessor.from_pretrained(folder)`` loads them.

    A picture is resized by the run's own recipe. ``fit: pad`` has no image processor in the CLIP family: pictures that
    are square already come out right, others are squashed (the card says so).

    Raises:
        ConfigError: transformers knows no processor for this kind of model.
    """
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    encoder, recipe = loaded.encoder, loaded.recipe
    config: Any = encoder.model.config
    name = PROCESSOR_MAPPING_NAMES.get(config.model_type)
    if name is None:
        raise ConfigError(f"transformers has no processor for {config.model_type}", remedy="export it with --to peft")
    images = encoder.picture.processor("crop" if recipe.fit == "crop" else "squash")
    getattr(transformers, name)(image_processor=images, tokenizer=_tokenizer(loaded)).save_pretrained(folder)


def pads_to_end(loaded: LoadedRun) -> bool:
    """Whether the model reads every text padded to the same length, without a mask, as SigLIP does."""
    ids, _ = loaded.encoder.pad(loaded.encoder.tokenize([""]).ids)
    return ids.shape[1] == loaded.encoder.max_tokens


def _tokenizer(loaded: LoadedRun) -> Any:
    """The model's own, told what the run's code knows: the longest text, and whether there is a mask."""
    tokenizer = loaded.encoder.tokenizer
    tokenizer.model_max_length = tokenizer.init_kwargs["model_max_length"] = loaded.encoder.max_tokens
    if pads_to_end(loaded):
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids"]
    return tokenizer
