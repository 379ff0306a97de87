"""Base models, adapters, run folders and sweeps that somebody else made."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.hostile.world import World, change_json, hostile

MODEL, ADAPTER, RUN, SWEEP = "Base models", "Adapters in peft's format", "Run folders", "Sweep folders"


class Evil:
    """Leaves a file behind where it is unpickled."""

    def __reduce__(self):
        return (open, ("it_ran", "w"))


def plan(world: World) -> list[str]:
    return ["train", "--config", str(world.config), "--runs-dir", str(world.runs), "--dry-run"]


def tensors(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change what a safetensors file holds."""
    named = load_file(file)
    change(named)
    save_file(named, file, metadata={"format": "pt"})


def one_of(named: dict[str, torch.Tensor], part: str) -> str:
    return next(name for name in sorted(named) if part in name)


@hostile(MODEL, "weights that are missing")
def _(world: World) -> list[str]:
    tensors(world.model / "model.safetensors", lambda named: named.pop(one_of(named, "q_proj.weight")))
    return plan(world)


@hostile(MODEL, "weights that the model has no place for")
def _(world: World) -> list[str]:
    tensors(
        world.model / "model.safetensors",
        lambda named: named.update({"text_model.encoder.layers.0.more.weight": torch.ones(2)}),
    )
    return plan(world)


@hostile(MODEL, "weights of another shape")
def _(world: World) -> list[str]:
    tensors(
        world.model / "model.safetensors", lambda named: named.update({one_of(named, "fc1.weight"): torch.ones(3, 3)})
    )
    return plan(world)


@hostile(MODEL, "weights that are not finite")
def _(world: World) -> list[str]:
    tensors(world.model / "model.safetensors", lambda named: named[one_of(named, "fc1.weight")].fill_(float("nan")))
    return plan(world)


