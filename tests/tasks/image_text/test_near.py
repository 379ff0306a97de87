"""Near pictures: exactly the pairs that a slow loop with the library's own distance finds."""

from __future__ import annotations

import imagehash
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vectoruniverse.tasks.image_text.audit import near
from vectoruniverse.tasks.image_text.audit.near import Looks, looks, near_groups


def squares(count: int, seed: int = 0) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return np.array([np.asarray(Image.fromarray(one).resize((40, 40), Image.Resampling.BICUBIC)) for one in coarse])


def slow_groups(pictures: Looks, distance: int) -> list[list[int]]:
    """Breadth-first search over all pairs, bit by bit."""
    count, groups, left = len(pictures.hashes), [], set(range(len(pictures.hashes)))

    def alike(a: int, b: int) -> bool:
        bits = bin(int(pictures.hashes[a]) ^ int(pictures.hashes[b])).count("1")
        apart = np.sqrt(np.mean((pictures.colours[a].astype(float) - pictures.colours[b]) ** 2))
        return bits <= distance and bool(apart <= near.MAX_COLOUR_DIFFERENCE)

    for start in range(count):
        if start not in left:
            continue
        left.discard(start)
        group = [start]
        for member in group:
            group += (reached := [other for other in sorted(left) if alike(member, other)])
            left -= set(reached)
        groups.append(sorted(group))
    return [group for group in groups if len(group) > 1]


def clustered(g: np.random.Generator, count: int) -> Looks:
    """Hashes a few bits apart in clusters, with colours that sometimes differ: chains, misses and hits."""
    hashes = g.integers(0, 2**64, 6, np.uint64)[g.integers(0, 6, count)]
    for _ in range(4):
        hashes ^= np.where(g.random(count) < 0.4, np.uint64(1) << g.integers(0, 64, count).astype(np.uint64), 0)
    return Looks(hashes, (g.integers(0, 4, (count, 1)) * 2.0 + np.zeros((count, 192))).astype(np.float32))


def test_the_hash_is_the_librarys_and_its_bits_count_alike() -> None:
    some = squares(6)
    seen = looks(some)
    hashes = [imagehash.phash(Image.fromarray(square)) for square in some]
    for a, b in [(0, 1), (2, 5), (3, 3)]:
        assert int(np.bitwise_count(seen.hashes[a] ^ seen.hashes[b])) == hashes[a] - hashes[b]


def test_colours_are_means_of_fields() -> None:
    (square,) = squares(1)
    means = square.reshape(8, 5, 8, 5, 3).mean(axis=(1, 3)).ravel()
    assert np.abs(looks(square[None]).colours[0] - means).max() <= 1.0  # Pillow rounds to whole levels twice


@pytest.mark.parametrize("distance", [0, 2, 6])
@pytest.mark.parametrize("block", [1, 7, 1024])
def test_groups_are_exactly_those_of_a_slow_search(monkeypatch: pytest.MonkeyPatch, distance: int, block: int) -> None:
    monkeypatch.setattr(near, "_BLOCK", block)
    monkeypatch.setattr(near, "_CONFIRMED_AT_ONCE", 13)
    pictures = clustered(np.random.default_rng(distance), 60)
    expected = slow_groups(pictures, distance)
    assert expected
    assert near_groups(pictures, distance=distance) == expected


def test_a_chain_is_one_group_though_its_ends_are_far_apart() -> None:
    hashes = np.array([2 ** (4 * n) - 1 for n in range(8)], np.uint64)[::-1].copy()
    assert near_groups(Looks(hashes, np.zeros((8, 192), np.float32)), distance=4) == [list(range(8))]
    assert near_groups(Looks(hashes, np.zeros((8, 192), np.float32)), distance=3) == []


def test_no_pictures_no_groups() -> None:
    assert near_groups(Looks(np.empty(0, np.uint64), np.empty((0, 192), np.float32))) == []
