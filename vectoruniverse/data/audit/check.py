"""Is this a data folder one can train on? Every row is read and every picture decoded, under training's own limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.data.audit import near, picture_checks, row_checks
from vectoruniverse.data.audit.findings import KINDS, DataReport, Finding, Place, finding
from vectoruniverse.data.audit.picture_checks import Seen, seen
from vectoruniverse.data.audit.stats import TokenCounter, data_stats
from vectoruniverse.data.locate import CHANNEL
from vectoruniverse.data.metadata import Row, group_values, read_metadata
from vectoruniverse.data.normalise import canonical
from vectoruniverse.data.splits import group_rows, split_rows
from vectoruniverse.data.text_file import TextFileError
from vectoruniverse.data.thumbnails import PictureRecipe, Pictures, PictureStore, default_cache_dir
from vectoruniverse.errors import DataError

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, how much of it is done, and how much there is."""


def check_data(
    root: Path,
    *,
    recipe: PictureRecipe,
    metadata: str = "metadata.csv",
    layout: str = "auto",
    images: str = "images",
    columns: Mapping[str, str | None] | None = None,
    text: str = "{title}",
    label_separator: str = ",",
    include: Mapping[str, Sequence[str]] | None = None,
    exclude: Mapping[str, Sequence[str]] | None = None,
    encoding: str = "utf-8",
    group_by: str | None = None,
    val_fraction: float = 0.2,
    seed: int = 42,
    token_counts: TokenCounter | None = None,
    max_tokens: int | None = None,
    near_distance: int = near.DEFAULT_DISTANCE,
    cache_dir: Path | None = None,
    on_progress: Progress | None = None,
) -> DataReport:
    """Check a data folder and report every fault with its file, line and reason; ``KINDS`` lists what is looked for.

    Args:
        root: the data folder.
        recipe: how pictures become squares; its size is the square that the model sees, its limits are training's.
        metadata: this and the next eight as for ``read_metadata``: the metadata file, relative to ``root``.
        layout: ``id``, ``imagefolder``, ``open_clip``, or ``auto``.
        images: folder of the pictures; where it exists, only files below it can be orphans.
        columns: names of the columns where they differ from the layout's.
        text: template of the text.
        label_separator: what separates labels within a cell.
        include: column → values to keep; other rows are not checked.
        exclude: column → values to drop.
        encoding: of the metadata file.
        group_by: column whose equal values stay on one side of the split; None groups identical pictures only.
        val_fraction: share of the rows wanted for validation.
        seed: seed of the split.
        token_counts: lengths of texts in the model's tokens, marks included; None leaves text lengths unchecked.
        max_tokens: the model's limit.
        near_distance: bits in which the hashes of nearly identical pictures may differ (``near.py``).
        cache_dir: where decoded pictures are kept; None takes the usual place.
        on_progress: called as work proceeds.

    Raises:
        DataError: the metadata file is not there.
        ConfigError: a setting names something that is not there.
    """
    tell = on_progress or (lambda stage, done, total: None)
    read = partial(
        read_metadata,
        root,
        metadata=metadata,
        layout=layout,
        images=images,
        columns=columns,
        text=text,
        label_separator=label_separator,
        encoding=encoding,
    )
    try:
        found = read(include=include, exclude=exclude)
    except DataError as error:
        if isinstance(error, TextFileError) and error.kind == "no_file":
            raise
        return _unreadable(root, metadata, error)
    decoded = PictureStore.open(cache_dir or default_cache_dir(), recipe).ensure(
        [row.path for row in found.rows], on_progress=partial(tell, "pictures")
    )
    positions = np.array([i for i in range(len(found.rows)) if i not in decoded.errors], np.int64)
    rows = [found.rows[i] for i in positions]
    pictures = seen(metadata, rows, [str(decoded.digests[i]) for i in positions])
    stats = data_stats(rows, token_counts=token_counts, max_tokens=max_tokens)
    groups, flat = _compare(pictures, decoded, positions, near_distance, tell)
    column = None if group_by is None else canonical(group_by)
    val, split_findings = _divide(pictures, groups, group_by=column, val_fraction=val_fraction, seed=seed)
    folder = root / images if (root / images).is_dir() else root
    findings = [
        *(row_checks.bad_row_finding(row, metadata) for row in (*found.bad, *found.doubts)),
        *(
            picture_checks.picture_finding(found.rows[i], error, found.root, metadata)
            for i, error in decoded.errors.items()
        ),
        *row_checks.title_findings(found.rows, metadata),
        *row_checks.length_findings(rows, metadata, stats.text_tokens, max_tokens),
        *row_checks.label_findings(rows, metadata, column=found.label_column, separator=label_separator),
        *row_checks.group_findings(rows, metadata, _grouping(rows, column)),
        *picture_checks.header_findings(pictures, found.root, recipe.size),
        *picture_checks.flat_findings(pictures, flat, found.root),
        *picture_checks.same_picture_findings(pictures),
        *picture_checks.same_title_findings(pictures),
        *picture_checks.near_findings(pictures, groups),
        *picture_checks.orphan_findings(read() if include or exclude else found, folder),
        *split_findings,
    ]
    return DataReport(
        root=str(root),
        metadata=metadata,
        findings=_in_order(findings),
        rows_usable=len(rows),
        rows_unusable=len(found.bad) + len(decoded.errors),
        train_rows=0 if val is None else len(rows) - len(val),
        val_rows=0 if val is None else len(val),
        stats=stats,
    )


