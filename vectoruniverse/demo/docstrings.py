"""The documentation strings of the Python that runs: a real English corpus that is always there."""

from __future__ import annotations

import ast
import functools
import os
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vectoruniverse.errors import DataError

_OTHERS = {"site-packages", "dist-packages", "__pycache__"}  # not part of the standard library
_Defined = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Docstring(NamedTuple):
    """One documentation string."""

    module: str
    name: str  # qualified, within the module; "" for the module itself
    is_function: bool
    text: str  # without the indentation of the code


def standard_library() -> Path:
    """Folder of the standard library's sources."""
    return Path(sysconfig.get_paths()["stdlib"])


@functools.cache
def read_docstrings(root: Path) -> tuple[Docstring, ...]:
    """Documentation strings of all modules below a folder, in order of path and position; read once in a process.

    Sources are parsed, never imported. Packages of tests and of other distributions are passed over, and so is what
    this Python cannot parse.

    Raises:
        DataError: there are none.
    """
    found = tuple(entry for file in _sources(root) for entry in _docstrings(file, _module(file.relative_to(root))))
    if not found:
        raise DataError(
            "there are no Python sources with documentation strings here",
            file=root,
            remedy="Use a Python that is installed with its sources.",
        )
    return found


def _sources(root: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(root):
        # In place, so that the walk keeps to these, and in this order. A name that cannot be imported is no package.
        folders[:] = sorted(name for name in folders if name.isidentifier() and not _is_foreign(name))
        for name in sorted(names):
            stem = name.removesuffix(".py")
            if stem != name and stem.isidentifier() and not _is_foreign(stem):
                yield Path(parent, name)


def _is_foreign(name: str) -> bool:
    return name in _OTHERS or name in ("test", "tests", "idle_test") or name.startswith("test_")


def _module(relative: Path) -> str:
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _docstrings(file: Path, module: str) -> Iterator[Docstring]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in others' strings
            tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    yield from _walk(tree, module, "")


def _walk(node: ast.AST, module: str, name: str) -> Iterator[Docstring]:
    if isinstance(node, _Defined):
        if (text := ast.get_docstring(node)) and "\0" not in text:
            yield Docstring(module, name, isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef), text)
    elif not isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
        return  # expressions define nothing that is documented
    for child in ast.iter_child_nodes(node):
        own = getattr(child, "name", "") if isinstance(child, _Defined) else ""
        yield from _walk(child, module, f"{name}.{own}".strip(".") if own else name)
