"""A sentence-transformers folder that encodes pictures and texts; written by that library's own classes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from vectoruniverse.api import LoadedRun
from vectoruniverse.export import to_transformers
from vectoruniverse.export.contract import Format, Probe, Vectors
from vectoruniverse.export.processing import pads_to_end

SNIPPET = """
from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(str(folder))
image_vectors = model.encode([Image.open("picture.jpg")])
text_vectors = model.encode(["a red circle"])
"""


def write(loaded: LoadedRun, folder: Path) -> None:
    """Fill ``folder``; its vectors have length 1, as the run's have."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer

    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".plain-") as plain:
        to_transformers.write(loaded, Path(plain))
        processing = {"text": {"padding": "max_length"}} if pads_to_end(loaded) else None
        tower = Transformer(plain, processing_kwargs=processing)
        model = SentenceTransformer(modules=[tower, Normalize()], device="cpu", similarity_fn_name="cosine")
        model.save(str(folder), create_model_card=False)


def embed(folder: Path, probe: Probe) -> Vectors:
    """Vectors of a folder, by ``SentenceTransformer.encode``."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    image, text = (model.encode(list(rows), show_progress_bar=False) for rows in (probe.images(), probe.texts))
    return Vectors(image, text)


def snippet(loaded: LoadedRun) -> str:
    """How to load it."""
    del loaded  # sentence-transformers reads everything that differs between models from the folder
    return SNIPPET


SENTENCE_TRANSFORMERS = Format(
    name="sentence-transformers",
    reader="sentence-transformers",
    tolerance=1e-5,
    library="sentence-transformers",
    tags=("sentence-similarity", "clip"),
    relation="finetune",
    write=write,
    embed=embed,
    snippet=snippet,
)
