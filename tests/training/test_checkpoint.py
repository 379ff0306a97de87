"""A checkpoint is there as a whole or not at all, and training goes on from it as if nothing had happened."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vectoruniverse.errors import ConfigError, DataError, ResourceError
from vectoruniverse.training.checkpoint import (
    Checkpoint,
    latest,
    load_checkpoint,
    point,
    pointed,
    prune,
    save_checkpoint,
    take_up,
)
from vectoruniverse.training.optimizer_state import optimizer_tensors, restore_optimizer


def save(folder: Path, step: int) -> Path:
    return save_checkpoint(folder, Checkpoint(step, {"model": {"w": torch.full((4,), float(step))}}, {"step": step}))


@pytest.mark.skipif(os.name != "posix", reason="modes of other systems are others")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_every_file_of_a_checkpoint_may_be_read_as_any_new_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        path = save(tmp_path, 1)
    finally:
        os.umask(before)
    assert {file.name: file.stat().st_mode & 0o777 for file in path.iterdir()} == dict.fromkeys(
        ("manifest.json", "model.safetensors", "state.json"), 0o666 & ~mask
    )


def flip_a_bit(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_tensors_and_state_come_back_exactly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = {
        "half": torch.randn(3, 2).bfloat16(),
        "turned": torch.randn(3, 5).t(),
        "scalar": torch.tensor(7.0),
        "trained": nn.Parameter(torch.randn(2)),
    }
    state = {"lr": 0.1 + 0.2, "position": {"epoch": 3, "row": None}, "history": [1, "색"], "worst": float("-inf")}
    path = save_checkpoint(tmp_path / "checkpoints", Checkpoint(123, {"model": model, "empty": {}}, state))
    assert path.name == "step-00000123"
    loaded = load_checkpoint(path)
    assert (loaded.step, loaded.state) == (123, state)
    assert loaded.tensors["empty"] == {}
    for name, tensor in model.items():
        assert loaded.tensors["model"][name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors["model"][name], tensor)


def make() -> tuple[nn.Module, torch.optim.AdamW, list[str]]:
    """A model whose optimizer has two groups and takes its parameters in an order of its own."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    named = dict(model.named_parameters())
    decayed, spared = ["2.weight", "0.weight"], ["0.bias", "2.bias"]
    optimizer = torch.optim.AdamW(
        [
            {"params": [named[name] for name in decayed], "weight_decay": 0.1},
            {"params": [named[name] for name in spared], "weight_decay": 0.0},
        ],
        lr=0.01,
        betas=(0.8, 0.95),
    )
    return model, optimizer, decayed + spared


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + step)
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def test_updates_after_a_resume_equal_uninterrupted_ones_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer, names = make()
    train(model, optimizer, range(5))
    tensors, state = optimizer_tensors(optimizer, names)
    groups = {"model": model.state_dict(), "optimizer": tensors}
    path = save_checkpoint(tmp_path, Checkpoint(5, groups, {"optimizer": state}))
    train(model, optimizer, range(5, 12))

    saved = load_checkpoint(path)
    resumed, fresh, names = make()
    resumed.load_state_dict(saved.tensors["model"])
    restore_optimizer(fresh, names, saved.tensors["optimizer"], saved.state["optimizer"])
    assert fresh.param_groups[0]["betas"] == (0.8, 0.95)
    train(resumed, fresh, range(5, 12))
    for ours, theirs in zip(resumed.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    moments: dict[str, Tensor] = optimizer_tensors(optimizer, names)[0]
    for name, tensor in optimizer_tensors(fresh, names)[0].items():
        assert torch.equal(tensor, moments[name])
    untouched = load_checkpoint(path).tensors["optimizer"]
    assert all(torch.equal(saved.tensors["optimizer"][name], tensor) for name, tensor in untouched.items())


def test_an_optimizer_state_is_saved_before_the_first_step(tmp_path: Path) -> None:
    _, optimizer, names = make()
    tensors, state = optimizer_tensors(optimizer, names)
    assert tensors == {}
    _, fresh, names = make()
    restore_optimizer(fresh, names, tensors, json.loads(json.dumps(state)))
    assert fresh.state_dict() == optimizer.state_dict()


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        ("class", ConfigError, "SGD"),
        ("parameter", ConfigError, "2.bias"),
        ("group", ConfigError, "groups"),
        ("shape", ConfigError, "shape of 0.weight"),
        ("stray", DataError, "exp_avg:nobody"),
    ],
)
def test_an_optimizer_state_of_something_else_is_refused(damage: str, error: type[Exception], message: str) -> None:
    model, optimizer, names = make()
    train(model, optimizer, range(1))
    tensors, state = optimizer_tensors(optimizer, names)
    groups: Any = state["groups"]
    if damage == "class":
        state["class"] = "SGD"
    elif damage == "parameter":
        groups[1]["parameters"].remove("2.bias")
    elif damage == "group":
        groups[0]["parameters"].append(groups[1]["parameters"].pop())
    elif damage == "shape":
        tensors["exp_avg:0.weight"] = torch.zeros(6, 5)
    else:
        tensors["exp_avg:nobody"] = torch.zeros(1)
    with pytest.raises(error, match=message):
        restore_optimizer(make()[1], names, tensors, state)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_flipped_bit_is_found_and_named(tmp_path: Path, name: str, place: int) -> None:
    path = save(tmp_path, 1)
    flip_a_bit(path / name, place)
    with pytest.raises(DataError) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(str(path / name))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_checkpoint(path)


