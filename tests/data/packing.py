"""A data folder packed in each way that can be read."""

from __future__ import annotations

import csv
from pathlib import Path

from vectoruniverse.data.shards.write import Cut
from vectoruniverse.tasks.image_text.settings import DataConfig
from vectoruniverse.tasks.image_text.sharding import shard
from vectoruniverse.terminal import Display

FORMATS = ("parquet", "webdataset", "datasets")


def pack(root: Path, out: Path, form: str, rows: int = 9, **data: object) -> Path:
    """Several shards of the folder ``root``, in ``out``."""
    if form == "datasets":
        return save_dataset(root, out, rows)
    shard(DataConfig(root=str(root), **data), out, form, Cut(rows=rows), Display(quiet=True))
    return out


def save_dataset(root: Path, out: Path, rows: int) -> Path:
    """What Hugging Face `datasets` makes of ids, titles and pictures that lie in ``images/<Channel>``."""
    import datasets

    datasets.disable_progress_bars()
    with (root / "metadata.csv").open(newline="", encoding="utf-8") as file:
        found = [dict(row, picture=_picture(root, row)) for row in csv.DictReader(file)]
    made = datasets.Dataset.from_list(found).cast_column("picture", datasets.Image())
    made.save_to_disk(out, num_shards=-(-len(found) // rows))
    return out


def _picture(root: Path, row: dict[str, str]) -> dict[str, object]:
    file = next((root / "images").rglob(f"{row['Id']}.*"))
    return {"bytes": file.read_bytes(), "path": file.name}
