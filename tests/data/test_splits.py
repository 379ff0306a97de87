from __future__ import annotations

import csv
import hashlib
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from vectoruniverse.data.splits import Split, group_rows, split_rows
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


def three_parts(keys: list[str], groups: list[str], val: float, test: float, seed: int) -> list[list[str]]:
    """The slow obvious way: test groups in an order of their own, then validation groups from the rest."""
    parts: dict[str, list[str]] = {"train": list(dict.fromkeys(groups)), "val": [], "test": []}
    for part, share, salt, leave in (("test", test, f"{seed}|test", 2), ("val", val, f"{seed}", 1)):
        wanted = share * len(keys)
        for group in sorted(parts["train"], key=lambda one: hashlib.sha256(f"{salt}|{one}".encode()).hexdigest()):
            have = sum(groups.count(one) for one in parts[part])
            nearer = abs(have + groups.count(group) - wanted) < abs(have - wanted)
            if nearer and len(parts["train"]) > leave:
                parts["train"].remove(group)
                parts[part].append(group)
    return [sorted(key for key, group in zip(keys, groups, strict=True) if group in parts[part]) for part in parts]


def test_three_parts_hold_groups_whole_have_their_shares_and_do_not_depend_on_the_order() -> None:
    generator = random.Random(0)
    for seed in range(8):
        groups = [f"g{generator.randrange(40)}" for _ in KEYS]
        split = split_rows(KEYS, groups=groups, val_fraction=0.15, test_fraction=0.2, seed=seed)
        found = [named(part, KEYS) for part in split]
        assert [sorted(part) for part in found] == three_parts(KEYS, groups, 0.15, 0.2, seed)
        assert sorted(key for part in found for key in part) == sorted(KEYS)
        of_part = [{groups[i] for i in part} for part in split]
        assert not (of_part[0] & of_part[1] or of_part[0] & of_part[2] or of_part[1] & of_part[2])
        assert abs(len(split.val) - 30) <= 5
        assert abs(len(split.test) - 40) <= 5
        order = generator.sample(range(len(KEYS)), len(KEYS))
        keys, moved = [KEYS[i] for i in order], [groups[i] for i in order]
        again = split_rows(keys, groups=moved, val_fraction=0.15, test_fraction=0.2, seed=seed)
        assert [named(part, keys) for part in again] == found


def test_without_a_test_part_division_and_fingerprint_are_as_they_were_before_there_was_one() -> None:
    split = split_rows(KEYS, groups=KEYS, val_fraction=0.2, seed=3)
    assert (split.reported, len(split.test)) == ("val", 0)
    told = [(side, i) for side, part in (("train", split.train), ("val", split.val)) for i in part]
    assert (
        split.fingerprint("{}{};".format) == hashlib.sha256("".join(f"{s}{i};" for s, i in told).encode()).hexdigest()
    )
    three = split_rows(KEYS, groups=KEYS, val_fraction=0.2, test_fraction=0.2, seed=3)
    assert three.reported == "test" and three.fingerprint("{}{};".format) != split.fingerprint("{}{};".format)


def test_three_parts_need_three_groups() -> None:
    shares = {"val_fraction": 0.3, "test_fraction": 0.3, "seed": 0}
    assert [len(part) for part in split_rows(["a", "b", "c"], groups=["x", "y", "z"], **shares)] == [1, 1, 1]
    with pytest.raises(DataError, match="all 3 rows belong to two groups, so they cannot be divided into training, v"):
        split_rows(["a", "b", "c"], groups=["x", "y", "y"], **shares)


def folds_of(keys: list[str], groups: list[str], folds: int, seed: int) -> list[list[str]]:
    """The slow obvious way: largest groups first, each into the fold with the fewest rows."""
    of_fold: list[list[str]] = [[] for _ in range(folds)]
    digest = {group: hashlib.sha256(f"{seed}|fold|{group}".encode()).hexdigest() for group in groups}
    for group in sorted({*groups}, key=lambda one: (-groups.count(one), digest[one])):
        fewest = min(of_fold, key=len)  # the first of equals
        fewest += [key for key, of in zip(keys, groups, strict=True) if of == group]
    return [sorted(fold) for fold in of_fold]