def test_a_manifest_cannot_point_out_of_its_folder(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["../../secret.json"] = {"bytes": 0, "sha256": ""}
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(DataError, match="secret"):
        load_checkpoint(path)


def test_a_damaged_last_falls_back_to_the_newest_intact_and_says_so(tmp_path: Path) -> None:
    first, second, third = save(tmp_path, 1), save(tmp_path, 2), save(tmp_path, 3)
    point(tmp_path, third, "last")
    assert latest(tmp_path, "last", pytest.fail).step == 3
    flip_a_bit(third / "model.safetensors", -1)
    warnings: list[str] = []
    assert latest(tmp_path, "last", warnings.append).step == 2
    assert str(third / "model.safetensors") in warnings[0]
    assert second.name in warnings[-1]
    for path in (first, second):
        (path / "manifest.json").unlink()
    with pytest.raises(DataError, match="every checkpoint is damaged"):
        latest(tmp_path, "last", warnings.append)


def test_the_last_two_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in range(5):
        point(tmp_path, save(tmp_path, step), *(("last", "best") if step == 1 else ("last",)))
        prune(tmp_path)
    assert sorted(path.name[-1] for path in tmp_path.glob("step-*")) == ["1", "3", "4"]
    assert (pointed(tmp_path, "previous"), pointed(tmp_path, "last")) == (
        tmp_path / "step-00000003",
        tmp_path / "step-00000004",
    )


def test_training_goes_on_from_the_one_before_a_damaged_last_which_is_not_kept(tmp_path: Path) -> None:
    for step in (1, 2):
        point(tmp_path, save(tmp_path, step), "last")
    flip_a_bit(pointed(tmp_path, "last") / "model.safetensors", -1)
    (tmp_path / "step-00000003.tmp-0123abcd").mkdir()
    warnings: list[str] = []
    assert take_up(tmp_path, warnings.append).step == 1
    assert "damaged checkpoint passed over" in warnings[0] and "using step-00000001 instead" in warnings[1]
    assert take_up(tmp_path, pytest.fail).step == 1, "it is told once"
    point(tmp_path, save(tmp_path, 3), "last")
    prune(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000001", "step-00000003"]
    assert take_up(tmp_path, pytest.fail).step == 3


@pytest.mark.parametrize("content", [b"", b"step-00000009\n", b"../step-00000001\n", b"\xff\xfe"])
def test_a_damaged_pointer_falls_back_to_the_newest_and_says_so(tmp_path: Path, content: bytes) -> None:
    checkpoints = tmp_path / "checkpoints"
    save(tmp_path, 1)
    save(checkpoints, 2)
    (checkpoints / "last").write_bytes(content)
    warnings: list[str] = []
    assert latest(checkpoints, "last", warnings.append).step == 2
    assert len(warnings) == 1


def test_without_any_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert latest(tmp_path / "absent", "last", pytest.fail) is None
    assert latest(tmp_path, "best", pytest.fail) is None


def test_prune_keeps_what_pointers_name_and_what_is_not_ours(tmp_path: Path) -> None:
    paths = [save(tmp_path, step) for step in range(5)]
    point(tmp_path, paths[1], "best")
    point(tmp_path, paths[4], "last")
    (tmp_path / "step-00000005.tmp-0123abcd").mkdir()
    (tmp_path / ".pointers.json.0123abcd.tmp").touch()
    (tmp_path / "mine").mkdir()
    prune(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000001", "step-00000004", "pointers.json", "mine"}


def test_prune_without_pointers_keeps_the_newest(tmp_path: Path) -> None:
    save(tmp_path, 9)
    save(tmp_path, 10)
    prune(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_a_step_saved_again_takes_a_name_of_its_own(tmp_path: Path) -> None:
    first = save(tmp_path, 7)
    second = save_checkpoint(tmp_path, Checkpoint(7, {"model": {"w": torch.zeros(1)}}, {"again": True}))
    assert load_checkpoint(first).state == {"step": 7}
    assert load_checkpoint(second).state == {"again": True}
    assert latest(tmp_path, "last", [].append).state == {"again": True}
    point(tmp_path, second, "last")
    assert pointed(tmp_path, "last") == second


def test_a_full_disk_is_told_and_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point(tmp_path, save(tmp_path, 1), "last")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="disk is full"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pointers.json", "step-00000001"]
    assert latest(tmp_path, "last", pytest.fail).step == 1


KILLED_SAVER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from vectoruniverse.training.checkpoint import Checkpoint, latest, point, prune, save_checkpoint

folder = Path(sys.argv[1])
torch.set_num_threads(1)


def save_for_ever(step):
    while True:
        step += 1
        tensors = {"model": {"w": torch.full((50_000,), float(step))}}
        point(folder, save_checkpoint(folder, Checkpoint(step, tensors, {"step": step})), "last")
        prune(folder)


def refuse(message):
    raise AssertionError(message)


step = 0
point(folder, save_checkpoint(folder, Checkpoint(0, {"model": {"w": torch.zeros(1)}}, {"step": 0})), "last")
for round in range(12):
    child = os.fork()
    if not child:
        save_for_ever(step)
    time.sleep(random.Random(round).uniform(0.01, 0.2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = latest(folder, "last", refuse)
    assert found.step >= step and found.state == {"step": found.step}
    assert found.step == 0 or bool((found.tensors["model"]["w"] == found.step).all())
    step = found.step
prune(folder)
assert len(list(folder.iterdir())) == 3, list(folder.iterdir())
print(step)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL and fork")
def test_killed_while_saving_the_last_checkpoint_can_always_be_loaded(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_SAVER, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0  # saves did happen between the kills


def test_both_pointers_change_in_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before it or after it, last and best are never of two different moments."""
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    point(tmp_path, first, "last", "best")
    renamed: list[tuple[Path | None, Path | None]] = []
    replace = Path.replace

    def watched(path: Path, target: Path) -> Path:
        renamed.append((pointed(tmp_path, "last"), pointed(tmp_path, "best")))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    point(tmp_path, second, "last", "best")
    assert renamed == [(first, first)]
    assert (pointed(tmp_path, "last"), pointed(tmp_path, "best")) == (second, second)


def test_pointers_of_an_earlier_version_are_read_and_then_replaced(tmp_path: Path) -> None:
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    (tmp_path / "best").write_text(first.name + "\n")
    (tmp_path / "last").write_text(second.name + "\n")
    assert (pointed(tmp_path, "last"), pointed(tmp_path, "best")) == (second, first)
    third = save(tmp_path, 3)
    point(tmp_path, third, "last")
    assert (pointed(tmp_path, "last"), pointed(tmp_path, "best")) == (third, first)
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
@pytest.mark.parametrize("name", ["pointers.json", "step-00000002/manifest.json", "step-00000002/model.safetensors"])
def test_what_is_no_file_is_passed_over_for_the_newest_intact(tmp_path: Path, kind: str, name: str) -> None:
    """Opening a FIFO would wait for ever, and a link shows a file that is not ours."""
    folder = tmp_path / "checkpoints"
    save(folder, 1)
    point(folder, save(folder, 2), "last")
    place = folder / name
    (tmp_path / "elsewhere").write_bytes(place.read_bytes())
    place.unlink()
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to(tmp_path / "elsewhere")
    warnings: list[str] = []
    found = latest(folder, "last", warnings.append)
    assert found is not None
    assert found.step == (2 if name == "pointers.json" else 1)
    assert warnings


def test_a_manifest_that_tells_a_step_as_text_is_no_manifest(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    for step in ("1", -3, 1.5, None, True):
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8")) | {"step": step}
        (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        with pytest.raises(DataError, match="step"):
            load_checkpoint(path)


@pytest.mark.parametrize("damage", ["settings", "class", "text", "moment"])
def test_an_optimizer_state_with_facts_missing_is_refused(damage: str) -> None:
    model, optimizer, names = make()
    train(model, optimizer, range(1))
    tensors, state = optimizer_tensors(optimizer, names)
    if damage == "settings":
        del state["groups"][0]["settings"]["betas"]
    elif damage == "class":
        del state["class"]
    elif damage == "text":
        state["groups"][1]["settings"]["weight_decay"] = "0.1"
    else:
        del tensors["exp_avg_sq:0.weight"]
    with pytest.raises(DataError):
        restore_optimizer(make()[1], names, tensors, state)
