"""Command-line experiments for multimodal contrastive fine-tuning.

As a library::

    from vectoruniverse import load_run

    run = load_run("latest")
    run.embed_images(["picture.jpg"]) @ run.embed_texts(["a red circle"]).T

of a run that classifies texts, ``load_classifier("latest").predict(["a text"])``, and all runs with their numbers as a
pandas table, ``runs_table()``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vectoruniverse.api import LoadedClassifier, LoadedRun, load_classifier, load_run
    from vectoruniverse.runs.frame import runs_table

__all__ = ["LoadedClassifier", "LoadedRun", "__version__", "load_classifier", "load_run", "runs_table"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Load the library's names when they are asked for: they bring torch, which ``vu --help`` does without."""
    if name in __all__:
        home = "vectoruniverse.runs.frame" if name == "runs_table" else "vectoruniverse.api"
        return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