@hostile(MODEL, "a header that claims more than there is")
def _(world: World) -> list[str]:
    (world.model / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    return plan(world)


@hostile(MODEL, "a cut-off file of weights")
def _(world: World) -> list[str]:
    file = world.model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return plan(world)


@hostile(MODEL, "pickled weights")
def _(world: World) -> list[str]:
    (world.model / "model.safetensors").unlink()
    (world.model / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    return plan(world)


@hostile(MODEL, "a pickle under the name of safetensors")
def _(world: World) -> list[str]:
    (world.model / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    return plan(world)


@hostile(MODEL, "code of its own, named in the configuration")
def _(world: World) -> list[str]:
    (world.model / "evil.py").write_text("open('it_ran', 'w')\nclass Model: pass\n")
    change_json(
        world.model / "config.json", auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Model"}, model_type="evil"
    )
    return plan(world)


@hostile(MODEL, "a configuration that is no JSON")
def _(world: World) -> list[str]:
    (world.model / "config.json").write_text("{" * 100_000)
    return plan(world)


@hostile(MODEL, "a configuration with a number of endless digits")
def _(world: World) -> list[str]:
    (world.model / "config.json").write_text('{"model_type": "clip", "projection_dim": ' + "9" * 10_000 + "}")
    return plan(world)


@hostile(MODEL, "a configuration that asks for more memory than there is")
def _(world: World) -> list[str]:
    values = json.loads((world.model / "config.json").read_text())
    values["text_config"]["hidden_size"] = 10**7
    (world.model / "config.json").write_text(json.dumps(values))
    return plan(world)


@hostile(MODEL, "a tokenizer that is no JSON")
def _(world: World) -> list[str]:
    (world.model / "tokenizer.json").write_text("no tokenizer")
    return plan(world)


@hostile(MODEL, "an index that names files outside of its folder")
def _(world: World) -> list[str]:
    file = world.model / "model.safetensors"
    names = list(load_file(file))
    file.rename(world.root / "outside.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../outside.safetensors")}
    (world.model / "model.safetensors.index.json").write_text(json.dumps(index))
    return plan(world)


@hostile(MODEL, "a FIFO in the place of its configuration")
def _(world: World) -> list[str]:
    (world.model / "config.json").unlink()
    os.mkfifo(world.model / "config.json")
    return plan(world)


@hostile(MODEL, "other weights than a run was trained on")
def _(world: World) -> list[str]:
    tensors(world.model / "model.safetensors", lambda named: named[one_of(named, "fc1.weight")].add_(1))
    return evaluate(world)


def start_from(world: World) -> list[str]:
    """A training that starts from the foreign run's adapter."""
    adapter = f"{{method: lora, init_from: {world.run / 'adapter'}}}"
    return [*plan(world), "--set", f"adapter={adapter}"]


def adapter_config(what: str, **values: object) -> None:
    @hostile(ADAPTER, what)
    def case(world: World) -> list[str]:
        change_json(world.run / "adapter" / "adapter_config.json", **values)
        return start_from(world)


adapter_config("another kind than LoRA", peft_type="IA3")
adapter_config("settings that would change its outputs", lora_bias=True)
adapter_config("a rank that cannot be", r=-1)
adapter_config("an alpha beyond all numbers", lora_alpha=10**400)
adapter_config("a rank beyond all memory", r=2**40)
adapter_config("a pattern that would take for ever to match", rank_pattern={"(a+)+$": 4})
adapter_config("settings of other types", target_modules={"a": 1}, r="2")


@hostile(ADAPTER, "a configuration that is no JSON")
def _(world: World) -> list[str]:
    (world.run / "adapter" / "adapter_config.json").write_text("[" * 100_000)
    return start_from(world)


@hostile(ADAPTER, "a configuration with a number of endless digits")
def _(world: World) -> list[str]:
    (world.run / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": ' + "9" * 10_000 + "}")
    return start_from(world)


@hostile(ADAPTER, "tensors of another shape")
def _(world: World) -> list[str]:
    file = world.run / "adapter" / "adapter_model.safetensors"
    tensors(file, lambda named: named.update({one_of(named, "lora_A"): torch.ones(2, 3)}))
    return start_from(world)


@hostile(ADAPTER, "tensors that are not finite")
def _(world: World) -> list[str]:
    file = world.run / "adapter" / "adapter_model.safetensors"
    tensors(file, lambda named: named[one_of(named, "lora_A")].fill_(float("inf")))
    return start_from(world)


@hostile(ADAPTER, "a layer that is missing")
def _(world: World) -> list[str]:
    file = world.run / "adapter" / "adapter_model.safetensors"
    tensors(file, lambda named: named.pop(one_of(named, "lora_B")))
    return start_from(world)


@hostile(ADAPTER, "pickled tensors")
def _(world: World) -> list[str]:
    (world.run / "adapter" / "adapter_model.safetensors").unlink()
    (world.run / "adapter" / "adapter_model.bin").write_bytes(pickle.dumps(Evil()))
    return start_from(world)


@hostile(ADAPTER, "a FIFO in the place of its tensors")
def _(world: World) -> list[str]:
    (world.run / "adapter" / "adapter_model.safetensors").unlink()
    os.mkfifo(world.run / "adapter" / "adapter_model.safetensors")
    return start_from(world)


@hostile(ADAPTER, "a folder that is none")
def _(world: World) -> list[str]:
    return [*plan(world), "--set", f"adapter={{method: lora, init_from: {world.data}}}"]


def evaluate(world: World) -> list[str]:
    return ["eval", str(world.run)]


def resume(world: World) -> list[str]:
    return ["train", "--resume", str(world.interrupt())]


def replaced(what: str, name: str, content: bytes, command: Callable[[World], list[str]] = evaluate) -> None:
    """A case of other bytes in the place of a file of a run."""

    @hostile(RUN, what)
    def case(world: World) -> list[str]:
        arguments = command(world)
        (world.run / name).write_bytes(content)
        return arguments


def listing(world: World) -> list[str]:
    return ["runs", "--runs-dir", str(world.run.parent)]


replaced("`config.yaml` that is no YAML", "config.yaml", b"name: [1,\n")
replaced("`config.yaml` that is missing keys", "config.yaml", b"name: shapes\ntask: image_text\n")
replaced("`base.json` that is no JSON", "base.json", b"{" * 100_000)
replaced("`base.json` of other types", "base.json", b'{"version": 1, "model": 3, "files": []}')
replaced("`rows.json` that is no JSON", "rows.json", b"\x00\x01")
replaced("`rows.json` of other types", "rows.json", b'{"version": 1, "train": 3}')
replaced("`rows.json` with a number of endless digits", "rows.json", b'{"version": ' + b"9" * 10_000 + b"}")
replaced("`state.json` that is no JSON, when runs are listed", "state.json", b"\xff\xfe", listing)
replaced(
    "`state.json` with markup and terminal codes",
    "state.json",
    json.dumps(
        {
            "state": "failed",
            "message": "\x1b[2J[red]<script>alert(1)</script>\u202e",
            "best": 10**400,
            "epoch": -1,
            "pid": 2**80,
            "process": -5,
            "started": "now",
            "host": [],
        }
    ).encode(),
    listing,
)
replaced(
    "`metrics.jsonl` with lines that are none",
    "metrics.jsonl",
    b'{"step": 1, "seconds": 1%s}\n[]\n{"step":\n\xff\n' % (b"0" * 400),
    lambda world: resume(world),
)
replaced("`adapter/labels.json` of other types", "adapter/labels.json", b'{"labels": 3}')
replaced("`adapter/probes.safetensors` that is none", "adapter/probes.safetensors", b"\xff" * 99)


@hostile(RUN, "a `config.yaml` edited after the run was made")
def _(world: World) -> list[str]:
    file = world.run / "config.yaml"
    file.write_text(file.read_text().replace("lr: 0.02", "lr: 0.03"))
    return evaluate(world)


@hostile(RUN, "a link in the place of `base.json` that shows a file elsewhere")
def _(world: World) -> list[str]:
    (world.run / "base.json").rename(world.root / "elsewhere.json")
    (world.run / "base.json").symlink_to(world.root / "elsewhere.json")
    return evaluate(world)


@hostile(RUN, "a FIFO in the place of `rows.json`")
def _(world: World) -> list[str]:
    (world.run / "rows.json").unlink()
    os.mkfifo(world.run / "rows.json")
    return evaluate(world)


def checkpoint(world: World) -> Path:
    return world.run / "checkpoints" / json.loads((world.run / "checkpoints" / "pointers.json").read_text())["last"]


def reseal(folder: Path) -> None:
    """Make a manifest fit what a forger has written."""
    import hashlib

    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@hostile(RUN, "a flipped bit in the last checkpoint")
def _(world: World) -> list[str]:
    file = checkpoint(world) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return resume(world)


@hostile(RUN, "a flipped bit in every checkpoint")
def _(world: World) -> list[str]:
    for file in (world.run / "checkpoints").rglob("model.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    return resume(world)


@hostile(RUN, "a forged checkpoint whose tensors have other shapes")
def _(world: World) -> list[str]:
    folder = checkpoint(world)
    tensors(folder / "model.safetensors", lambda named: named.update({sorted(named)[0]: torch.ones(3, 3)}))
    reseal(folder)
    return resume(world)


@hostile(RUN, "a forged checkpoint whose tensors are missing")
def _(world: World) -> list[str]:
    folder = checkpoint(world)
    tensors(folder / "model.safetensors", lambda named: named.pop(sorted(named)[0]))
    reseal(folder)
    return resume(world)


@hostile(RUN, "a forged checkpoint with tensors that are not finite")
def _(world: World) -> list[str]:
    folder = checkpoint(world)
    tensors(folder / "model.safetensors", lambda named: named[sorted(named)[0]].fill_(float("nan")))
    reseal(folder)
    return resume(world)


@hostile(RUN, "a forged checkpoint with a huge header")
def _(world: World) -> list[str]:
    folder = checkpoint(world)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    reseal(folder)
    return resume(world)


@hostile(RUN, "a forged checkpoint whose trainer's state is of other types")
def _(world: World) -> list[str]:
    folder = checkpoint(world)
    (folder / "state.json").write_text(json.dumps({"version": 1, "epoch": "x", "step": [], "rng": {}}))
    reseal(folder)
    return resume(world)


@hostile(RUN, "a forged checkpoint whose manifest names a file outside of it")
def _(world: World) -> list[str]:
    for folder in (world.run / "checkpoints").glob("step-*"):
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"]["../../../../outside.json"] = {"bytes": 1, "sha256": "0" * 64}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return resume(world)


@hostile(RUN, "pointers to a checkpoint outside of the run")
def _(world: World) -> list[str]:
    shutil.copytree(checkpoint(world), world.root / "step-00000009")
    change_json(world.run / "checkpoints" / "pointers.json", last="../../../step-00000009", best="/etc", previous="..")
    return resume(world)


@hostile(RUN, "an experiment's name in a run that climbs out of its folder")
def _(world: World) -> list[str]:
    file = world.run / "config.yaml"
    file.write_text(file.read_text().replace("name: shapes", "name: ../../x"))
    return evaluate(world)


def sweep(what: str, content: bytes) -> None:
    @hostile(SWEEP, what)
    def case(world: World) -> list[str]:
        folder = world.root / "shapes-sweep-01234567"
        folder.mkdir()
        (folder / "sweep.json").write_bytes(content)
        return ["report", str(folder)]


sweep("`sweep.json` that is no JSON", b"[" * 100_000)
sweep("`sweep.json` of other types", b'{"version": 1, "cells": 3}')
sweep("`sweep.json` with a number of endless digits", b'{"version": ' + b"9" * 10_000 + b"}")
sweep("`sweep.json` that is an empty record", b"{}")
