"""Augmented views of uint8 pictures, made on the device; every draw is a pure function of seed, epoch, row and view.

Shapes: B batch, S side of the stored picture, H side of the model's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vectoruniverse.data.transfer import send

_DRAWS = 8
"""Random numbers of one view: area, ratio, x, y, flip, brightness, contrast, saturation."""

_POOL = 2
"""Ends the seed that chooses among fixed views, which is no view's and no text's then."""

_GREY = (0.299, 0.587, 0.114)
"""Luma of Rec. 601, the weights of Pillow's conversion to grey."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Ranges of the random changes; every factor is drawn uniformly.

    Attributes:
        crop_scale: range of the cropped share of the area.
        crop_ratio: range of the crop's width / height, drawn uniformly in the logarithm.
        brightness, contrast, saturation: factor from ``1 − x`` to ``1 + x``.
        flip: mirror with probability 1/2.
    """

    crop_scale: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    flip: bool = False

    @property
    def is_random(self) -> bool:
        """False when every view equals the stored picture, so that one view does for all."""
        return self != Augmentation()


def draw(
    seed: int, epoch: int, rows: Sequence[int], view: int | NDArray[np.int64], patches: int = 0
) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) for one view of each row, (B, 8 + patches) float64: for ``augment``, then by patch.

    ``rows`` are stable 64-bit keys of the rows and not positions: a row gets the same view wherever it stands in the
    batch, in the file, or on which machine it is. ``view`` is one for all, or one for each.
    """
    views = np.broadcast_to(view, len(rows)).tolist()
    seeds = [(seed, epoch, row, own) for row, own in zip(rows, views, strict=True)]
    return np.stack([np.random.default_rng(one).random(_DRAWS + patches) for one in seeds])


def pooled(seed: int, epoch: int, rows: Sequence[int], views: int, pool: int) -> NDArray[np.int64]:
    """Which of ``pool`` fixed views each row shows in this epoch, other ones in each of its ``views``: (views, B)."""
    seeds = [(seed, epoch, row, 0, _POOL) for row in rows]
    return np.stack([np.random.default_rng(one).permutation(pool)[:views] for one in seeds], axis=1)


def kept_patches(draws: np.ndarray, count: int) -> np.ndarray:
    """Which patches a view keeps, every set as likely as any other: draws (B, 8 + P) → (B, count) ascending."""
    return np.sort(np.argsort(draws[:, _DRAWS:], axis=1)[:, :count], axis=1)


def to_input(pictures: Tensor, size: int, mean: Tensor, std: Tensor) -> Tensor:
    """The unaugmented view: uint8 (B, S, S, 3) → normalised float32 (B, 3, size, size)."""
    x = pictures.permute(0, 3, 1, 2).float().div_(255.0)
    if x.shape[-1] != size:
        x = F.interpolate(x, (size, size), mode="bicubic", antialias=True).clamp_(0.0, 1.0)
    return _normalise(x, mean, std)


def augment(pictures: Tensor, draws: np.ndarray, how: Augmentation, size: int, mean: Tensor, std: Tensor) -> Tensor:
    """One augmented view: uint8 (B, S, S, 3) and draws (B, ≥ 8) → normalised float32 (B, 3, size, size)."""
    u = torch.from_numpy(draws[:, :_DRAWS]).float()
    x = pictures.permute(0, 3, 1, 2).float().div_(255.0)
    x = _resized_crop(x, send(u[:, :5], x.device), how, size)
    x = _colour_jitter(x, u[:, 5:], how)
    return _normalise(x, mean, std)


def _resized_crop(x: Tensor, u: Tensor, how: Augmentation, size: int) -> Tensor:
    """Sample a box of random area, ratio and place, bilinearly; (B, 3, S, S) → (B, 3, size, size)."""
    low, high = how.crop_scale
    area = low + (high - low) * u[:, 0]
    log_low, log_high = np.log(how.crop_ratio[0]), np.log(how.crop_ratio[1])
    ratio = torch.exp(log_low + (log_high - log_low) * u[:, 1])
    # in units of the picture's side; a box wider than the picture is cut to it
    width = (area * ratio).sqrt().clamp(max=1.0)
    height = (area / ratio).sqrt().clamp(max=1.0)
    mirror = 1.0 - 2.0 * (u[:, 4] < 0.5).float() if how.flip else torch.ones_like(width)
    theta = x.new_zeros(len(x), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width * mirror, height
    theta[:, 0, 2] = (1.0 - width) * (2.0 * u[:, 2] - 1.0)
    theta[:, 1, 2] = (1.0 - height) * (2.0 * u[:, 3] - 1.0)
    grid = F.affine_grid(theta, [len(x), 3, size, size], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _colour_jitter(x: Tensor, u: Tensor, how: Augmentation) -> Tensor:
    """Brightness, contrast and saturation, in this order, each a blend as in Pillow's ImageEnhance; u of the CPU."""
    factor = 1.0 + torch.tensor([how.brightness, how.contrast, how.saturation]) * (2.0 * u - 1.0)
    brightness, contrast, saturation = send(factor, x.device).view(-1, 3, 1, 1, 1).unbind(1)
    luma = send(torch.tensor(_GREY), x.device).view(1, 3, 1, 1)
    if how.brightness:
        x = (x * brightness).clamp(0.0, 1.0)
    if how.contrast:
        grey = (x * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
        x = torch.lerp(grey.expand_as(x), x, contrast.expand_as(x)).clamp(0.0, 1.0)
    if how.saturation:
        grey = (x * luma).sum(1, keepdim=True)
        x = torch.lerp(grey.expand_as(x), x, saturation.expand_as(x)).clamp(0.0, 1.0)
    return x


def _normalise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
