"""What README and guide say stays true: keys, files, messages, and every command in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from vectoruniverse.cli import app
from vectoruniverse.cli.guide import pages
from vectoruniverse.config.document import keys_table
from vectoruniverse.tasks.experiments import EXPERIMENTS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {ROOT / "vectoruniverse" / "guide" / f"{topic}.md": text for topic, text in pages().items()}
DOCUMENTS = {ROOT / "README.md": README, **PAGES}
ALL = "\n".join(DOCUMENTS.values())


def commands() -> list[str]:
    """Every `vu …` in a block of commands or between single backticks."""
    blocks = re.findall(r"^ *```bash\n(.*?)```", ALL, flags=re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]*\bvu [^`\n]+)`", ALL)
    bare = [re.split(r" +# ", line)[0].strip() for line in [*lines, *inline]]
    found = [re.sub(r"^.*?\bvu ", "vu ", line) for line in bare if "vu " in line]
    return sorted({line for line in found if "…" not in line})


def test_there_are_commands():
    assert len(commands()) >= 6


@pytest.mark.parametrize("line", commands())
def test_every_command_in_readme_and_guide_parses(line):
    command, arguments = get_command(app), shlex.split(line)[1:]
    if arguments in (["--version"], ["--help"]):  # these act while they are parsed
        assert CliRunner().invoke(app, arguments).exit_code == 0
        return
    context = command.make_context("vu", list(arguments), resilient_parsing=False)
    while isinstance(command, typer.core.TyperGroup):
        words = [*context._protected_args, *context.args]
        if not words and command.invoke_without_command:
            break
        name, command, rest = command.resolve_command(context, words)
        assert command is not None, name
        context = command.make_context(name, rest, parent=context)


def test_the_table_of_keys_is_the_one_in_the_code():
    assert keys_table(EXPERIMENTS).strip() in ALL, "run scripts/update_guide"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_module_named_exists(document):
    for name in re.findall(r"`((?:\w+/)+\w+\.py)`", DOCUMENTS[document]):
        if "simcse" not in name:  # the example that the reader writes
            assert (ROOT / "vectoruniverse" / name.removeprefix("vectoruniverse/")).is_file(), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_linked_file_exists(document):
    for target in re.findall(r"\]\(([^)#]+)\)", DOCUMENTS[document]):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_every_script_named_exists_and_can_be_run():
    for name in set(re.findall(r"scripts/(\w+(?:\.\w+)?)", ALL)):
        mode = (ROOT / "scripts" / name).stat().st_mode
        assert mode & 0o111 or "." in name, name


def test_every_config_is_named():
    for file in (ROOT / "configs").rglob("*.yaml"):
        assert file.name in ALL, file.name


def test_the_readme_is_two_screens():
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("document", PAGES, ids=lambda path: path.stem)
def test_a_page_opens_with_its_title_and_what_it_answers(document):
    title, blank, lead, after = PAGES[document].splitlines()[:4]
    assert title.startswith("# ") and not blank and len(lead) > 20 and not after
    assert f"{document.stem}.md" in README, "the README links every page"


def test_every_message_of_the_troubleshooting_page_is_one_of_the_program():
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "vectoruniverse").rglob("*.py"))
    source = re.sub(r"\"\s*\n\s*f?\"", "", source)  # a message over several lines
    page = PAGES[ROOT / "vectoruniverse" / "guide" / "troubleshooting.md"]
    for message in re.findall(r"^\| `([^`]+)`", page, flags=re.MULTILINE)[1:]:  # the first is the shell's
        for part in re.split(r"…|\b[nm]\b", message):
            assert part.strip() in source, message


def test_vu_guide_lists_the_pages_and_prints_one():
    listed = CliRunner().invoke(app, ["guide"])
    assert listed.exit_code == 0 and all(path.stem in listed.output for path in PAGES)
    shown = CliRunner().invoke(app, ["guide", "losses"])
    assert shown.output == pages()["losses"]


def test_vu_guide_knows_what_was_meant():
    answer = CliRunner().invoke(app, ["guide", "picture"])
    assert answer.exit_code == 2 and "did you mean 'pictures'?" in answer.output
