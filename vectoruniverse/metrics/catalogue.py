"""What each metric is called, in what it is measured, and which end of it is better: declared here, once.

Terminal, model card, report, exports, trackers and comparisons all ask ``describe``. It knows every name: one that is
declared nowhere keeps its own name, has no better end, and stands last.

A name is ``[scope/]stem``. Scopes are directions (``image_to_text/mrr``) and sides (``text/uniformity``); a ``*`` in a
declared stem stands for the k of a ranking (``recall@*``) or for a class (``f1/*``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower"]
Unit = Literal["share", "nats", "rows", ""]
"""``share``: 0 to 1, told in percent and points where there is room; ``nats``; ``rows``: a count; empty: a number."""

ARROWS: dict[Better | None, str] = {"higher": " ↑", "lower": " ↓", None: ""}

ARROWS_READ = "↑ higher is better, ↓ lower is better; the others describe and do not judge."

DIRECTIONS = {
    "image_to_text": "image → text",
    "text_to_image": "text → image",
    "first_to_second": "first → second",
    "second_to_first": "second → first",
}
"""Who looks for whom. Without a direction, a metric of retrieval is the mean of both."""

SIDES = {"image": "images", "text": "texts", "first": "first", "second": "second"}


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric, or all metrics of one kind.

    Attributes:
        name: as tasks name it; in a declaration ``*`` stands for what differs.
        label: what a person calls it; in a declaration ``{}`` stands for what ``*`` stood for.
        better: the better end; None for what describes without being a merit.
        unit: what it is measured in.
    """

    name: str
    label: str
    better: Better | None
    unit: Unit = ""

    @property
    def marked(self) -> str:
        """The label with an arrow to the better end."""
        return self.label + ARROWS[self.better]

    def tell(self, value: float) -> str:
        """A value as text: counts whole, everything else with three decimals."""
        return f"{value:,.0f}" if self.unit == "rows" and value == round(value) else f"{value:.3f}"


def signed(value: float, form: str) -> str:
    """A change as text, such as ``+0.012`` for ``.3f``; without a sign where it rounds to zero."""
    text = f"{value:+z{form}}"
    return text if float(text) else text[1:]


RETRIEVAL = (
    Metric("recall@*", "recall@{}", "higher", "share"),
    Metric("median_rank", "median rank", "lower"),
    Metric("mrr", "MRR", "higher", "share"),
)
"""Of either direction, and the mean of both."""

OUTCOMES = (
    Metric("zero_shot/accuracy@*", "zero-shot label, top {}", "higher", "share"),
    Metric("map/image_to_image", "label mAP, image → image", "higher", "share"),
    Metric("map/text_to_text", "label mAP, text → text", "higher", "share"),
    Metric("map/image_to_text", "label mAP, image → text", "higher", "share"),
    Metric("map/text_to_image", "label mAP, text → image", "higher", "share"),
    Metric("accuracy", "accuracy", "higher", "share"),
    Metric("macro_f1", "macro F1", "higher", "share"),
    Metric("loss", "cross-entropy, nats", "lower", "nats"),
    Metric("calibration_error", "calibration error", "lower", "share"),
    Metric("mlm_accuracy", "masked tokens, accuracy", "higher", "share"),
    Metric("mlm_loss", "masked tokens, cross-entropy, nats", "lower", "nats"),
    Metric("unigram_entropy", "the same by token counts, nats", None, "nats"),
    Metric("perplexity", "perplexity", "lower"),
    Metric("nsp_accuracy", "next sentence, accuracy", "higher", "share"),
    Metric("nsp_loss", "next sentence, cross-entropy, nats", "lower", "nats"),
    Metric("pair_cosine", "cosine of pairs", None),
    Metric("pair_cosine_clipped", "cosine of pairs, negatives as 0", None),
    Metric("row_uniformity", "share of the row's cosines", "higher", "share"),
    Metric("column_uniformity", "share of the column's cosines", "higher", "share"),
    Metric("uniformity_chance", "the same by chance", None, "share"),
    Metric("empty_rows", "rows without a positive cosine", "lower", "rows"),
    Metric("empty_columns", "columns without a positive cosine", "lower", "rows"),
    Metric("f1/*", "F1, {}", "higher", "share"),
    Metric("precision/*", "precision, {}", "higher", "share"),
    Metric("recall/*", "recall, {}", "higher", "share"),
    Metric("support/*", "rows, {}", None, "rows"),
)
"""What else a task reaches."""

GEOMETRY = (
    Metric("alignment", "alignment, squared distance", "lower"),
    Metric("uniformity", "uniformity", "lower"),
    Metric("mean_cosine", "mean cosine", None),
    Metric("mean_norm", "norm of the mean", None),
    Metric("modality_gap", "modality gap", None),
    Metric("effective_rank", "effective rank", None),
    Metric("largest_eigenvalue_share", "largest eigenvalue", None, "share"),
)
"""The shape of the space, of a side or of all; only alignment and uniformity have a better end (Wang & Isola)."""


def describe(name: str) -> Metric:
    """What a metric is."""
    return _placed(name)[1]


def in_order(names: Iterable[str]) -> list[Metric]:
    """What metrics are, in the order a person reads them: what was reached, by direction, then the space, then others.

    Of one kind they stay as they are given.
    """
    return [metric for _, metric in sorted(map(_placed, names), key=lambda placed: placed[0])]


def best_ends() -> Iterator[tuple[str, Better]]:
    """Patterns (``fnmatch``) of all declared metrics that have a better end, and that end."""
    for metric in (*RETRIEVAL, *OUTCOMES, *GEOMETRY):
        if metric.better is not None:
            yield metric.name, metric.better
    for scopes, kinds in ((DIRECTIONS, RETRIEVAL), (SIDES, GEOMETRY)):
        yield from ((f"{scope}/{kind.name}", kind.better) for scope in scopes for kind in kinds if kind.better)


Place = tuple[int, int]
"""Part of the table, and kind within the part."""


def _placed(name: str) -> tuple[Place, Metric]:
    scope, _, stem = name.partition("/")
    if scope in DIRECTIONS and (found := _declared(stem, RETRIEVAL)):
        part = 1 + list(DIRECTIONS).index(scope)
        return (part, 0), _named(name, f"{DIRECTIONS[scope]} {found[1].label}", found[1])
    if found := _declared(name, RETRIEVAL):
        return (0, 0), _named(name, f"{found[1].label}, mean of both", found[1])
    if found := _declared(name, OUTCOMES):
        return (5, found[0]), found[1]
    if scope in SIDES and (found := _declared(stem, GEOMETRY)):
        return (6, found[0]), _named(name, f"{found[1].label}, {SIDES[scope]}", found[1])
    if found := _declared(name, GEOMETRY):
        return (6, found[0]), found[1]
    return (7, 0), Metric(name, name, None)


def _declared(name: str, kinds: tuple[Metric, ...]) -> tuple[int, Metric] | None:
    """Place and metric of a name among declared kinds."""
    for place, kind in enumerate(kinds):
        pattern = re.escape(kind.name).replace(r"\*", "(.+)")
        if match := re.fullmatch(pattern, name, re.DOTALL):
            return place, Metric(name, kind.label.format(*match.groups()), kind.better, kind.unit)
    return None


def _named(name: str, label: str, kind: Metric) -> Metric:
    return Metric(name, label, kind.better, kind.unit)
