"""The page of several text encoders on the same pairs: the answer, a table, figures, and the pairs that are missed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vectoruniverse.report.figures.album import Plate
from vectoruniverse.report.page import Chapter, write_page
from vectoruniverse.report.tables import NBSP, Table, interval, table
from vectoruniverse.tasks.text_pairs.encoders import EncoderComparison, answer, as_share, at_once, missed_pairs

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

TWO, ONE = "{:.2f}".format, "{:,.1f}".format

SPACE: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "encoder": ("encoder", str),
    "alignment": ("alignment", TWO),
    **{f"{side}/uniformity": (f"uniformity, {side}", TWO) for side in SIDES},
    **{f"{side}/mean_cosine": (f"mean cosine, {side}", TWO) for side in SIDES},
    "effective_rank": ("effective rank", "{:.1f}".format),
    "largest_eigenvalue_share": ("largest eigenvalue", as_share),
}
"""Columns of the table of spaces."""


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

    ``encoders.csv``, ``differences.csv`` and ``pairs.csv`` hold every metric, every difference and every pair.

    Args:
        path: the file.
        comparison: the encoders.
        title: name of the experiment.
        plates: figures, in the section ``health``.
        facts: what was evaluated, by name.
        warnings: what a reader must know before believing the page.

    Raises:
        ConfigError: something cannot be written.
        ResourceError: the disk is full.
    """
    missed, best = missed_table(comparison), comparison.best
    instead = "Nearest instead: the second text that stands before the partner of the first one."
    said = instead if missed.rows else "None: every partner comes first, both ways."
    write_page(
        path,
        title=title,
        answer=answer(comparison),
        comparison=encoder_table(comparison),
        verdict=(),
        plates=plates,
        chapters=[
            Chapter("health", "Pairs and spaces", [READING], [space_table(comparison)]),
            Chapter("differences", f"How far {best} stands above the others", tables=[difference_table(comparison)]),
            Chapter("metrics", f"Pairs that {best} ranks lowest", [said], [missed]),
        ],
        facts=facts,
        warnings=[*warnings, *_without_likeness(comparison)],
        beside=path.with_suffix(""),
        frames={
            "encoders": _encoders(comparison),
            "differences": _differences(comparison),
            "pairs": pd.concat([_pairs(comparison, name) for name in comparison.found]),
        },
    )


def encoder_table(comparison: EncoderComparison) -> Table:
    """How well each encoder finds partners, and how its pairs stand out; the best first."""
    frame, metric, times = _encoders(comparison), comparison.metric, _times_chance(comparison)
    recalls = [key for key in map(str, frame) if re.fullmatch(r"recall@\d+|mrr", key) and key != metric]
    frame["reached"] = [_reached(comparison, name) for name in frame["encoder"]]
    return table(
        frame,
        {
            "encoder": ("encoder", str),
            "reached": (f"{metric} [95{NBSP}%]", str),
            **{key: (LABELS.get(key, key), as_share) for key in recalls},
            "median_rank": ("median rank", ONE),
            "pair_cosine_clipped": ("cosine", "{:.3f}".format),
            **{key: (LABELS[key], lambda score: f"×{score * times:.2f}") for key in SCORES},
        },
    )


def space_table(comparison: EncoderComparison) -> Table:
    """How each encoder uses its space."""
    return table(_encoders(comparison), SPACE)


def difference_table(comparison: EncoderComparison) -> Table:
    """By how much the best stands above each other encoder, paired over the same pairs."""
    frame, times = _differences(comparison), _times_chance(comparison)
    units = {
        metric: (times, "×chance") if metric in SCORES else (100.0, "points") for metric in frame["metric"].unique()
    }
    frame["told"] = [
        interval(*(float(value) * units[metric][0] for value in bounds), form=".2f", sign=True)
        for metric, *bounds in frame[["metric", "difference", "low", "high"]].itertuples(index=False)
    ]
    wide = frame.pivot(index="encoder", columns="metric", values="told")
    wide = wide.reindex(index=frame["encoder"].unique(), columns=list(units)).reset_index(names="above")
    heads = {key: f"{LABELS.get(key, key)}, {unit} [95{NBSP}%]" for key, (_, unit) in units.items()}
    return table(wide.rename(columns=heads), note=at_once(comparison))


def missed_table(comparison: EncoderComparison) -> Table:
    """Pairs that the best encoder ranks lowest, the worst first, and what it finds in the partner's place."""
    missed = missed_pairs(comparison, MISSED)
    frame = _pairs(comparison, comparison.best).iloc[[one.pair for one in missed]]
    frame["instead"] = [None if one.instead is None else comparison.second[one.instead] for one in missed]
    return table(
        frame,
        {
            **{side: (side, str) for side in SIDES},
            "first_to_second/rank": ("rank →", "{:,}".format),
            "second_to_first/rank": ("rank ←", "{:,}".format),
            "pair_cosine": ("cosine", TWO),
            "instead": ("nearest instead", str),
        },
    )


def _reached(comparison: EncoderComparison, name: str) -> str:
    value, bounds = as_share(comparison.found[name].metrics[comparison.metric]), comparison.reached.get(name)
    return value if bounds is None else f"{value} [{bounds.low * 100:.1f},{NBSP}{bounds.high * 100:.1f}]"


def _times_chance(comparison: EncoderComparison) -> float:
    """What makes a row or column score a multiple of chance."""
    return 1 / comparison.found[comparison.best].metrics["uniformity_chance"]


def _encoders(comparison: EncoderComparison) -> pd.DataFrame:
    """Every metric of each encoder."""
    return pd.DataFrame([{"encoder": name, **one.metrics} for name, one in comparison.found.items()])


def _differences(comparison: EncoderComparison) -> pd.DataFrame:
    """Every difference from the best encoder."""
    rows = [
        (metric, comparison.best, name, gap.estimate, gap.low, gap.high)
        for name, found in comparison.differences.items()
        for metric, gap in found.items()
    ]
    return pd.DataFrame(rows, columns=("metric", "best", "encoder", "difference", "low", "high"), dtype=object)


def _pairs(comparison: EncoderComparison, name: str) -> pd.DataFrame:
    """Every pair as an encoder sees it."""
    found = comparison.found[name]
    frame = pd.DataFrame({"pair": range(len(comparison.first)), "first": comparison.first, "second": comparison.second})
    frame.insert(0, "encoder", name)
    return frame.assign(
        **{f"{direction}/rank": found.ranks[direction] for direction in DIRECTIONS},
        **{metric: found.per_query[metric] for metric in PAIR_METRICS},
    )


def _without_likeness(comparison: EncoderComparison) -> Iterator[str]:
    """Texts that are like none of the other side: their scores were set to 0."""
    for name, evaluation in comparison.found.items():
        rows, columns = (int(evaluation.metrics[key]) for key in ("empty_rows", "empty_columns"))
        if rows or columns:
            yield (
                f"{name}: {rows:,} first and {columns:,} second texts have no positive cosine with any text of the "
                "other side; their row or column score counts as 0."
            )