def _unreadable(root: Path, metadata: str, error: DataError) -> DataReport:
    """The report on a folder whose metadata file gives no usable row."""
    found = row_checks.table_finding(error, metadata)
    unusable = error.rows if isinstance(error, TextFileError) else 0
    return DataReport(str(root), metadata, (found,), 0, unusable, 0, 0, data_stats([]))


def _grouping(rows: Sequence[Row], group_by: str | None) -> str | None:
    """The column that groups rows, or that would where the folder has channels and no grouping is asked for."""
    return group_by or (CHANNEL if rows and CHANNEL in rows[0].columns else None)


def _compare(
    pictures: Seen, decoded: Pictures, positions: NDArray[np.int64], distance: int, tell: Progress
) -> tuple[list[list[int]], list[int]]:
    """Groups of nearly the same pictures, and pictures of one colour, by their numbers among the distinct ones."""
    parts: list[near.Looks] = []
    is_flat: list[bool] = []
    for part, flat in picture_checks.examine_squares(pictures, decoded, positions):
        parts.append(part)
        is_flat += flat
        tell("looks of pictures", len(is_flat), len(pictures.distinct))
    if not parts:
        return [], []
    # pictures of one colour have a meaningless hash, and are told apart by nothing
    shaped = np.flatnonzero(~np.array(is_flat))
    every = near.Looks(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    groups = near.near_groups(
        near.Looks(every.hashes[shaped], every.colours[shaped]),
        distance=distance,
        on_progress=partial(tell, "pictures compared"),
    )
    return [shaped[group].tolist() for group in groups], np.flatnonzero(is_flat).tolist()


def _divide(
    pictures: Seen, groups: Sequence[Sequence[int]], *, group_by: str | None, val_fraction: float, seed: int
) -> tuple[frozenset[int] | None, list[Finding]]:
    """Positions of validation rows, found exactly as training finds them, and what is wrong with the division."""
    rows = pictures.rows
    joined = group_rows(pictures.digests, group_values(rows, group_by))
    try:
        split = split_rows([row.id for row in rows], groups=joined, val_fraction=val_fraction, seed=seed)
    except DataError as error:
        return None, [finding("no_split", Place(pictures.file), error.message)]
    val = frozenset(split.val.tolist())
    return val, list(picture_checks.leak_findings(pictures, groups, val))


def _in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    order = {kind: position for position, kind in enumerate(KINDS)}
    return tuple(sorted(findings, key=lambda found: (order[found.kind], found.line or 0, found.file)))