def test_every_row_is_a_test_row_in_exactly_one_fold_and_groups_stay_whole_in_any_order_of_rows() -> None:
    generator = random.Random(1)
    for seed, folds in enumerate((2, 3, 5, 10)):
        groups = [f"g{int(generator.random() ** 1.5 * 80)}" for _ in KEYS]  # of 1 to 15 rows
        shares = {"val_fraction": 0.15, "seed": seed, "folds": folds}
        splits = [split_rows(KEYS, groups=groups, **shares, fold=fold) for fold in range(folds)]
        assert [named(split.test, KEYS) for split in splits] == folds_of(KEYS, groups, folds, seed)
        assert sorted(i for split in splits for i in split.test) == list(range(len(KEYS)))
        order = generator.sample(range(len(KEYS)), len(KEYS))
        keys, moved = [KEYS[i] for i in order], [groups[i] for i in order]
        for fold, split in enumerate(splits):
            assert sorted(i for part in split for i in part) == list(range(len(KEYS)))
            of_part = [{groups[i] for i in part} for part in split]
            assert not (of_part[0] & of_part[1] or of_part[0] & of_part[2] or of_part[1] & of_part[2])
            assert abs(len(split.test) - len(KEYS) / folds) <= 3
            assert abs(len(split.val) - 30) <= 5
            again = split_rows(keys, groups=moved, **shares, fold=fold)
            assert [named(part, keys) for part in again] == [named(part, KEYS) for part in split]
        other = split_rows(KEYS, groups=groups, **{**shares, "seed": seed + 100})
        assert named(other.test, KEYS) != named(splits[0].test, KEYS)


def test_rows_that_are_alone_make_folds_of_one_size() -> None:
    sizes = [len(split_rows(KEYS, groups=KEYS, val_fraction=0.1, seed=0, folds=7, fold=i).test) for i in range(7)]
    assert sizes == [29, 29, 29, 29, 28, 28, 28]


def test_folds_of_few_groups_or_of_one_that_is_most_rows_are_refused_in_every_fold() -> None:
    def divide(groups: str, folds: int, fold: int) -> Split:
        keys = [f"{i}" for i in range(len(groups))]
        return split_rows(keys, groups=list(groups), val_fraction=0.2, seed=0, folds=folds, fold=fold)

    for fold in range(2):
        with pytest.raises(DataError, match="3 groups cannot be divided into 2 folds with training and validation"):
            divide("abc", 2, fold)
        assert [len(part) for part in divide("abcd", 2, fold)] == [1, 1, 2]
    assert [len(part) for part in divide("abc", 3, 2)] == [1, 1, 1]
    with pytest.raises(DataError, match="3 groups cannot be divided into 4 folds") as caught:
        divide("abcabc", 4, 1)
    assert (caught.value.key, "Ask for fewer folds" in str(caught.value.remedy)) == ("data.split.folds", True)
    with pytest.raises(DataError, match="one group has 20 of 28 rows, so 4 folds cannot be of one size"):
        divide("a" * 20 + "bcdefghi", 4, 3)


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


def youtube() -> list[dict[str, str]]:
    if not YOUTUBE.is_file():
        pytest.skip("the YouTube rows are not beside the checkout")
    with YOUTUBE.open(encoding="utf-8", newline="") as stream:
        return list({row["Id"]: row for row in csv.DictReader(stream)}.values())


def test_channels_of_the_real_youtube_rows_never_straddle() -> None:
    rows = youtube()
    keys = [row["Id"] for row in rows]
    channels = [row["Channel"] for row in rows]
    split = split_rows(keys, groups=group_rows(keys, channels), val_fraction=0.2, seed=42)
    assert not {channels[i] for i in split.train} & {channels[i] for i in split.val}
    assert abs(len(split.val) / len(rows) - 0.2) < 0.005


@pytest.mark.parametrize("folds", [5, 10])
def test_every_channel_of_the_real_youtube_rows_is_a_test_channel_once(folds: int) -> None:
    rows = youtube()
    keys, channels = [row["Id"] for row in rows], [row["Channel"] for row in rows]
    groups = group_rows(keys, channels)
    tested: list[str] = []
    for fold in range(folds):
        split = split_rows(keys, groups=groups, val_fraction=0.15, seed=42, folds=folds, fold=fold)
        assert abs(len(split.test) / len(rows) - 1 / folds) < 0.003
        assert abs(len(split.val) / len(rows) - 0.15) < 0.005
        of_part = [{channels[i] for i in part} for part in split]
        assert not (of_part[0] & of_part[1] or of_part[0] & of_part[2] or of_part[1] & of_part[2])
        tested += of_part[2]
    assert sorted(tested) == sorted({*channels})
