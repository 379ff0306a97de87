"""`vu data check` and `vu data stats`: a data folder by itself, or as an experiment would use it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from vectoruniverse.data.decoding import PictureError, PictureFile, read_picture_file
from vectoruniverse.errors import ConfigError, DataError, UserError
from vectoruniverse.models.dual import load_dual_tokenizer, load_image_size
from vectoruniverse.models.sizes import ScratchClip
from vectoruniverse.report.figures.dataset import label_counts, lengths
from vectoruniverse.report.figures.style import save
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.image_text.audit.check import check_data
from vectoruniverse.tasks.image_text.audit.report import DataReport
from vectoruniverse.tasks.image_text.audit.stats import DataStats, data_stats, quantiles
from vectoruniverse.tasks.image_text.data import divide_pictures, group_by
from vectoruniverse.tasks.image_text.metadata import read_metadata
from vectoruniverse.tasks.image_text.settings import DataConfig, ImageTextExperiment
from vectoruniverse.tasks.image_text.setup import as_image_text
from vectoruniverse.terminal import Display

DEFAULT_SIZE = 224
"""Side of the stored pictures where no model says, pixels: what most CLIPs read."""

MOST_LABELS = 30
"""Labels shown; a long tail of rare ones is summed up in one line."""

PARTS = {"train": "training", "val": "validation", "test": "test"}
"""Words for the parts of a split."""


def check(
    root: str | None, config: str | None, overrides: Sequence[str], display: Display, encoding: str | None = None
) -> tuple[DataReport, float]:
    """Everything that is wrong with a folder, and the share of unusable rows that is allowed."""
    data, experiment = _data(root, config, overrides, encoding)
    counter, limit = _token_counter(experiment, display)
    report = check_data(
        data,
        size=_size(data, experiment, display),
        token_counts=counter,
        max_tokens=limit,
        on_progress=display.advance,
    )
    return report, data.max_bad_share


def describe(
    root: str | None, config: str | None, overrides: Sequence[str], display: Display, encoding: str | None = None
) -> DataStats:
    """Labels and lengths of the usable rows, however many rows are not, in all and by part.

    Pictures are read and not decoded: parts are those of a training where every picture is sound, as ``check`` tells.
    """
    data, experiment = _data(root, config, overrides, encoding)
    counter, limit = _token_counter(experiment, display)
    metadata = read_metadata(data)
    read = {path: _digest(path) for path in dict.fromkeys(row.path for row in metadata.rows)}
    rows = [row for row in metadata.rows if read[row.path] is not None]
    groups = group_by(data.split.group_by, rows, [read[row.path] for row in rows])
    split = None
    try:
        split = divide_pictures(rows, groups, data.split)
    except DataError as error:
        display.warn(f"parts are not counted: {error.message}")
    unusable = len(metadata.bad) + len(metadata.rows) - len(rows)
    return data_stats(rows, groups, split, unusable=unusable, token_counts=counter, max_tokens=limit)


def _digest(picture: PictureFile) -> str | None:
    """sha256 of a picture file, as training tells equal ones by; None where it cannot be read."""
    try:
        return hashlib.sha256(read_picture_file(picture)[0]).hexdigest()
    except PictureError:
        return None


def _data(
    root: str | None, config: str | None, overrides: Sequence[str], encoding: str | None
) -> tuple[DataConfig, ImageTextExperiment | None]:
    if (root is None) == (config is None):
        raise UserError("give either a folder or --config FILE", remedy="vu data check data/openmoji")
    if config is None:
        if overrides:
            raise UserError("--set goes with --config")
        return DataConfig(root=str(root), encoding=encoding or "utf-8"), None
    if encoding:
        overrides = [*overrides, f"data.encoding={encoding}"]
    experiment = as_image_text(load_experiment(config, overrides), "vu data")
    return experiment.data, experiment


def data_of(root: str | None, config: str | None, overrides: Sequence[str], encoding: str | None) -> DataConfig:
    """How the data of a folder, or of an experiment, is read.

    Raises:
        UserError: both are given, or neither.
    """
    return _data(root, config, overrides, encoding)[0]


def _size(data: DataConfig, experiment: ImageTextExperiment | None, display: Display) -> int:
    """Side of the stored pictures; a model that cannot be read leaves the default, which is told."""
    if data.cache_size is not None:
        return data.cache_size
    if experiment is None:
        return DEFAULT_SIZE
    if isinstance(experiment.model, ScratchClip):
        return experiment.model.image_size
    try:
        return load_image_size(experiment.model, experiment.revision)
    except ConfigError as error:
        display.warn(f"pictures are checked as if the model read {DEFAULT_SIZE} pixels: {error.message}")
        return DEFAULT_SIZE


def _token_counter(
    experiment: ImageTextExperiment | None, display: Display
) -> tuple[Callable[[Sequence[str]], Sequence[int]] | None, int | None]:
    """Lengths in the experiment's own tokens; without its tokenizer lengths go unchecked, which is told."""
    if experiment is None or isinstance(experiment.model, ScratchClip):
        return None, None
    try:
        tokenizer = load_dual_tokenizer(experiment.model, experiment.revision)
    except ConfigError as error:
        display.warn(f"text lengths are not checked: {error.message}")
        return None, None
    return tokenizer.lengths, tokenizer.max_tokens


def part_rows(stats: DataStats) -> list[tuple[str, ...]]:
    """Rows, groups and labels of each part."""
    return [
        (PARTS[name], f"{part.rows:,}", f"{part.groups:,}", f"{len(part.label_counts):,}")
        for name, part in stats.parts.items()
    ]


def label_rows(stats: DataStats) -> list[tuple[str, ...]]:
    """Labels and their rows, most frequent first: in all, and of each part."""
    counted = [stats.label_counts, *(part.label_counts for part in stats.parts.values())]
    labels = list(stats.label_counts)
    rows = [(label, *(f"{counts.get(label, 0):,}" for counts in counted)) for label in labels[:MOST_LABELS]]
    if rest := labels[MOST_LABELS:]:
        sums = (sum(counts.get(label, 0) for label in rest) for counts in counted)
        rows.append((f"{len(rest)} other labels", *(f"{count:,}" for count in sums)))
    return rows


def length_rows(stats: DataStats) -> list[tuple[str, ...]]:
    """Quantiles of the lengths of titles and texts."""
    rows = [("title, characters", *_numbers(stats.title_characters))]
    if stats.text_tokens is not None:
        rows.append((f"text, tokens (the model reads {stats.max_tokens})", *_numbers(stats.text_tokens)))
    return rows


def _numbers(values: Sequence[int]) -> list[str]:
    return [f"{value:g}" for value in quantiles(values).values()]


def draw(stats: DataStats, folder: Path) -> list[Path]:
    """Figures of labels and lengths, PNG and SVG."""
    paths = [*save(lengths(stats.title_characters, "title, characters", None), folder, "title_lengths")]
    if stats.label_counts:
        paths += save(label_counts(dict(list(stats.label_counts.items())[:MOST_LABELS])), folder, "labels")
    if stats.text_tokens is not None:
        figure = lengths(stats.text_tokens, "text, tokens", stats.max_tokens)
        paths += save(figure, folder, "text_lengths")
    return paths
