"""What each metric is called, in what it is measured, which end of it is better and where it stands: declared once.

Here are those of every space, of every retrieval and of predicted labels; a task declares its own in its folder.
Terminal, model card, report, exports, trackers and comparisons all ask ``describe``. It knows every name: one that is
declared nowhere keeps its own name, has no better end, and stands last.

A ``*`` in a declared name stands for the k of a ranking (``recall@*``) or for a class (``f1/*``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

Better = Literal["higher", "lower"]
Unit = Literal["share", "nats", "rows", ""]
"""``share``: 0 to 1, told in percent and points where there is room; ``nats``; ``rows``: a count; empty: a number."""

Place = Literal["retrieval", "direction", "task", "space", "undeclared"]
"""Parts of a table in the order of reading: what was reached, by direction, in other ways, the space, the unknown."""

ARROWS: dict[Better | None, str] = {"higher": " ↑", "lower": " ↓", None: ""}

ARROWS_READ = "↑ higher is better, ↓ lower is better; the others describe and are no merit."


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric, or all metrics of one kind.

    Attributes:
        name: as tasks name it; in a declaration ``*`` stands for what differs.
        label: what a person calls it; in a declaration ``{}`` stands for what ``*`` stood for.
        better: the better end; None for what describes without being a merit.
        unit: what it is measured in.
        place: the part of a table that it stands in.
        order: within the part; of equals, what was declared first stands first.
    """

    name: str
    label: str
    better: Better | None = None
    unit: Unit = ""
    place: Place = "task"
    order: int = 0

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


_RANKED = (
    Metric("recall@*", "recall@{}", "higher", "share"),
    Metric("median_rank", "median rank", "lower"),
    Metric("mrr", "MRR", "higher", "share"),
)

_SPACE = tuple(
    replace(metric, place="space", order=order)
    for order, metric in enumerate(
        (
            Metric("alignment", "alignment, squared distance", "lower"),  # only these two have a better end
            Metric("uniformity", "uniformity", "lower"),  # (Wang & Isola)
            Metric("mean_cosine", "mean cosine"),
            Metric("mean_norm", "norm of the mean"),
            Metric("modality_gap", "modality gap"),
            Metric("effective_rank", "effective rank"),
            Metric("largest_eigenvalue_share", "largest eigenvalue", unit="share"),
        )
    )
)


def directions(**labels: str) -> tuple[Metric, ...]:
    """Metrics of retrieval by who looks for whom, such as ``image_to_text="image → text"``."""
    return tuple(
        replace(kind, name=f"{name}/{kind.name}", label=f"{label} {kind.label}", place="direction", order=order)
        for order, (name, label) in enumerate(labels.items())
        for kind in _RANKED
    )


def sides(**labels: str) -> tuple[Metric, ...]:
    """Metrics of the space of one kind of rows, such as ``image="images"``."""
    return tuple(
        replace(kind, name=f"{name}/{kind.name}", label=f"{kind.label}, {label}")
        for name, label in labels.items()
        for kind in _SPACE
    )


_LABELS = (
    Metric("ap", "AP", "higher", "share"),
    Metric("map", "mAP", "higher", "share"),
    Metric("f1", "F1", "higher", "share"),
    Metric("macro_f1", "macro F1", "higher", "share"),
    Metric("micro_f1", "micro F1", "higher", "share"),
    Metric("calibration_error", "calibration error", "lower", "share"),
)
"""Of predicted labels, in the record of them; see ``metrics.multilabel``."""


_DECLARED: dict[str, Metric] = {}


@lru_cache(maxsize=4096)
def _placed(name: str) -> tuple[tuple[int, int, int], Metric]:
    for position, kind in enumerate(_DECLARED.values()):
        if match := re.fullmatch(re.escape(kind.name).replace(r"\*", "(.+)"), name, re.DOTALL):
            place = (get_args(Place).index(kind.place), kind.order, position)
            return place, replace(kind, name=name, label=kind.label.format(*match.groups()))
    return (len(get_args(Place)), 0, 0), Metric(name, name, place="undeclared")


def declare(metrics: Iterable[Metric]) -> None:
    """Add metrics to the catalogue.

    Raises:
        ValueError: one has the name of another one, which says something else.
    """
    for metric in metrics:
        if _DECLARED.setdefault(metric.name, metric) != metric:
            raise ValueError(f"{metric.name} is declared twice: {_DECLARED[metric.name]} and {metric}")
    _placed.cache_clear()


declare(replace(kind, label=f"{kind.label}, mean of both", place="retrieval") for kind in _RANKED)
declare(_SPACE)
declare(_LABELS)


def describe(name: str) -> Metric:
    """What a metric is."""
    return _placed(name)[1]


def in_order(names: Iterable[str]) -> list[Metric]:
    """What metrics are, in the order of ``Place``; those of one kind stay as they are given."""
    return [metric for _, metric in sorted(map(_placed, names), key=lambda placed: placed[0])]


def best_ends() -> Iterator[tuple[str, Better]]:
    """Patterns (``fnmatch``) of all declared metrics that have a better end, and that end."""
    return ((metric.name, metric.better) for metric in _DECLARED.values() if metric.better is not None)
