"""A small data set, a model and finished runs, all in one folder that a case may spoil; and the table of cases."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import write_shapes
from tests.export.runs import train_shapes

TRAIN = {"epochs": 2, "batch_size": 12, "lr": 0.02, "device": "cpu", "precision": "fp32"}


@dataclass(frozen=True)
class World:
    """What a case finds: everything is its own copy.

    Attributes:
        root: its folder.
        environment: variables that a case adds.
        says: files that what the command says is also looked for in, such as a log.
    """

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    says: list[Path] = field(default_factory=list)

    @property
    def data(self) -> Path:
        """Data folder in the owner's layout: 32 rows."""
        return self.root / "data"

    @property
    def table(self) -> Path:
        return self.data / "metadata.csv"

    @property
    def picture(self) -> Path:
        """One of the pictures."""
        return self.data / "images" / "red" / "red-circle-left.png"

    @property
    def config(self) -> Path:
        """An experiment on the data."""
        return self.root / "shapes.yaml"

    @property
    def model(self) -> Path:
        """Its base model."""
        return self.root / "model"

    @property
    def runs(self) -> Path:
        """Runs that are there already; nothing may change of them."""
        return self.root / "runs"

    @property
    def run(self) -> Path:
        """A finished run from somebody else; a case may spoil it."""
        return self.root / "foreign" / "shapes-20260101-0300-aaaa"

    def interrupt(self) -> Path:
        """The foreign run, as if its training had been interrupted at its end."""
        change_json(self.run / "state.json", state="interrupted")
        return self.run

    def write(self, *replacements: tuple[str, str]) -> Path:
        """The experiment file with some of its text replaced."""
        text = self.config.read_text(encoding="utf-8")
        for old, new in replacements:
            assert old in text, old
            text = text.replace(old, new, 1)
        self.config.write_text(text, encoding="utf-8")
        return self.config


def change_json(file: Path, **values: Any) -> None:
    """Set some keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def make_world(root: Path) -> World:
    """A world with a run; once for all cases."""
    world = World(root)
    write_shapes(world.data)
    run = train_shapes(root, world.data, train=TRAIN)
    world.run.parent.mkdir()
    shutil.copytree(run, world.run)
    return world


def copy_world(world: World, root: Path) -> World:
    """A copy that refers to nothing but itself."""
    shutil.copytree(world.root, root, symlinks=True)
    for file in [*root.rglob("config.yaml"), *root.rglob("rows.json"), *root.rglob("base.json"), root / "shapes.yaml"]:
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(str(world.root), str(root)), encoding="utf-8")
    return World(root)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every regular file below a folder by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


Case = Callable[[World], list[str]]
CASES: dict[tuple[str, str], Case] = {}
"""By place and input, as the guide's table names them: spoils a world, and gives the arguments of ``vu``."""


def hostile(place: str, what: str) -> Callable[[Case], Case]:
    """Enter a case into the table."""

    def enter(case: Case) -> Case:
        assert (place, what) not in CASES, (place, what)
        CASES[place, what] = case
        return case

    return enter
