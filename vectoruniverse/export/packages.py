"""What each format of export needs beside this package's own; loads nothing, so that a lack is told at once."""

from __future__ import annotations

import importlib.util

from vectoruniverse.errors import ConfigError

PACKAGES: dict[str, tuple[str, ...]] = {
    "peft": ("peft",),
    "transformers": (),
    "sentence-transformers": ("sentence-transformers",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
}
"""Packages that writing and checking a format need, by its name; the extra of that name installs them."""


def require_packages(name: str) -> None:
    """Refuse before any work what cannot be done.

    Raises:
        ConfigError: there is no such format, or a package is absent, with the command that installs it.
    """
    if name not in PACKAGES:
        raise ConfigError(f"there is no format {name!r}", key="--to", remedy=f"choose one of {', '.join(PACKAGES)}")
    absent = [package for package in PACKAGES[name] if importlib.util.find_spec(package.replace("-", "_")) is None]
    if absent:
        raise ConfigError(f"--to {name} needs {', '.join(absent)}", remedy=f"pip install 'vectoruniverse[{name}]'")
