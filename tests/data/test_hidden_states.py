"""The store of hidden states: made once, the same bits again, whoever else writes, is killed or finds damage."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vectoruniverse.data.hidden_states import HiddenStates
from vectoruniverse.errors import ConfigError, ResourceError

SHAPE = (3, 4)

WRITER = """
import sys
import time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.data.test_hidden_states import HiddenStates, SHAPE, digests, states, torch
store = HiddenStates(Path(sys.argv[1]), SHAPE, torch.float32)
print("ready", flush=True)
for at in range(int(sys.argv[2])):
    store.of(digests(range(at, at + 2)), lambda missing: states(range(at, at + 2))[missing])
"""


def digests(numbers: range | list[int]) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in numbers]


def states(numbers: range | list[int], dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(number)) for number in numbers]
    return torch.stack(drawn).to(dtype)


def none_missing(missing: list[int]) -> Tensor:
    raise AssertionError(f"{missing} would be made again")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_states_are_made_once_and_the_same_bits_again(tmp_path: Path, dtype: torch.dtype) -> None:
    store, asked = HiddenStates(tmp_path / "s", SHAPE, dtype), []

    def make(missing: list[int]) -> Tensor:
        asked.append(missing)
        return states([[5, 7, 5, 9][at] for at in missing], dtype)

    found = store.of(digests([5, 7, 5, 9]), make)
    assert found.dtype == dtype and torch.equal(found, states([5, 7, 5, 9], dtype))
    assert [sorted(one) for one in asked] == [[1, 2, 3]], "equal ones are made once"
    again = HiddenStates(tmp_path / "s", SHAPE, dtype)
    assert torch.equal(again.of(digests([9, 5]), none_missing), states([9, 5], dtype))
    assert torch.equal(store.of(digests([7]), none_missing), states([7], dtype))


def test_damaged_states_are_made_again(tmp_path: Path) -> None:
    HiddenStates(tmp_path / "s", SHAPE, torch.float32).of(digests([1, 2]), lambda _: states([1, 2]))
    file = tmp_path / "s" / "states.bin"
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(bytes(content))
    asked = []
    store = HiddenStates(tmp_path / "s", SHAPE, torch.float32)
    found = store.of(digests([1, 2]), lambda missing: asked.append(missing) or states([1, 2])[missing])
    assert asked == [[0]] and torch.equal(found, states([1, 2]))
    again = HiddenStates(tmp_path / "s", SHAPE, torch.float32)
    assert torch.equal(again.of(digests([1, 2]), none_missing), states([1, 2]))


def test_processes_share_a_store_and_a_kill_loses_nothing(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", WRITER, str(tmp_path / "s"), "40", root]
    killed, other = (subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2))
    try:
        for writer in (killed, other):
            assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        while (tmp_path / "s" / "states.bin").stat().st_size < 48 * 5:
            time.sleep(0.001)
    finally:
        killed.kill()
    assert other.wait(60) == 0
    for writer in (killed, other):
        writer.communicate()
    store = HiddenStates(tmp_path / "s", SHAPE, torch.float32)
    store.of(digests([10_000]), lambda _: states([10_000]))  # takes in what the others have written
    assert torch.equal(store.of(digests(range(41)), none_missing), states(range(41)))


def test_a_disk_that_cannot_hold_them_is_told_before_anything_is_computed(tmp_path: Path, monkeypatch) -> None:
    store = HiddenStates(tmp_path / "s", SHAPE, torch.float32)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 0, 48 * 10))
    store.refuse_too_many(10)
    with pytest.raises(ResourceError, match=r"would take 0\.0 GiB more") as caught:
        store.refuse_too_many(11)
    assert caught.value.remedy and "views.pool" in caught.value.remedy
    store.of(digests([1]), lambda _: states([1]))
    store.refuse_too_many(11)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("a file")
    with pytest.raises(ConfigError, match="the cache of hidden states cannot be written"):
        HiddenStates(tmp_path / "s", SHAPE, torch.float32)
