"""What a model wants of a picture, as its own image processor declares it.

The processor is not used on the way to the model: pictures become squares of bytes once, and are augmented as such. So
what it declares is read into a recipe, and the recipe is held against the processor itself on pictures of two shapes:
whatever it declares that the recipe does not know is refused and not ignored.

Shapes: S side of the model's input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image

from vectoruniverse.data.decoding import PictureRecipe, Resample, fit_picture
from vectoruniverse.data.views import to_input
from vectoruniverse.errors import ConfigError
from vectoruniverse.models.source import told

RESAMPLES: dict[int, Resample] = {
    0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming",
}  # fmt: skip
"""Pillow's numbers of its filters."""

Channels = tuple[float, float, float]

_TOLERANCE = 1e-4
"""Largest difference to the model's own processor, in its units; its arithmetic is in another order."""

_TOLD = ("do_resize", "size", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize", "do_pad")


@dataclass(frozen=True, slots=True)
class PictureInput(PictureRecipe):
    """What a model wants of a picture: a square of S pixels, and its colours about their mean.

    Attributes:
        mean: per channel, of values from 0 to 1; what the processor's scale makes of its own is in it.
        std: as ``mean``.
    """

    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)

    def processor(self, fit: Literal["crop", "squash"] | None = None) -> Any:
        """An image processor of transformers that does the same, or makes pictures square as ``fit`` says."""
        from transformers import CLIPImageProcessorPil

        square = {"height": self.size, "width": self.size}
        crops = (fit or self.fit) == "crop"
        return CLIPImageProcessorPil(
            size={"shortest_edge": self.short_side or self.size} if crops else square,
            crop_size=square,
            do_center_crop=crops,
            image_mean=list(self.mean),
            image_std=list(self.std),
            resample=Image.Resampling[self.resample.upper()].value,
        )


def read_picture_input(name: str, size: int, processor: Any) -> PictureInput:
    """What a model's own image processor does, in our terms.

    Args:
        name: how the user named the model.
        size: S, by the model's configuration.
        processor: the image processor.

    Raises:
        ConfigError: it does something that is not known here, or declares what is no number.
    """
    try:
        declared = _declared(size, processor)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise _refusal(name, f"declares what cannot be followed: {error}") from error
    for picture in _pictures(size):
        with told(name):
            theirs = torch.as_tensor(np.asarray(processor(images=picture, return_tensors="np")["pixel_values"]))
        if theirs.shape != (1, 3, size, size):
            raise _refusal(name, f"makes {tuple(theirs.shape[1:])} of a picture, and the model reads {(3, size, size)}")
        square = torch.from_numpy(np.array(fit_picture(picture, declared))).unsqueeze(0)
        ours = to_input(square, size, torch.tensor(declared.mean), torch.tensor(declared.std))
        unit = min(declared.std)
        if not float((ours - theirs).abs().max()) * unit <= _TOLERANCE:
            raise _refusal(
                name, f"makes something else of a picture than what is known here: it is {_words(processor)}"
            )
    return declared


def _declared(size: int, processor: Any) -> PictureInput:
    """Read the settings of the processors of the CLIP and SigLIP families."""
    factor = float(processor.rescale_factor) if processor.do_rescale else 1.0
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if processor.do_normalize:
        mean, std = _channels(processor.image_mean), _channels(processor.image_std)
    scale = 255.0 * factor  # to_input divides by 255: (f x - m) / s = (x/255 - m/255f) / (s/255f)
    if not (math.isfinite(scale) and scale > 0 and min(std) > 0 and all(map(math.isfinite, (*mean, *std)))):
        raise ValueError(f"rescale_factor {factor}, image_mean {mean}, image_std {std}")
    own = processor.size
    short = own.get("shortest_edge") if hasattr(own, "get") else getattr(own, "shortest_edge", None)
    return PictureInput(
        size,
        "squash" if short is None else "crop",
        RESAMPLES[int(processor.resample)],
        short_side=None if short is None or int(short) == size else _edge(int(short), size),
        mean=cast("Channels", tuple(value / scale for value in mean)),
        std=cast("Channels", tuple(value / scale for value in std)),
    )


def _edge(short: int, size: int) -> int:
    if not size <= short <= 8 * size:
        raise ValueError(f"shortest_edge {short} with an input of {size}")
    return short


def _channels(values: Any) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in (values if isinstance(values, list | tuple) else (values,) * 3))
    if len(numbers) != 3:
        raise ValueError(f"{len(numbers)} numbers for three channels")
    return numbers


def _pictures(size: int) -> list[Image.Image]:
    """Coloured noise, one wider and one higher than long, one larger and one smaller than the input."""
    draw = np.random.default_rng(0)
    shapes = ((size + 9, 2 * size + 5), (size // 2 + 9, size // 2 + 2))
    return [Image.fromarray(draw.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes]


def _words(processor: Any) -> str:
    given = {name: getattr(processor, name, None) for name in _TOLD}
    return f"{type(processor).__name__}({', '.join(f'{k}={v}' for k, v in given.items() if v is not None)})"


def _refusal(name: str, what: str) -> ConfigError:
    return ConfigError(
        f"the image processor of {name!r} {what}",
        key="model",
        remedy="mend its preprocessor_config.json: pictures are resized (to a square, or by the short side and cropped "
        "in the middle), scaled, and normalised",
    )
