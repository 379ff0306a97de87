"""The store of decoded pictures: nothing is lost or mixed up when it is killed, shared, damaged or full."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vectoruniverse.data import thumbnails
from vectoruniverse.data.decoding import PictureRecipe, decode_picture
from vectoruniverse.data.thumbnails import PictureStore, default_cache_dir
from vectoruniverse.errors import ConfigError, ResourceError

RECIPE = PictureRecipe(16)
RECORD = 16 * 16 * 3

ENSURE = """
import resource, signal, sys
from pathlib import Path
from vectoruniverse.data import thumbnails
from vectoruniverse.data.decoding import PictureRecipe
from vectoruniverse.data.thumbnails import PictureStore
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
pictures, cache, rows, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
thumbnails.CHUNK_ROWS = rows
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
store = PictureStore.open(cache, PictureRecipe(16))
print("ready", flush=True)
store.ensure(sorted(pictures.iterdir()), workers=1)
"""


def draw(folder: Path, count: int, side: int = 24) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    g = np.random.default_rng(0)
    paths = [folder / f"{index:04d}.png" for index in range(count)]
    for path in paths:
        Image.fromarray(g.integers(0, 256, (side, side, 3), np.uint8)).save(path, compress_level=1)
    return paths


def decoded(paths: list[Path]) -> NDArray[np.uint8]:
    return np.stack([decode_picture(path, RECIPE) for path in paths])


def everything(paths: list[Path], cache: Path) -> NDArray[np.uint8]:
    pictures = PictureStore.open(cache, RECIPE).ensure(paths)
    assert not pictures.errors
    return pictures.take(np.arange(len(paths)))


def journal(cache: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (cache / RECIPE.key / "index.jsonl").read_text().splitlines()]


def start(folder: Path, cache: Path, *, rows: int = 2, file_limit: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ENSURE, str(folder), str(cache), str(rows), str(file_limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_take_gives_the_pictures_in_the_order_of_the_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "CHUNK_ROWS", 3)
    paths = draw(tmp_path / "in", 10)[::-1]
    progress: list[tuple[int, int]] = []
    pictures = PictureStore.open(tmp_path / "cache", RECIPE).ensure(
        paths, on_progress=lambda *now: progress.append(now), workers=4
    )
    indices = np.array([7, 0, 7, 3])
    assert len(pictures) == 10
    np.testing.assert_array_equal(pictures.take(indices), decoded(paths)[indices])
    assert progress == [(3, 10), (6, 10), (9, 10), (10, 10)]


def test_no_paths_and_only_bad_paths_are_fine(tmp_path: Path) -> None:
    store = PictureStore.open(tmp_path / "cache", RECIPE)
    assert store.ensure([]).take(np.array([], np.int64)).shape == (0, 16, 16, 3)
    assert store.ensure([tmp_path / "gone.png"]).digests == [None]


def test_equal_files_share_a_record_and_bad_ones_are_told_apart(tmp_path: Path) -> None:
    good = draw(tmp_path / "in", 2)
    copy, text, link = (tmp_path / "in" / name for name in ("copy.png", "text.jpg", "link.png"))
    shutil.copy(good[0], copy)
    text.write_text("no picture")
    link.symlink_to(good[1])
    cut = tmp_path / "in" / "cut.png"
    cut.write_bytes(good[1].read_bytes()[:-600])
    pictures = PictureStore.open(tmp_path / "cache", RECIPE).ensure(
        [good[0], text, copy, link, good[1], tmp_path / "in", cut]
    )
    assert [digest is None for digest in pictures.digests] == [False, True, False, True, False, True, True]
    assert pictures.digests[0] == pictures.digests[2] != pictures.digests[4]
    assert sorted(pictures.errors) == [1, 3, 5, 6]
    assert "text.jpg: is not one of" in str(pictures.errors[1])
    assert "link.png: is a symbolic link" in str(pictures.errors[3])
    assert len(journal(tmp_path / "cache")) == 2
    np.testing.assert_array_equal(pictures.take(np.array([2, 4])), decoded(good))
    with pytest.raises(AssertionError):
        pictures.take(np.array([1]))


def test_the_max_pixels_of_this_recipe_holds_for_new_pictures(tmp_path: Path) -> None:
    (path,) = draw(tmp_path / "in", 1)
    strict = PictureStore.open(tmp_path / "cache", PictureRecipe(16, max_pixels=100))
    assert "more than data.max_pixels allows" in str(strict.ensure([path]).errors[0])


def test_which_pictures_are_used_does_not_depend_on_who_decoded_them_first(tmp_path: Path) -> None:
    small, large = draw(tmp_path / "small", 2), draw(tmp_path / "large", 3, side=40)
    Image.new("RGB", (24, 30)).save(tmp_path / "copy.png")
    paths = [*small, *large, tmp_path / "copy.png"]
    low, high = PictureRecipe(16, max_pixels=24 * 30), PictureRecipe(16)

    def refused(cache: str, recipe: PictureRecipe) -> dict[int, str]:
        found = PictureStore.open(tmp_path / cache, recipe).ensure(paths).errors
        return {i: str(error) for i, error in found.items()}

    fresh = refused("fresh", low)
    assert sorted(fresh) == [2, 3, 4]
    assert refused("warm", high) == {}
    assert refused("warm", low) == fresh
    for path in paths:
        os.utime(path)  # hashed anew, so found by content alone
    assert refused("warm", low) == fresh
    assert refused("warm", high) == {}
    assert len((tmp_path / "warm" / low.key / "index.jsonl").read_text().splitlines()) == 6  # decoded once


def test_pictures_of_a_journal_that_knows_no_sizes_are_decoded_again(tmp_path: Path) -> None:
    paths, cache = draw(tmp_path / "in", 3), tmp_path / "cache"
    everything(paths, cache)
    index = cache / RECIPE.key / "index.jsonl"
    old = [{key: row[key] for key in ("sha256", "slot", "crc32")} for row in journal(cache)]
    index.write_text("".join(json.dumps(row) + "\n" for row in old))
    np.testing.assert_array_equal(everything(paths, cache), decoded(paths))
    strict = PictureRecipe(16, max_pixels=100)
    assert len(PictureStore.open(cache, strict).ensure(paths).errors) == 3


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    paths, files = draw(tmp_path / "in", 3), tmp_path / "cache" / RECIPE.key / "files.jsonl"
    everything(paths, tmp_path / "cache")
    everything(paths, tmp_path / "cache")
    assert len(files.read_text().splitlines()) == 3  # each reading of a file adds a line
    os.utime(paths[0])
    everything(paths, tmp_path / "cache")
    assert len(files.read_text().splitlines()) == 4
    assert len(journal(tmp_path / "cache")) == 3  # the content is the same: not decoded again


def test_a_changed_file_is_noticed_though_size_and_mtime_are_restored(tmp_path: Path) -> None:
    path, times = tmp_path / "a.bmp", (10**18, 10**18)
    seen = []
    for colour in ("red", "blue"):
        Image.new("RGB", (16, 16), colour).save(path)
        os.utime(path, ns=times)
        seen.append((path.stat().st_size, tuple(everything([path], tmp_path / "cache")[0, 0, 0])))
    assert seen == [(seen[0][0], (255, 0, 0)), (seen[0][0], (0, 0, 255))]


@pytest.mark.parametrize("name", ["pictures.u8", "index.jsonl", "files.jsonl"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "delete"])
def test_damage_is_noticed_and_repaired(tmp_path: Path, name: str, damage: str) -> None:
    paths = draw(tmp_path / "in", 5)
    everything(paths, tmp_path / "cache")
    file = tmp_path / "cache" / RECIPE.key / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    kept = {"flip": bytes(content), "cut": bytes(content[: -len(content) // 3]), "empty": b""}
    file.write_bytes(kept[damage]) if damage in kept else file.unlink()
    for _ in range(2):
        np.testing.assert_array_equal(everything(paths, tmp_path / "cache"), decoded(paths))


def test_a_flipped_byte_costs_one_picture(tmp_path: Path) -> None:
    paths = draw(tmp_path / "in", 5)
    everything(paths, tmp_path / "cache")
    with (tmp_path / "cache" / RECIPE.key / "pictures.u8").open("r+b") as handle:
        handle.seek(2 * RECORD + 5)
        byte = handle.read(1)[0]
        handle.seek(2 * RECORD + 5)
        handle.write(bytes([byte ^ 1]))
    np.testing.assert_array_equal(everything(paths, tmp_path / "cache"), decoded(paths))
    rows = journal(tmp_path / "cache")
    assert [row["slot"] for row in rows] == list(range(6))
    assert rows[5]["sha256"] == rows[2]["sha256"]


def test_a_slot_whose_journal_line_is_lost_is_not_written_again(tmp_path: Path) -> None:
    paths = draw(tmp_path / "in", 4)
    early = PictureStore.open(tmp_path / "cache", RECIPE).ensure(paths[:2])  # somebody still reads slot 1
    index = tmp_path / "cache" / RECIPE.key / "index.jsonl"
    first, second = index.read_bytes().splitlines()
    index.write_bytes(first + b"\n" + second.replace(b":", b";") + b"\n")
    everything(paths[2:], tmp_path / "cache")
    np.testing.assert_array_equal(early.take(np.arange(2)), decoded(paths[:2]))


def test_hostile_journal_lines_are_passed_over(tmp_path: Path) -> None:
    paths = draw(tmp_path / "in", 3)
    folder = PictureStore.open(tmp_path / "cache", RECIPE)._folder
    lines = ["[" * 100_000, "null", "[]", '{"sha256": 5}', "9" * 5000, '{"sha256": "a", "slot": 1e300, "crc32": 0}']
    lines += [json.dumps({"sha256": "0" * 64, "slot": slot, "crc32": 0}) for slot in (-1, 10**18)]
    (folder / "index.jsonl").write_text("\n".join(lines) + "\n" + '{"sha256": "torn')
    np.testing.assert_array_equal(everything(paths, tmp_path / "cache"), decoded(paths))
    assert (folder / "pictures.u8").stat().st_size < 100 * RECORD
    assert '{"sha256": "torn' not in (folder / "index.jsonl").read_text()


def test_a_process_killed_in_the_midst_leaves_a_store_that_the_next_one_completes(tmp_path: Path) -> None:
    paths, cache = draw(tmp_path / "in", 40, side=300), tmp_path / "cache"
    for more in (1, 5, 9):
        index = cache / RECIPE.key / "index.jsonl"
        goal = (index.read_bytes().count(b"\n") if index.exists() else 0) + more
        with start(tmp_path / "in", cache) as process:
            deadline = time.monotonic() + 20
            while not (index.exists() and index.read_bytes().count(b"\n") >= goal) and time.monotonic() < deadline:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
    assert 15 <= len(journal(cache)) < 40
    with index.open("ab") as handle:  # what a kill within a write leaves
        handle.write(b'{"sha256": "0123')
    with (cache / RECIPE.key / "pictures.u8").open("ab") as handle:
        handle.write(b"orphan" * 200)
    np.testing.assert_array_equal(everything(paths, cache), decoded(paths))
    assert [row["slot"] for row in journal(cache)] == list(range(40))
    np.testing.assert_array_equal(everything(paths, tmp_path / "clean"), everything(paths, cache))


def test_two_processes_at_once_share_the_work_and_decode_nothing_twice(tmp_path: Path) -> None:
    paths, cache = draw(tmp_path / "in", 40, side=300), tmp_path / "cache"
    processes = [start(tmp_path / "in", cache) for _ in range(2)]
    assert [process.communicate(timeout=60)[1] for process in processes] == ["", ""]
    assert [row["slot"] for row in journal(cache)] == list(range(40))
    assert len({row["sha256"] for row in journal(cache)}) == 40
    np.testing.assert_array_equal(everything(paths, cache), decoded(paths))


def test_an_interrupt_stops_promptly_and_loses_nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "CHUNK_ROWS", 4)
    paths = draw(tmp_path / "in", 12)

    def interrupt(done: int, _: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    store = PictureStore.open(tmp_path / "cache", RECIPE)
    with pytest.raises(KeyboardInterrupt):
        store.ensure(paths, on_progress=interrupt)
    assert len(journal(tmp_path / "cache")) == 8
    np.testing.assert_array_equal(store.ensure(paths).take(np.arange(12)), decoded(paths))


def test_sigint_during_decoding_ends_the_process_before_its_chunk_is_done(tmp_path: Path) -> None:
    """A chunk of seconds of decoding, also on a machine that is slow to send the signal."""
    (first,) = draw(tmp_path / "in", 1, side=600)
    for copy in range(1, 240):  # bytes after a PNG's end change its digest and not its picture
        (tmp_path / "in" / f"{copy:04d}.png").write_bytes(first.read_bytes() + bytes([copy]))
    with start(tmp_path / "in", tmp_path / "cache", rows=240) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    assert "KeyboardInterrupt" in error
    assert journal(tmp_path / "cache") == []


def test_a_full_disk_is_a_resource_error_that_names_the_cache(tmp_path: Path) -> None:
    draw(tmp_path / "in", 8)
    with start(tmp_path / "in", tmp_path / "cache", file_limit=5 * RECORD) as process:
        error = process.communicate(timeout=60)[1]
    assert f"{ResourceError.__module__}.ResourceError" in error
    assert "no space left for the picture cache" in error
    assert len(journal(tmp_path / "cache")) == 4


def test_a_cache_folder_that_cannot_be_made_is_a_config_error_with_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"data\.cache_dir") as caught:
        PictureStore.open(tmp_path / "file" / "cache", RECIPE)
    assert caught.value.remedy is not None
    assert "$VU_CACHE" in caught.value.remedy


def test_a_person_without_a_home_is_told_to_name_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: object) -> None:
        raise KeyError(uid)

    for name in ("HOME", "VU_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("getpwuid", "getpwnam"):
        monkeypatch.setattr(f"pwd.{name}", unknown)
    for chosen in ("", "~/pictures", "~nobody/pictures"):
        monkeypatch.setenv("VU_CACHE", chosen)
        with pytest.raises(ConfigError, match=r"data\.cache_dir") as caught:
            default_cache_dir()
        assert "$VU_CACHE" in str(caught.value.remedy)
    monkeypatch.setenv("VU_CACHE", "/pictures")
    assert default_cache_dir() == Path("/pictures")


def test_the_default_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("VU_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert default_cache_dir() == tmp_path / ".cache" / "vectoruniverse"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the XDG specification says: ignore
    assert default_cache_dir() == tmp_path / ".cache" / "vectoruniverse"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_dir() == Path("/xdg/vectoruniverse")
    monkeypatch.setenv("VU_CACHE", "~/pictures")
    assert default_cache_dir() == tmp_path / "pictures"
