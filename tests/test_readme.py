"""What the README says stays true: its table of keys, its files, and every command in it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from vectoruniverse.cli import app
from vectoruniverse.config.document import keys_table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Every `vu …` in a block of commands or between single backticks."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]*\bvu [^`\n]+)`", README)
    found = [re.sub(r"^.*?\bvu ", "vu ", line.split(" # ")[0].strip()) for line in [*lines, *inline] if "vu " in line]
    return sorted({line for line in found if "…" not in line})


def test_there_are_commands():
    assert len(commands()) >= 6


@pytest.mark.parametrize("line", commands())
def test_every_command_in_the_readme_parses(line):
    command, arguments = get_command(app), shlex.split(line)[1:]
    context = command.make_context("vu", list(arguments), resilient_parsing=False)
    while isinstance(command, typer.core.TyperGroup):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None, name
        context = command.make_context(name, rest, parent=context)


def test_the_table_of_keys_is_the_one_in_the_code():
    assert keys_table().strip() in README, "run scripts/update_readme"


def test_every_linked_file_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_every_script_in_the_readme_exists_and_can_be_run():
    for name in set(re.findall(r"scripts/(\w+(?:\.\w+)?)", README)):
        mode = (ROOT / "scripts" / name).stat().st_mode
        assert mode & 0o111 or "." in name, name


def test_every_config_is_in_the_readme():
    for file in (ROOT / "configs").rglob("*.yaml"):
        assert file.name in README, file.name
