from __future__ import annotations

import csv
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from vectoruniverse.data.splits import group_rows, split_rows
from vectoruniverse.errors import DataError

YOUTUBE = Path(__file__).resolve().parents[3] / "shared/data/youtube_metadata.csv"
KEYS = [f"row{number}" for number in range(200)]


def named(indices: np.ndarray, keys: list[str]) -> list[str]:
    return [keys[i] for i in indices]


def test_every_row_is_on_one_side_and_the_share_is_met() -> None:
    split = split_rows(KEYS, groups=KEYS, val_fraction=0.2, seed=42)
    assert len(split.val) == 40
    assert sorted([*split.train, *split.val]) == list(range(200))
    assert named(split.val, KEYS) == sorted(named(split.val, KEYS))


def test_the_order_of_the_rows_changes_nothing_and_the_seed_does() -> None:
    shuffled = random.Random(0).sample(KEYS, len(KEYS))
    first = split_rows(KEYS, groups=KEYS, val_fraction=0.3, seed=1)
    again = split_rows(shuffled, groups=shuffled, val_fraction=0.3, seed=1)
    other = split_rows(KEYS, groups=KEYS, val_fraction=0.3, seed=2)
    assert named(first.train, KEYS) == named(again.train, shuffled)
    assert named(first.val, KEYS) == named(again.val, shuffled)
    assert named(first.val, KEYS) != named(other.val, KEYS)


def test_a_known_division_stays_as_it_is() -> None:
    """Runs of last year must be comparable with runs of today."""
    keys = list("abcdefghij")
    assert named(split_rows(keys, groups=keys, val_fraction=0.3, seed=42).val, keys) == ["b", "h", "j"]


def test_adding_a_row_moves_at_most_one_other() -> None:
    before = set(named(split_rows(KEYS, groups=KEYS, val_fraction=0.2, seed=0).val, KEYS))
    more = [*KEYS, "another"]
    after = set(named(split_rows(more, groups=more, val_fraction=0.2, seed=0).val, more))
    assert len(before ^ after) <= 2


def test_groups_stay_whole_and_a_giant_one_does_not_swallow_validation() -> None:
    groups = ["giant"] * 150 + [f"small{i // 5}" for i in range(50)]
    for seed in range(20):
        split = split_rows(KEYS, groups=groups, val_fraction=0.2, seed=seed)
        assert not {groups[i] for i in split.train} & {groups[i] for i in split.val}
        assert len(split.val) == 40


@pytest.mark.parametrize("val_fraction", [0.001, 0.5, 0.999])
def test_both_sides_get_a_row(val_fraction: float) -> None:
    keys = ["a", "b", "c"]
    for groups in (["x", "x", "y"], ["x", "y", "z"]):
        split = split_rows(keys, groups=groups, val_fraction=val_fraction, seed=0)
        assert len(split.train) >= 1
        assert len(split.val) >= 1


def test_one_group_cannot_be_divided() -> None:
    with pytest.raises(DataError, match="one group"):
        split_rows(["a", "b"], groups=["x", "x"], val_fraction=0.5, seed=0)
    with pytest.raises(DataError, match="the only row belongs to one group"):
        split_rows(["a"], groups=["x"], val_fraction=0.5, seed=0)


def test_rows_of_one_picture_or_of_one_value_share_a_group() -> None:
    pictures = ["p3", "p1", "p1", "p2", "p9"]
    assert group_rows(pictures, None) == [f"picture:{name}" for name in pictures]
    # B and C share picture p1, so their rows form one group; an empty value joins nothing
    assert group_rows(pictures, ["C", "C", "B", "", ""]) == ["column:B"] * 3 + ["picture:p2", "picture:p9"]


def test_groups_are_the_connected_components() -> None:
    """Against label propagation, which is slow and obvious."""
    generator = random.Random(0)
    for _ in range(20):
        pictures = [f"p{generator.randrange(30)}" for _ in range(40)]
        values = [generator.choice(["", *"abcdefghijklmnopqrst"]) for _ in range(40)]
        labels = [
            min(f"picture:{p}", f"column:{v}" if v else f"picture:{p}") for p, v in zip(pictures, values, strict=True)
        ]
        for _ in range(40):
            for i in range(40):
                same = [j for j in range(40) if pictures[i] == pictures[j] or (values[i] and values[i] == values[j])]
                smallest = min(labels[j] for j in same)
                for j in same:
                    labels[j] = smallest
        assert group_rows(pictures, values) == labels


def test_long_chains_are_followed_to_the_end() -> None:
    count = 20_000
    pictures = [f"{(i + 1) // 2:06}" for i in range(count)]
    values = [f"{i // 2:06}" for i in range(count)]
    assert all(a == b or c == d for (a, b), (c, d) in zip(pairwise(pictures), pairwise(values), strict=True))
    assert set(group_rows(pictures, values)) == {"column:000000"}


def test_channels_of_the_real_youtube_rows_never_straddle() -> None:
    if not YOUTUBE.is_file():
        pytest.skip("the YouTube rows are not beside the checkout")
    with YOUTUBE.open(encoding="utf-8", newline="") as stream:
        rows = list({row["Id"]: row for row in csv.DictReader(stream)}.values())
    keys = [row["Id"] for row in rows]
    channels = [row["Channel"] for row in rows]
    split = split_rows(keys, groups=group_rows(keys, channels), val_fraction=0.2, seed=42)
    assert not {channels[i] for i in split.train} & {channels[i] for i in split.val}
    assert abs(len(split.val) / len(rows) - 0.2) < 0.005
