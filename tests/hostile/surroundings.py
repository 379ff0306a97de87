"""Arguments, variables of the environment, and schedules."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.hostile.experiment_files import check, plan
from tests.hostile.world import World, hostile

ARGUMENTS, VARIABLES, SCHEDULE = "Arguments", "Environment variables", "Schedules"


@hostile(ARGUMENTS, "a name of a file with a NUL")
def _(world: World) -> list[str]:
    return ["train", "--config", "a\0b.yaml"]


@hostile(ARGUMENTS, "a name of a file with half of a surrogate pair")
def _(world: World) -> list[str]:
    return ["train", "--config", "\ud800.yaml"]


@hostile(ARGUMENTS, "a name that is longer than any file's")
def _(world: World) -> list[str]:
    return ["train", "--config", "x" * 5_000]


@hostile(ARGUMENTS, "terminal codes in a name")
def _(world: World) -> list[str]:
    return ["data", "check", "/nowhere/\x1b[2J\x1b]0;owned\x07"]


@hostile(ARGUMENTS, "a run by a path that climbs")
def _(world: World) -> list[str]:
    return ["eval", "../../x", "--runs-dir", str(world.runs)]


@hostile(ARGUMENTS, "a run by a name with a NUL")
def _(world: World) -> list[str]:
    return ["eval", "a\0b", "--runs-dir", str(world.runs)]


@hostile(ARGUMENTS, "a run by a name with terminal codes")
def _(world: World) -> list[str]:
    return ["eval", "\x1b[2J", "--runs-dir", str(world.runs)]


@hostile(ARGUMENTS, "an override of a place inside of a number")
def _(world: World) -> list[str]:
    return [*check(world), "--set", "train.lr.x.y=1"]


@hostile(ARGUMENTS, "an override with terminal codes as key")
def _(world: World) -> list[str]:
    return [*check(world), "--set", "\x1b[2J=1"]


@hostile(ARGUMENTS, "an override with half of a surrogate pair")
def _(world: World) -> list[str]:
    return [*check(world), "--set", "wandb.notes=\ud800"]


@hostile(ARGUMENTS, "settings as JSON nested without end")
def _(world: World) -> list[str]:
    return ["train", "--config", str(world.config), "--set-json", "[" * 100_000]


@hostile(ARGUMENTS, "settings as JSON with a number of endless digits")
def _(world: World) -> list[str]:
    return ["train", "--config", str(world.config), "--set-json", '{"seed": ' + "9" * 10_000 + "}"]


@hostile(ARGUMENTS, "a table to write that is a folder")
def _(world: World) -> list[str]:
    return ["data", "check", str(world.data), "--csv", str(world.root)]


@hostile(ARGUMENTS, "an export over a folder that somebody keeps things in")
def _(world: World) -> list[str]:
    return ["export", str(world.run), "--to", "peft", "--out", str(world.data)]


@hostile(ARGUMENTS, "a repository's name that climbs")
def _(world: World) -> list[str]:
    return ["export", str(world.run), "--to", "peft", "--push", "me/../you"]


@hostile(ARGUMENTS, "a folder of runs that is a file")
def _(world: World) -> list[str]:
    return ["train", "--config", str(world.config), "--runs-dir", str(world.config)]


@hostile(ARGUMENTS, "a folder of the picture cache that is a file")
def _(world: World) -> list[str]:
    return [
        "train",
        "--config",
        str(world.config),
        "--runs-dir",
        str(world.runs),
        "--set",
        f"data.cache_dir={Path(world.config)}",
    ]


def variable(what: str, name: str, value: str) -> None:
    """A case of a variable that a training meets."""

    @hostile(VARIABLES, what)
    def case(world: World) -> list[str]:
        world.environment[name] = value.format(world=world)
        return plan(world)[:3]


variable("`VU_RUNS` that is a file", "VU_RUNS", "{world.config}")
variable("`VU_CACHE` that is a file", "VU_CACHE", "{world.config}")


def record(world: World, **changes: object) -> Path:
    """A schedule that somebody else wrote."""
    folder = world.root / "schedule"
    folder.mkdir()
    values = {
        "name": "night",
        "at": "0 3 * * *",
        "program": sys.executable,
        "arguments": ["-c", ""],
        "folder": str(world.root),
    }
    file = folder / "night.json"
    file.write_text(json.dumps(values | changes))
    return file


def schedule(what: str, *arguments: str) -> None:
    """A case of a schedule that is to be added."""

    @hostile(SCHEDULE, what)
    def case(world: World) -> list[str]:
        return ["schedule", "add", "--config", str(world.config), "--print", *arguments]


schedule("a name that climbs", "--at", "0 3 * * *", "--name", "../../x")
schedule("a name with a line end", "--at", "0 3 * * *", "--name", "a\n* * * * * evil")
schedule("a time that is none", "--at", "0 99 * * *")
schedule("a time with a line of its own", "--at", "0 3 * * *\n* * * * * evil")
schedule("an address that reads a file", "--at", "0 3 * * *", "--ping", "file:///etc/passwd")


@hostile(SCHEDULE, "a record that is no JSON")
def _(world: World) -> list[str]:
    file = record(world)
    file.write_text("{" * 100_000)
    return ["schedule", "run", str(file)]


@hostile(SCHEDULE, "a record of other types")
def _(world: World) -> list[str]:
    return ["schedule", "run", str(record(world, arguments="rm -rf /"))]


@hostile(SCHEDULE, "a record whose name climbs")
def _(world: World) -> list[str]:
    return ["schedule", "run", str(record(world, name="../../x"))]


@hostile(SCHEDULE, "a record whose arguments hold a NUL")
def _(world: World) -> list[str]:
    return ["schedule", "run", str(record(world, arguments=["a\0b"]))]


@hostile(SCHEDULE, "a record that is a FIFO")
def _(world: World) -> list[str]:
    file = record(world)
    file.unlink()
    os.mkfifo(file)
    return ["schedule", "run", str(file)]


@hostile(SCHEDULE, "a record of a program that is gone")
def _(world: World) -> list[str]:
    return ["schedule", "run", str(record(world, program=str(world.root / "gone")))]


@hostile(SCHEDULE, "a folder that is gone")
def _(world: World) -> list[str]:
    return ["schedule", "run", str(record(world, folder=str(world.root / "gone")))]


@hostile(SCHEDULE, "an environment file that others can read, with lines that are no variables")
def _(world: World) -> list[str]:
    file = record(world, program="/bin/false")
    (file.parent / "environment").write_bytes(b"WANDB_API_KEY=secret\nno variable\nA=\0\n\xff=1\n")
    (file.parent / "environment").chmod(0o644)
    world.says.append(file.with_suffix(".log"))
    return ["schedule", "run", str(file)]


@hostile(SCHEDULE, "an environment file that is a FIFO")
def _(world: World) -> list[str]:
    file = record(world, program="/bin/false")
    os.mkfifo(file.parent / "environment")
    return ["schedule", "run", str(file)]
