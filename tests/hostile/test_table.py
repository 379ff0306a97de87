"""Hostile input, row by row of the guide's table: exit code, message, no traceback, earlier results intact."""

from __future__ import annotations

import re
import unicodedata

import pytest

from tests.cli.test_runs import vu
from tests.hostile import data_folders, experiment_files, folders, surroundings  # noqa: F401 (they enter their cases)
from tests.hostile.world import CASES, copy_world, digests, make_world
from vectoruniverse.cli.guide import pages

ROW = re.compile(r"^\| (?P<what>.+?) \| (?P<code>\d+) \| `(?P<says>.+)` \|$", re.MULTILINE)


def table() -> list[tuple[str, str, int, str]]:
    """Place, input, exit code and message of each row of the page."""
    sections = re.split(r"^## ", pages()["hostile-input"], flags=re.MULTILINE)[1:]
    return [
        (section.partition("\n")[0], row["what"], int(row["code"]), row["says"])
        for section in sections
        for row in ROW.finditer(section)
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("hostile"))


def test_the_guide_lists_every_case_and_no_other():
    assert sorted((place, what) for place, what, _, _ in table()) == sorted(CASES)


@pytest.mark.parametrize(
    ("place", "what", "code", "says"), table(), ids=[f"{place}: {what}" for place, what, *_ in table()]
)
def test_hostile_input_ends_as_the_guide_says_and_loses_nothing(place, what, code, says, world, tmp_path, monkeypatch):
    own = copy_world(world, tmp_path / "world")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(own.root / "config"))
    arguments = CASES[place, what](own)
    for name, value in own.environment.items():
        monkeypatch.setenv(name, value)
    before = digests(own.runs)

    done = vu(*arguments, cwd=own.root)  # an exception that no command tells is raised here

    logs = "".join(file.read_text(encoding="utf-8") for file in own.says)
    said = done.stdout + done.stderr + logs
    assert done.returncode == code, said
    assert says in re.sub(" +", " ", said)
    assert "Traceback" not in said
    assert not [c for c in said if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    assert code == 0 or done.stderr == "" or len(done.stderr.split("vu: ")[-1].splitlines()) <= 3
    assert digests(own.runs) == before
    assert not list(own.root.rglob("it_ran")), "something in the input was executed"
