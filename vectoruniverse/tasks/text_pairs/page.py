"""The page of several text encoders on the same pairs: the answer, a table, figures, and the pairs that are missed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vectoruniverse.metrics.bootstrap import Interval
from vectoruniverse.metrics.catalogue import signed
from vectoruniverse.report.figures.album import Plate
from vectoruniverse.report.figures.style import save
from vectoruniverse.report.page import Chapter, Table, write_csv, write_page
from vectoruniverse.tasks.text_pairs.encoders import EncoderComparison, answer, as_share, missed_pairs

MISSED = 15
"""Pairs shown of those that the best encoder ranks lowest."""

SCORES = ("row_uniformity", "column_uniformity")
PAIR_METRICS = ("pair_cosine", *SCORES)
SIDES = ("first", "second")
DIRECTIONS = ("first_to_second", "second_to_first")
LABELS = {"mrr": "MRR", "row_uniformity": "row score", "column_uniformity": "column score"}

READING = (
    "Cosine: mean over pairs, negatives as 0. Alone it says little: an encoder that maps all texts to one point has 1. "
    "Row and column score: the share that a pair holds of all cosines in its row or column, as a multiple of chance, "
    "1/N. Alignment: squared distance of partners, lower is closer. Uniformity (Wang & Isola): lower is more spread. "
    "Mean cosine: of unrelated texts, high is a narrow cone."
)


def write_encoder_page(
    path: Path,
    comparison: EncoderComparison,
    *,
    title: str,
    plates: Sequence[Plate],
    facts: Mapping[str, str],
    warnings: Sequence[str] = (),
) -> None:
    """Write the page, and into a folder of its name beside it ``figures/`` (PNG and SVG) and ``tables/`` (CSV).

    Args:
        path: the file.
        comparison: the encoders.
        title: name of the experiment.
        plates: figures, in the section ``health``.
        facts: what was judged, by name.
        warnings: what a reader must know before believing the page.

    Raises:
        ConfigError: something cannot be written.
        ResourceError: the disk is full.
    """
    beside = path.with_suffix("")
    for plate in plates:
        save(plate.figure, beside / "figures", plate.name)
    write_tables(comparison, beside / "tables")
    missed, differences = missed_table(comparison), difference_table(comparison)
    instead = "Nearest instead: the second text that stands before the partner of the first one."
    write_page(
        path,
        title=title,
        answer=answer(comparison),
        comparison=encoder_table(comparison),
        verdict=(),
        plates=plates,
        chapters=[
            Chapter("health", "Pairs and spaces", [READING], [space_table(comparison)]),
            Chapter(
                "differences",
                f"How far {comparison.best} stands above the others",
                tables=[differences] if differences.rows else [],
            ),
            Chapter(
                "metrics",
                f"Pairs that {comparison.best} ranks lowest",
                [instead] if missed.rows else ["None: every partner comes first, both ways."],
                [missed] if missed.rows else [],
            ),
        ],
        facts=facts,
        warnings=[*warnings, *_without_likeness(comparison)],
    )


def encoder_table(comparison: EncoderComparison) -> Table:
    """How well each encoder finds partners, and how its pairs stand out; the best first."""
    rows = [
        (name, _reached(comparison, name), *_cells(evaluation.metrics, comparison.metric).values())
        for name, evaluation in comparison.found.items()
    ]
    heads = _cells(comparison.found[comparison.best].metrics, comparison.metric)
    return Table("", ("encoder", f"{comparison.metric} [95\N{NO-BREAK SPACE}%]", *heads), rows)


def space_table(comparison: EncoderComparison) -> Table:
    """How each encoder uses its space."""
    rows = [(name, *_space(evaluation.metrics).values()) for name, evaluation in comparison.found.items()]
    return Table("", ("encoder", *_space(comparison.found[comparison.best].metrics)), rows)


def difference_table(comparison: EncoderComparison) -> Table:
    """By how much the best stands above each other encoder, paired over the same pairs."""
    told = {name: found for name, found in comparison.differences.items() if found}
    metrics = list(dict.fromkeys(metric for found in told.values() for metric in found))
    chance = comparison.found[comparison.best].metrics["uniformity_chance"]
    units = {metric: (1 / chance, "×chance") if metric in SCORES else (100.0, "points") for metric in metrics}
    heads = (f"{LABELS.get(metric, metric)}, {unit} [95\N{NO-BREAK SPACE}%]" for metric, (_, unit) in units.items())
    rows = [(name, *(_interval(found[metric], units[metric][0]) for metric in metrics)) for name, found in told.items()]
    return Table("", ("above", *heads), rows)


def missed_table(comparison: EncoderComparison) -> Table:
    """Pairs that the best encoder ranks lowest, the worst first, and what it finds in the partner's place."""
    cosine = comparison.found[comparison.best].per_query["pair_cosine"]
    rows = [
        (
            comparison.first[one.pair],
            comparison.second[one.pair],
            f"{one.forth:,}",
            f"{one.back:,}",
            f"{cosine[one.pair]:.2f}",
            "" if one.instead is None else comparison.second[one.instead],
        )
        for one in missed_pairs(comparison, MISSED)
    ]
    return Table("", ("first", "second", "rank →", "rank ←", "cosine", "nearest instead"), rows)


