"""Nearly the same pictures: equal but for size, compression or a light touch.

Two pictures are near when their perceptual hashes (64 bits, ``imagehash.phash``) differ in at most ``distance`` bits
and their colours, averaged over 8 x 8 fields, differ by at most ``MAX_COLOUR_DIFFERENCE`` of 255 (root mean square).
The hash sees shapes in grey, so alone it takes a red disc for a blue one.

Both limits were chosen on the 3,904 built-in pictograms, whose variants (skin tones, genders) are as alike as different
pictures get. By the hash alone, 6 bits put 2,541 of them into groups of up to 154; with the colours it is 743 in 322
groups of at most 8. Most of 20 groups looked at differ in a stroke or a shade, a few in tone or in a smile's eyes.
Of copies made of 200 of them, so many are found (6 bits; in brackets 4 and 10):

    resized x 2, x 0.75 or x 0.5, PNG     99 % (98, 99)    same size, JPEG quality 75     98 % (97, 99)
    resized x 2, JPEG quality 30          99 % (96, 99)    same size, JPEG quality 50     95 % (93, 98)
    resized x 0.75, JPEG quality 75       96 % (94, 98)    x 0.5 (48 pixels), quality 75  84 % (80, 85)

Every pair is compared, in blocks (XOR and a bit count), so the answer is exact for any distance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vectoruniverse.data.splits import unite

DEFAULT_DISTANCE = 6
MAX_COLOUR_DIFFERENCE = 4.0

_FIELDS = 8  # colours are averaged over so many fields a side
_BLOCK = 1024  # 1024 x 1024 pairs take 8 MB
_CONFIRMED_AT_ONCE = 16384  # pairs whose colours are compared at once: 12 MB


class Looks(NamedTuple):
    """What is compared of N pictures.

    Attributes:
        hashes: perceptual hashes, uint64 (N,).
        colours: mean colours of 8 x 8 fields, float32 (N, 192), from 0 to 255.
    """

    hashes: NDArray[np.uint64]
    colours: NDArray[np.float32]


def looks(squares: NDArray[np.uint8]) -> Looks:
    """Hashes and colours of decoded pictures: RGB bytes (B, S, S, 3)."""
    images = [Image.fromarray(square) for square in squares]
    bits = np.array([imagehash.phash(image).hash.ravel() for image in images], bool).reshape(-1, 64)
    fields = [np.asarray(image.resize((_FIELDS, _FIELDS), Image.Resampling.BOX)) for image in images]
    return Looks(
        np.packbits(bits, axis=1).view(np.uint64).ravel(),
        np.array(fields, np.float32).reshape(-1, _FIELDS * _FIELDS * 3),
    )


def near_groups(
    pictures: Looks, *, distance: int = DEFAULT_DISTANCE, on_progress: Callable[[int, int], None] | None = None
) -> list[list[int]]:
    """Groups of near pictures; a near of a near belongs to the group too. O(N²) bit operations, O(N) memory.

    Args:
        pictures: what ``looks`` gives.
        distance: largest number of bits in which near hashes differ.
        on_progress: called with (pictures compared with all, pictures in all).

    Returns:
        Positions of each group of at least two, ascending; groups in the order of their first member.
    """
    count = len(pictures.hashes)
    group = np.arange(count)  # smallest position known to be in the same group
    for top in range(0, count, _BLOCK):
        for left in range(top, count, _BLOCK):
            unite(group, *_near_pairs(pictures, group, top, left, distance))
        if on_progress:
            on_progress(min(top + _BLOCK, count), count)
    members: dict[int, list[int]] = {}
    for position, first in enumerate(group.tolist()):
        members.setdefault(first, []).append(position)
    return [found for found in members.values() if len(found) > 1]


def _near_pairs(
    pictures: Looks, group: NDArray[np.intp], top: int, left: int, distance: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Near pairs of one block that are not known to be in one group."""
    hashes, colours = pictures
    differing = np.bitwise_count(hashes[top : top + _BLOCK, None] ^ hashes[None, left : left + _BLOCK])
    # on a flat array this takes 1.2 ms, on a square one 4.3
    flat = np.flatnonzero((differing <= distance).ravel())
    a, b = top + flat // differing.shape[1], left + flat % differing.shape[1]
    fresh = (a < b) & (group[a] != group[b])
    a, b = a[fresh], b[fresh]
    near = np.zeros(len(a), bool)
    for start in range(0, len(a), _CONFIRMED_AT_ONCE):
        part = slice(start, start + _CONFIRMED_AT_ONCE)
        squares = np.square(colours[a[part]] - colours[b[part]])
        near[part] = squares.mean(axis=1) <= MAX_COLOUR_DIFFERENCE**2
    return a[near], b[near]
