"""Vectors of pictures and titles, beside `encode` of sentence-transformers on the same model."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bench.machine import clock, peak_mib
from bench.material import Material
from bench.rounds import Case, Column, Measured, table

OURS, PEER = "vectoruniverse", "sentence-transformers"
BATCH = 32
"""Rows at a time, of both; the default of `encode`."""

COLUMNS = (Column("rows/s", "per_second"), Column("peak memory, MiB", "memory", ",.0f"))


def check(options: Namespace) -> Case:
    """Both vectors of the same rows."""
    return Case("embedding", "check", "both", {"folder": str(options.work)})


def cases(options: Namespace, facts: dict[str, Any]) -> list[Case]:
    settings = {"folder": str(options.work)}
    return [
        Case("embedding", what, name, {**settings, "repeat": repeat})
        for what, repeat in (("JPEGs", 1), ("titles", options.title_repeats))
        for name in (OURS, PEER)
    ]


def measure(case: Case) -> dict[str, float]:
    material = Material(Path(case.settings["folder"]))
    paths, titles = map(list, zip(*material.rows(), strict=True))
    if case.group == "check":
        return same_vectors(material, paths, titles)
    what = paths if case.group == "JPEGs" else titles * case.settings["repeat"]
    embed = encoders(material, case.name)[0 if case.group == "JPEGs" else 1]
    embed(what[:4])
    started = clock()
    embed(what)
    seconds = clock() - started
    return {"seconds": seconds, "per_second": len(what) / seconds, "memory": peak_mib()}


def encoders(material: Material, name: str) -> tuple[Callable[[list[Path]], Tensor], Callable[[list[str]], Tensor]]:
    """Files to vectors, and texts to vectors."""
    return _ours(material) if name == OURS else _theirs(material)


def _ours(material: Material) -> tuple[Callable[[list[Path]], Tensor], Callable[[list[str]], Tensor]]:
    from vectoruniverse.data.thumbnails import PictureStore
    from vectoruniverse.models.compute import Compute
    from vectoruniverse.models.dual import load_dual_encoder
    from vectoruniverse.training.allocator import keep_freed_memory

    keep_freed_memory()  # as vu does
    encoder = load_dual_encoder(str(material.model), Compute(torch.device("cpu"), torch.float32))

    def pictures(paths: list[Path]) -> Tensor:
        with tempfile.TemporaryDirectory() as cache:  # nothing was decoded before
            decoded = PictureStore.open(Path(cache), encoder.picture).ensure(paths, on_progress=lambda done, of: None)
            return encoder.embed_squares(decoded.take, len(paths), batch_size=BATCH)

    return pictures, lambda texts: encoder.embed_texts(encoder.tokenize(texts), batch_size=BATCH)


def _theirs(material: Material) -> tuple[Callable[[list[Path]], Tensor], Callable[[list[str]], Tensor]]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(material.model), device="cpu")

    def encode(rows: list[Any]) -> Tensor:
        vectors = model.encode(list(map(str, rows)), batch_size=BATCH, convert_to_tensor=True, show_progress_bar=False)
        return normalize(vectors, dim=1)

    return encode, encode


def same_vectors(material: Material, paths: list[Path], titles: list[str]) -> dict[str, float]:
    """Least cosine of both vectors of a picture and of a title.

    Raises:
        SystemExit: it is below 0.9999.
    """
    found = {}
    for place, (what, rows) in enumerate((("JPEGs", paths[:8]), ("titles", titles[:8]))):
        ours, theirs = (encoders(material, name)[place](rows) for name in (OURS, PEER))
        found[what] = float((ours * theirs).sum(dim=1).min())
        if not found[what] >= 0.9999:
            raise SystemExit(f"vectors of {what} differ: least cosine {found[what]}")
    return found


def page(found: list[Measured], facts: dict[str, Any]) -> str:
    return (
        f"fp32, {BATCH} rows at a time. Least cosine of both vectors of a row: JPEGs {facts['JPEGs']:.6f}, titles "
        f"{facts['titles']:.6f}.\n\n{table(found, COLUMNS)}"
    )
