"""Experiment files."""

from __future__ import annotations

import os

from tests.hostile.world import World, hostile

FILE = "Experiment files"


def check(world: World) -> list[str]:
    return ["config", "check", str(world.config)]


def plan(world: World) -> list[str]:
    return ["train", "--config", str(world.config), "--runs-dir", str(world.runs), "--dry-run"]


def appended(what: str, text: str | bytes) -> None:
    """A case that adds lines to a sound file."""

    @hostile(FILE, what)
    def case(world: World) -> list[str]:
        more = text if isinstance(text, bytes) else text.encode()
        world.config.write_bytes(world.config.read_bytes() + b"\n" + more)
        return check(world)


def alone(what: str, content: bytes) -> None:
    """A case of a file that is all hostile."""

    @hostile(FILE, what)
    def case(world: World) -> list[str]:
        world.config.write_bytes(content)
        return check(world)


appended("a tag that makes other readers run code", "notes: !!python/object/apply:os.system ['touch it_ran']\n")
appended("anchors and aliases, such as a bomb of them", "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n")
appended("merge keys", "<<: {seed: 1}\n")
appended("a key that stands twice", "name: other\n")
appended("an unknown key", "epochs: 3\n")
appended("a key that is no text", "1: 2\n")
appended("a second document", "---\nname: other\n")
appended("a number of more digits than any field holds", f"seed: {'9' * 100_00}\n")
appended("a control character in a text", b'notes: "\\u001b[2J"\n')
appended("a character that YAML forbids", b"notes: \x01\n")
alone("an unclosed bracket", b"name: [1, 2\n")
alone("sections nested without end", b"{a: " * 5_000)
alone("more than 64 KiB", b"# " + b"x" * 70_000)
alone("bytes that are not UTF-8", b"name: caf\xe9\n")
alone("nothing", b"")
alone("a list in the place of sections", b"- name\n- task\n")
alone("NUL bytes", b"name: a\x00b\n")


@hostile(FILE, "a section in the place of a number, a text in that of a section")
def _(world: World) -> list[str]:
    world.write(("lr: 0.02", "lr: {a: 1}"))
    return check(world)


@hostile(FILE, "a number beyond all use")
def _(world: World) -> list[str]:
    world.write(("batch_size: 12", "batch_size: 99999999999"))
    return check(world)


@hostile(FILE, "a number that is none (.nan, .inf)")
def _(world: World) -> list[str]:
    world.write(("lr: 0.02", "lr: .nan"))
    return check(world)


@hostile(FILE, "a name that climbs out of the folder of runs")
def _(world: World) -> list[str]:
    world.write(("name: shapes", "name: ../../x"))
    return check(world)


@hostile(FILE, "a pattern that would take for ever to match")
def _(world: World) -> list[str]:
    return [*plan(world), "--set", "adapter.rank_pattern={'(a+)+$': 4}"]


@hostile(FILE, "a template that reaches into objects")
def _(world: World) -> list[str]:
    return [*plan(world), "--set", "data.text='{title.__class__.__mro__}'"]


@hostile(FILE, "a FIFO in its place")
def _(world: World) -> list[str]:
    world.config.unlink()
    os.mkfifo(world.config)
    return check(world)


@hostile(FILE, "a device in its place")
def _(world: World) -> list[str]:
    return ["train", "--config", "/dev/zero"]
