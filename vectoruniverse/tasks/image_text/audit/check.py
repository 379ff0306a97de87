"""Is this a data folder one can train on? Every row is read and every picture decoded, under training's own limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vectoruniverse.data.decoding import PictureRecipe
from vectoruniverse.data.findings import KINDS, FaultError, Finding
from vectoruniverse.data.locate import CHANNEL
from vectoruniverse.data.normalise import canonical
from vectoruniverse.data.shards.manifest import changed_shards
from vectoruniverse.data.splits import Split
from vectoruniverse.errors import DataError
from vectoruniverse.tasks.image_text.audit import near, picture_checks, row_checks
from vectoruniverse.tasks.image_text.audit.picture_checks import Seen, seen
from vectoruniverse.tasks.image_text.audit.report import DataReport
from vectoruniverse.tasks.image_text.audit.stats import DataStats, TokenCounter, data_stats
from vectoruniverse.tasks.image_text.data import decode_pictures, divide_pictures, group_by
from vectoruniverse.tasks.image_text.metadata import Metadata, Row, packed_place, read_metadata
from vectoruniverse.tasks.image_text.settings import DataConfig

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, how much of it is done, and how much there is."""


def check_data(
    data: DataConfig,
    *,
    size: int,
    token_counts: TokenCounter | None = None,
    max_tokens: int | None = None,
    on_progress: Progress = lambda stage, done, total: None,
) -> DataReport:
    """Check a data folder and report every fault with its file, line and reason; ``KINDS`` lists what is looked for.

    Args:
        data: the folder, and how it would be read, decoded and divided.
        size: side of the square that the model sees, pixels.
        token_counts: lengths of texts in the model's tokens, marks included; None leaves text lengths unchecked.
        max_tokens: the model's limit.
        on_progress: called as work proceeds.

    Raises:
        DataError: the metadata file is not there.
        ConfigError: a setting names something that is not there.
    """
    try:
        found = read_metadata(data)
    except DataError as error:
        return _unreadable(data, error)
    recipe = PictureRecipe(size, data.fit or "crop", max_pixels=data.max_pixels)
    decoded = decode_pictures(data, [row.path for row in found.rows], recipe, partial(on_progress, "pictures"))
    usable = decoded.usable()
    pictures = seen(found.name, [found.rows[i] for i in usable], decoded.select(usable))
    alike, flat = _compare(pictures, on_progress)
    groups = group_by(data.split.group_by, pictures.rows, pictures.decoded.digests)
    split, divided = _divide(pictures, groups, alike, data)
    stats = data_stats(pictures.rows, groups, split, token_counts=token_counts, max_tokens=max_tokens)
    findings = [
        *found.bad,
        *found.doubts,
        *(
            picture_checks.picture_finding(found.rows[i], error, found.root, found.name)
            for i, error in decoded.errors.items()
        ),
        *_row_findings(found, pictures.rows, data, stats),
        *row_checks.part_label_findings(pictures.rows, found.name, split),
        *picture_checks.header_findings(pictures, found.root, size),
        *picture_checks.flat_findings(pictures, flat, found.root),
        *picture_checks.same_picture_findings(pictures),
        *picture_checks.same_title_findings(pictures),
        *picture_checks.near_findings(pictures, alike),
        *_orphans(found, data),
        *_changed(data, partial(on_progress, "shards checked")),
        *divided,
    ]
    return DataReport(
        root=str(Path(data.root).expanduser()),
        metadata=found.name,
        findings=tuple(one.located(found.parts) for one in _in_order(findings)),
        rows_usable=len(usable),
        rows_unusable=len(found.bad) + len(decoded.errors),
        stats=stats,
    )


def _unreadable(data: DataConfig, error: DataError) -> DataReport:
    """The report on a folder whose metadata file gives no usable row."""
    unusable, root, where = 0, Path(data.root).expanduser(), data.metadata
    if isinstance(error, FaultError):
        if error.kind == "no_file":
            raise error
        if error.kind == "broken_shard" and error.file is not None:
            where = Path(error.file).name
        found, unusable = Finding(error.kind, error.message, where, error.line), error.rows
    else:
        elsewhere = "" if error.file is None else f"{error.file}: "
        found = Finding("unreadable_table", elsewhere + error.message, where)
    return DataReport(str(root), where, (found,), 0, unusable, data_stats([]))


def _row_findings(found: Metadata, rows: Sequence[Row], data: DataConfig, stats: DataStats) -> list[Finding]:
    # the column that groups rows, or that would where the folder has channels and no grouping is asked for
    column = canonical(data.split.group_by or "") or (CHANNEL if rows and CHANNEL in rows[0].columns else None)
    separator = data.label_separator
    return [
        *row_checks.title_findings(found.rows, found.name),
        *row_checks.length_findings(rows, found.name, stats.text_tokens, stats.max_tokens),
        *row_checks.label_findings(rows, found.name, column=found.label_column, separator=separator),
        *row_checks.group_findings(rows, found.name, column),
    ]


def _orphans(found: Metadata, data: DataConfig) -> list[Finding]:
    """Pictures that no row names, be it a row that a filter drops."""
    if data.include or data.exclude:
        found = read_metadata(data.model_copy(update={"include": {}, "exclude": {}}))
    if found.parts:  # every sample is a row
        return []
    root = Path(data.root).expanduser()
    folder = root / data.images
    return list(picture_checks.orphan_findings(found, folder if folder.is_dir() else root))


def _changed(data: DataConfig, tell: Callable[[int, int], None]) -> list[Finding]:
    """Shards that are not as they were written, where their manifest tells."""
    place = packed_place(data)
    if place is None or place.manifest is None:
        return []
    return changed_shards(place.folder, place.manifest, tell)


def _compare(pictures: Seen, tell: Progress) -> tuple[list[list[int]], list[int]]:
    """Groups of nearly the same pictures, and pictures of one colour, by their numbers among the distinct ones."""
    parts: list[near.Looks] = []
    is_flat: list[bool] = []
    for part, flat in picture_checks.examine_squares(pictures):
        parts.append(part)
        is_flat += flat
        tell("looks of pictures", len(is_flat), len(pictures.distinct))
    if not parts:
        return [], []
    # pictures of one colour have a meaningless hash, and are told apart by nothing
    shaped = np.flatnonzero(~np.array(is_flat))
    every = near.Looks(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    looks = near.Looks(every.hashes[shaped], every.colours[shaped])
    groups = near.near_groups(looks, on_progress=partial(tell, "pictures compared"))
    return [shaped[group].tolist() for group in groups], np.flatnonzero(is_flat).tolist()


def _divide(
    pictures: Seen, groups: Sequence[str], alike: Sequence[Sequence[int]], data: DataConfig
) -> tuple[Split | None, list[Finding]]:
    """Positions of the rows of each part, found exactly as training finds them, and what is wrong with the division."""
    try:
        split = divide_pictures(pictures.rows, groups, data.split)
    except DataError as error:
        return None, [Finding("no_split", error.message, pictures.file)]
    return split, list(picture_checks.leak_findings(pictures, alike, split))


def _in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    order = {kind: position for position, kind in enumerate(KINDS)}
    return tuple(sorted(findings, key=lambda found: (order[found.kind], found.line or 0, found.file)))