def write_tables(comparison: EncoderComparison, folder: Path) -> None:
    """Write ``encoders.csv``, ``differences.csv`` and ``pairs.csv``: every metric, every difference, every pair.

    Raises:
        ConfigError: a table cannot be written.
        ResourceError: the disk is full.
    """
    metrics = list(dict.fromkeys(metric for evaluation in comparison.found.values() for metric in evaluation.metrics))
    encoders = [(name, *map(evaluation.metrics.get, metrics)) for name, evaluation in comparison.found.items()]
    write_csv(folder / "encoders.csv", ("encoder", *metrics), encoders)
    differences = [
        (metric, comparison.best, name, gap.estimate, gap.low, gap.high)
        for name, found in comparison.differences.items()
        for metric, gap in found.items()
    ]
    write_csv(folder / "differences.csv", ("metric", "best", "encoder", "difference", "low", "high"), differences)
    ranks = [f"{direction}/rank" for direction in DIRECTIONS]
    columns = ("encoder", "pair", "first", "second", *ranks, *PAIR_METRICS)
    write_csv(folder / "pairs.csv", columns, _pair_rows(comparison))


def _pair_rows(comparison: EncoderComparison) -> Iterator[tuple[str | float, ...]]:
    for name, evaluation in comparison.found.items():
        columns = [evaluation.ranks[direction].tolist() for direction in DIRECTIONS]
        columns += [evaluation.per_query[metric].tolist() for metric in PAIR_METRICS]
        texts = zip(comparison.first, comparison.second, *columns, strict=True)
        for pair, values in enumerate(texts):
            yield (name, pair, *values)


def _reached(comparison: EncoderComparison, name: str) -> str:
    value, interval = as_share(comparison.found[name].metrics[comparison.metric]), comparison.reached.get(name)
    return (
        value if interval is None else f"{value} [{interval.low * 100:.1f},\N{NO-BREAK SPACE}{interval.high * 100:.1f}]"
    )


def _cells(metrics: Mapping[str, float], metric: str) -> dict[str, str]:
    """What the table shows of an encoder beside the metric that decides, by column."""
    recalls = [key for key in metrics if re.fullmatch(r"recall@\d+|mrr", key) and key != metric]
    chance = metrics["uniformity_chance"]
    return {
        **{LABELS.get(key, key): as_share(metrics[key]) for key in recalls},
        "median rank": f"{metrics['median_rank']:,.1f}",
        "cosine": f"{metrics['pair_cosine_clipped']:.3f}",
        "row score": f"×{metrics['row_uniformity'] / chance:.2f}",
        "column score": f"×{metrics['column_uniformity'] / chance:.2f}",
    }


def _space(metrics: Mapping[str, float]) -> dict[str, str]:
    """What the table of spaces shows of an encoder, by column."""
    return {
        "alignment": f"{metrics['alignment']:.2f}",
        **{f"uniformity, {side}": f"{metrics[f'{side}/uniformity']:.2f}" for side in SIDES},
        **{f"mean cosine, {side}": f"{metrics[f'{side}/mean_cosine']:.2f}" for side in SIDES},
        "effective rank": f"{metrics['effective_rank']:.1f}",
        "largest eigenvalue": as_share(metrics["largest_eigenvalue_share"]),
    }


def _interval(gap: Interval, scale: float) -> str:
    estimate, low, high = (signed(value * scale, ".2f") for value in (gap.estimate, gap.low, gap.high))
    return f"{estimate} [{low},\N{NO-BREAK SPACE}{high}]"


def _without_likeness(comparison: EncoderComparison) -> Iterator[str]:
    """Texts that are like none of the other side: their scores were set to 0."""
    for name, evaluation in comparison.found.items():
        rows, columns = (int(evaluation.metrics[key]) for key in ("empty_rows", "empty_columns"))
        if rows or columns:
            yield (
                f"{name}: {rows:,} first and {columns:,} second texts have no positive cosine with any text of the "
                "other side; their row or column score counts as 0."
            )
