"""Stores of a cache: least recently used first, and none that a process uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from tests.cli.test_runs import vu
from vectoruniverse.data import caches
from vectoruniverse.data.caches import hold, keep_within, limit_of, parse_size, remove, stores, surplus
from vectoruniverse.data.hidden_states import HiddenStates
from vectoruniverse.errors import ConfigError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no locks to share")


@pytest.fixture
def cache(tmp_path):
    """Three stores of 1, 2 and 3 kB, the smallest used last."""
    for number, name in enumerate(("largest", "middle", "smallest")):
        folder = tmp_path / "cache" / name
        folder.mkdir(parents=True)
        (folder / "states.bin").write_bytes(bytes(1000 * (3 - number)))
        (folder / "index.jsonl").touch()
        (folder / "in-use").touch()
        os.utime(folder / "in-use", (1000 + number, 1000 + number))
    (tmp_path / "cache" / "notes").mkdir()
    (tmp_path / "cache" / "notes" / "mine.txt").write_text("mine")
    return tmp_path / "cache"


def names(cache):
    return [store.folder.name for store in stores(cache)]


def test_the_least_recently_used_go_until_the_rest_fits(cache):
    assert names(cache) == ["largest", "middle", "smallest"]
    assert [one.folder.name for one in surplus(stores(cache), 3500)] == ["largest"]
    assert [one.folder.name for one in surplus(stores(cache), 0)] == ["largest", "middle", "smallest"]
    assert surplus(stores(cache), 6000) == []
    assert remove(stores(cache)[0]) and names(cache) == ["middle", "smallest"]
    assert (cache / "notes" / "mine.txt").read_text() == "mine" and not list(cache.glob(".*"))


def test_a_store_that_another_process_uses_stays_until_that_has_ended(cache):
    open_it = f"from pathlib import Path; hold(Path({str(cache / 'largest')!r})); print(1, flush=True)"
    code = f"import time; from vectoruniverse.data.caches import hold; {open_it}; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert [one.busy for one in stores(cache)] == [False, False, True], "it was used last, too"
        assert [one.folder.name for one in surplus(stores(cache), 0)] == ["middle", "smallest"]
        (busy,) = (one for one in stores(cache) if one.busy)
        assert not remove(busy) and (cache / "largest").is_dir()
        other.kill()
        other.wait()
    assert remove(busy)


def test_the_limit_is_kept_when_a_store_is_opened_and_what_is_open_goes_on(cache, monkeypatch):
    monkeypatch.setenv("VU_CACHE_LIMIT", "2500")
    store = HiddenStates(cache / "states-new", (2, 3), torch.float32)
    assert names(cache) == ["smallest", "states-new"]
    made = store.of(["a"], lambda missing: torch.ones(len(missing), 2, 3))
    monkeypatch.setenv("VU_CACHE_LIMIT", "1")
    keep_within(cache)
    assert names(cache) == ["states-new"] and np.array_equal(store.of(["a"], None), made)


def test_the_limit_is_kept_when_a_store_has_grown(cache, monkeypatch):
    monkeypatch.setenv("VU_CACHE_LIMIT", "7000")
    store = HiddenStates(cache / "states-new", (20, 30), torch.float32)
    assert names(cache) == ["largest", "middle", "smallest", "states-new"]
    store.of(["a"], lambda missing: torch.ones(len(missing), 20, 30))
    assert names(cache) == ["middle", "smallest", "states-new"]
    (cache / "middle" / "more.bin").write_bytes(bytes(5000))
    store.of(["a"], None)
    assert len(names(cache)) == 3, "nothing was written"


def test_whoever_opens_a_store_that_is_being_removed_makes_it_again(cache):
    with caches._alone(cache / "largest"):
        (cache / "largest").rename(cache / ".gone")
        assert not hold(cache / "largest")
    HiddenStates(cache / "largest", (2, 3), torch.float32)
    assert [one.busy for one in stores(cache) if one.folder.name == "largest"] == [True]


def test_what_a_kill_left_of_a_removal_is_cleared_away(cache):
    (cache / ".0123.evicted").mkdir()
    (cache / ".0123.evicted" / "states.bin").write_bytes(b"1")
    keep_within(cache)
    assert not list(cache.glob(".*")) and len(names(cache)) == 3


def test_links_are_no_stores_and_stores_of_earlier_versions_count_from_their_files(cache, tmp_path):
    (cache / "linked").symlink_to(cache / "largest")
    (cache / "middle" / "in-use").unlink()
    found = stores(cache)
    assert [one.folder.name for one in found] == ["largest", "smallest", "middle"]
    assert time.time() - found[-1].used < 600


def test_a_limit_that_is_none_is_refused(cache, monkeypatch):
    assert parse_size("2kB", "--to") == 2000 and parse_size("1MiB", "--to") == 2**20
    monkeypatch.setenv("VU_CACHE_LIMIT", "much")
    with pytest.raises(ConfigError, match="is no size"):
        limit_of(cache)


def test_the_cache_is_told_and_pruned_from_the_command_line(cache):
    place = ("--folder", str(cache))
    told = json.loads(vu("cache", "info", *place, "--json", cwd=cache).stdout)
    assert [one["size"] for one in told["stores"]] == [3000, 2000, 1000]
    assert "largest" in vu("cache", "prune", *place, "--to", "3500", cwd=cache).stdout and len(names(cache)) == 3
    assert "removed" in vu("cache", "prune", *place, "--to", "3500", "--yes", cwd=cache).stdout
    assert names(cache) == ["middle", "smallest"]
    assert vu("cache", "prune", *place, "--all", "--yes", cwd=cache).returncode == 0 and names(cache) == []
    assert "0 stores" in vu("cache", "info", *place, cwd=cache).stdout
