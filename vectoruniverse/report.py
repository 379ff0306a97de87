"""What a run found, as tables for people and Markdown for the run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

DIRECTIONS = (("image_to_text/", "image → text "), ("text_to_image/", "text → image "))

GEOMETRY = (
    ("alignment", "alignment (mean ‖I − T‖², lower is tighter)"),
    ("image/uniformity", "uniformity of images (lower is more spread)"),
    ("text/uniformity", "uniformity of texts (lower is more spread)"),
    ("image/mean_cosine", "mean off-diagonal cosine, images"),
    ("text/mean_cosine", "mean off-diagonal cosine, texts"),
    ("modality_gap", "modality gap ‖mean I − mean T‖"),
    ("effective_rank", "effective rank of all embeddings"),
)


def comparison_rows(base: Mapping[str, float], adapted: Mapping[str, float]) -> list[tuple[str, str, str, str]]:
    """Metric, base, adapted and difference, as text, in the order a person reads them."""
    names = [
        (key, label + key.removeprefix(prefix))
        for prefix, label in DIRECTIONS
        for key in adapted
        if key.startswith(f"{prefix}recall@")
    ]
    rows = []
    for key, label in [*names, *GEOMETRY]:
        if key in base and key in adapted:
            rows.append((label, _number(base[key]), _number(adapted[key]), f"{adapted[key] - base[key]:+.3f}"))
    return rows


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose cells cannot break it: first column left, the others right."""
    lines = [_row(columns), "|---|" + "---:|" * (len(columns) - 1), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    safe = (cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;") for cell in cells)
    return "| " + " | ".join(safe) + " |"


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else str(value)


def run_readme(*, name: str, facts: Mapping[str, str], comparison: Sequence[Sequence[str]], how_to_load: str) -> str:
    """The run folder's README.md: what was run, what came out, how to use it."""
    return "\n".join(
        [
            f"# {name}",
            "",
            *(f"- {key}: {value}" for key, value in facts.items()),
            "",
            "Held-out rows, before the first step and with the best checkpoint, judged by the same code:",
            "",
            markdown_table(["metric", "base", "adapted", "change"], comparison),
            "",
            "## Load it",
            "",
            "```python",
            how_to_load.strip(),
            "```",
            "",
        ]
    )
