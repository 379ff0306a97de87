"""What a run found, as tables for people and Markdown for the run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

Intervals = Mapping[str, Mapping[str, Sequence[float]]]
"""Of a metric, ``difference`` as [estimate, low, high]."""

DIRECTIONS = (
    ("image_to_text/", "image → text "),
    ("text_to_image/", "text → image "),
    ("first_to_second/", "first → second "),
    ("second_to_first/", "second → first "),
)
RANKS = {"median_rank": "median rank", "mrr": "MRR"}

LABELS = {
    "zero_shot/accuracy@1": "zero-shot label, top 1",
    "zero_shot/accuracy@3": "zero-shot label, top 3",
    "map/image_to_image": "label mAP, image → image",
    "map/text_to_text": "label mAP, text → text",
    "map/image_to_text": "label mAP, image → text",
    "map/text_to_image": "label mAP, text → image",
}

OUTCOMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "loss": "cross-entropy, nats",
    "calibration_error": "calibration error",
    "mlm_accuracy": "masked tokens, accuracy",
    "mlm_loss": "masked tokens, cross-entropy, nats",
    "unigram_entropy": "the same by token counts, nats",
    "perplexity": "perplexity",
    "nsp_accuracy": "next sentence, accuracy",
    "nsp_loss": "next sentence, cross-entropy, nats",
    "pair_cosine": "cosine of pairs",
    "pair_cosine_clipped": "cosine of pairs, negatives as 0",
    "row_uniformity": "share of the row's cosines",
    "column_uniformity": "share of the column's cosines",
    "uniformity_chance": "the same by chance",
}

GEOMETRY = {
    "alignment": "alignment, squared distance",
    "image/uniformity": "uniformity, images",
    "text/uniformity": "uniformity, texts",
    "first/uniformity": "uniformity, first",
    "second/uniformity": "uniformity, second",
    "image/mean_cosine": "mean cosine, images",
    "text/mean_cosine": "mean cosine, texts",
    "first/mean_cosine": "mean cosine, first",
    "second/mean_cosine": "mean cosine, second",
    "image/mean_norm": "norm of the mean, images",
    "text/mean_norm": "norm of the mean, texts",
    "first/mean_norm": "norm of the mean, first",
    "second/mean_norm": "norm of the mean, second",
    "modality_gap": "modality gap",
    "effective_rank": "effective rank",
    "largest_eigenvalue_share": "largest eigenvalue",
}


def metric_labels(metrics: Mapping[str, float]) -> dict[str, str]:
    """What a person calls each metric, in the order a person reads them."""
    names = {}
    for prefix, label in DIRECTIONS:
        for key in metrics:
            if key.startswith(prefix):
                name = key.removeprefix(prefix)
                names[key] = label + RANKS.get(name, name)
    names |= LABELS | OUTCOMES
    names |= {key: f"F1, {key.removeprefix('f1/')}" for key in metrics if key.startswith("f1/")}
    return {key: label for key, label in (names | GEOMETRY).items() if key in metrics}


def comparison_rows(
    base: Mapping[str, float], adapted: Mapping[str, float], intervals: Intervals | None = None
) -> list[tuple[str, str, str, str]]:
    """Metric, base, adapted and change (with its 95 % interval, where there is one), as text."""
    rows = []
    for key, label in metric_labels(adapted).items():
        if key not in base:
            continue
        change = f"{adapted[key] - base[key]:+.3f}"
        if intervals and key in intervals:
            _, low, high = intervals[key]["difference"]
            change += f" [{low:+.3f}, {high:+.3f}]"
        rows.append((label, _number(base[key]), _number(adapted[key]), change))
    return rows


def metric_rows(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Metric and value of one model, as text."""
    return [(label, _number(metrics[key])) for key, label in metric_labels(metrics).items()]


PARAMETER_COLUMNS = ("part", "adapted layers", "trained", "total", "share")


class Counted(Protocol):
    """Parameters of one part of a model."""

    @property
    def part(self) -> str:
        """Its name."""

    @property
    def adapted_layers(self) -> int:
        """Layers with an adapter."""

    @property
    def trainable(self) -> int:
        """Parameters that are trained."""

    @property
    def total(self) -> int:
        """All parameters."""

    @property
    def share(self) -> float:
        """Trained share, 0 to 1."""


def parameter_rows(parts: Sequence[Counted]) -> list[tuple[str, str, str, str, str]]:
    """What is trained of each part of a model, as text under ``PARAMETER_COLUMNS``."""
    return [(p.part, str(p.adapted_layers), f"{p.trainable:,}", f"{p.total:,}", f"{p.share:.2%}") for p in parts]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose cells cannot break it: first column left, the others right."""
    lines = [_row(columns), "|---|" + "---:|" * (len(columns) - 1), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    safe = (cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;") for cell in cells)
    return "| " + " | ".join(safe) + " |"


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else str(value)


def model_card(
    *,
    name: str,
    facts: Mapping[str, str],
    columns: Sequence[str],
    table: Sequence[Sequence[str]],
    snippet: str,
    tags: Sequence[str],
) -> str:
    """A model card in the hub's form: what was run on what, what came out beside the base, how to load it.

    Args:
        name: of the run.
        facts: Markdown, by name.
        columns: heads of the table.
        table: metrics of base and adapted model, as text.
        snippet: Python that loads the adapter, run from the run folder.
        tags: what the hub files it under; the first is the library.
    """
    front = ["---", f"library_name: {tags[0]}", f"tags: [{', '.join(tags[1:])}]", "---"]
    body = [f"- {key}: {value}" for key, value in facts.items()]
    told = "Held-out rows, base and adapted model judged by the same code; intervals are paired bootstraps over rows:"
    code = ["## Load it", "", "Run in this folder:", "", "```python", snippet.strip(), "```", ""]
    return "\n".join([*front, "", f"# {name}", "", *body, "", told, "", markdown_table(columns, table), "", *code])
