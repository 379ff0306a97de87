"""Data: metadata file → usable rows → decoded pictures → training, validation and test rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from vectoruniverse.config.sections import SplitConfig
from vectoruniverse.data.decoding import PictureFile, PictureRecipe
from vectoruniverse.data.findings import Finding
from vectoruniverse.data.normalise import canonical, caseless, shown, spellings
from vectoruniverse.data.pair_items import PairItems, number
from vectoruniverse.data.splits import Split, count_shared, divide, group_rows
from vectoruniverse.data.thumbnails import DecodedPictures, PictureStore, default_cache_dir
from vectoruniverse.tasks.image_text.metadata import Metadata, Row, group_values
from vectoruniverse.tasks.image_text.settings import DataConfig
from vectoruniverse.tasks.rows import Data, NamedRow, RowChoice, digest, shares, tell_doubts, tell_marked
from vectoruniverse.terminal import Display

MOST_STORED = 64 * 2**30
"""Bytes of decoded pictures, above which ``data.store: auto`` keeps none of them: 450,000 of 224 pixels."""


@dataclass(frozen=True)
class ImageTextData(Data[DataConfig, Row]):
    """Usable rows, their decoded pictures, row by row, and their division."""

    table: Metadata
    pictures: DecodedPictures

    @property
    def source(self) -> str:
        """Folder of metadata and pictures, as the experiment names it."""
        return self.config.root

    @property
    def grouped_by(self) -> str:
        """What rows of one group have in common."""
        return canonical(self.config.split.group_by or "picture")

    @property
    def kept_together(self) -> str:
        """Pictures, or what a column holds together."""
        column = self.config.split.group_by
        return f"grouped by `{column}`" if column else "identical pictures together"

    def named_rows(self) -> list[NamedRow]:
        """Every usable row: its picture is what it is, its text and labels are what is right about it."""
        return _named(self.rows, self.pictures)

    def thumbnails(self, split: str) -> Callable[[np.ndarray], np.ndarray]:
        """Stored pictures uint8 (B, S, S, 3) of rows of a split, by their position in it."""
        return self.pictures.select(getattr(self.split, split)).take

    def items(self) -> PairItems:
        """Which rows hold the same picture, down to the last stored pixel, or the same text."""
        texts = number([caseless(row.text) for row in self.rows])
        return PairItems(number([self.pictures.content(i) for i in range(len(self.rows))]), texts)

    def train_texts(self) -> list[str]:
        """Texts of the training rows."""
        return [self.rows[i].text for i in self.split.train]

    def fingerprint(self) -> str:
        """sha256 over every row's id, text, picture and labels and over the split: equal data, equal number."""

        def told(side: str, i: int) -> str:
            return json.dumps([*self._told(side, i), sorted(self.rows[i].labels)]) + "\n"

        return self.split.fingerprint(told)

    def earlier_fingerprint(self) -> str:
        """The same without labels, as runs noted it that an earlier version made."""
        return self.split.fingerprint(lambda side, i: "\0".join(self._told(side, i)) + "\n")

    def _told(self, side: str, i: int) -> list[str]:
        return [side, self.rows[i].id, self.rows[i].text, str(self.pictures.digests[i])]


def cache_folder(data: DataConfig) -> Path:
    """Where decoded pictures, and what is computed of them once, are kept."""
    return Path(data.cache_dir).expanduser() if data.cache_dir else default_cache_dir()


def decode_pictures(
    data: DataConfig, paths: Sequence[PictureFile], recipe: PictureRecipe, on_progress: Callable[[int, int], None]
) -> DecodedPictures:
    """These pictures, each decoded once, in the cache that the experiment names; or decoded whenever they are read."""
    if keeps_decoded(data, len(paths), recipe.size):
        return PictureStore.open(cache_folder(data), recipe).ensure(paths, on_progress=on_progress)
    return PictureStore.open(cache_folder(data), recipe, pixels=False).digest_only(paths, on_progress=on_progress)


def keeps_decoded(data: DataConfig, rows: int, side: int) -> bool:
    """Whether decoded pictures of so many rows are kept: a function of the experiment and its data alone."""
    return data.store == "on" or (data.store == "auto" and rows * side * side * 3 <= MOST_STORED)


def decode(
    data: DataConfig,
    metadata: Metadata,
    recipe: PictureRecipe,
    display: Display,
    choice: RowChoice | None = None,
) -> ImageTextData:
    """Decode every picture once, set bad ones aside, divide the rest: by ``choice``, else as ``data.split`` says."""
    tell_doubts(metadata.doubts, metadata.file, display)
    paths = [row.path for row in metadata.rows]
    decoded = decode_pictures(data, paths, recipe, partial(display.advance, "pictures"))
    usable = decoded.usable()
    rows, pictures, bad = [metadata.rows[i] for i in usable], decoded.select(usable), list(metadata.bad)
    for i, error in sorted(decoded.errors.items()):
        row = metadata.rows[i]
        bad.append(Finding(error.kind, str(error), metadata.name, row.line, row.id))
    metadata = dataclasses.replace(metadata, rows=rows, bad=bad)
    metadata.refuse_bad(data.max_bad_share)
    groups = group_by(data.split.group_by, rows, pictures.digests)
    _tell_groups(data.split.group_by, rows, display)
    if choice is not None:
        split = choice.divide(_named(rows, pictures), metadata.file)
        chosen = np.unique(np.concatenate(split))  # no other row may tie their groups together
        found = group_by(data.split.group_by, [rows[i] for i in chosen], pictures.select(chosen).digests)
        for i, name in zip(chosen, found, strict=True):
            groups[i] = name
    else:
        split = divide_pictures(rows, groups, data.split, metadata.file)
        what = f"picture or {canonical(data.split.group_by)}" if data.split.group_by else "picture"
        tell_marked(split, data.split, count_shared([{group} for group in groups], split), what, display)
    return ImageTextData(data, metadata, split, groups, pictures)


def divide_pictures(rows: Sequence[Row], groups: Sequence[str], config: SplitConfig, file: Path | None = None) -> Split:
    """The parts that ``data.split`` asks for; errors as of ``divide``."""
    return divide([row.id for row in rows], [row.split for row in rows], groups, file=file, **shares(config))


def _named(rows: Sequence[Row], pictures: DecodedPictures) -> list[NamedRow]:
    return [
        NamedRow(row.id, str(picture)[:16], digest(row.text, sorted(row.labels)))
        for row, picture in zip(rows, pictures.digests, strict=True)
    ]


def group_by(column: str | None, rows: Sequence[Row], digests: Sequence[str | None]) -> list[str]:
    """Group of each row: equal pictures (by the digests of their files) and equal values of the column are together."""
    return group_rows([str(digest) for digest in digests], group_values(rows, column))


def _tell_groups(column: str | None, rows: list[Row], display: Display) -> None:
    """Warn of groups that are spelt in several ways."""
    name = canonical(column or "")
    for written in spellings(row.columns[name] for row in rows if column):
        told = " and ".join(map(shown, written))
        display.warn(f"{name} {told} are taken for one and stay on one side of the split")
