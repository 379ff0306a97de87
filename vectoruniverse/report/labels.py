"""How well labels are predicted, as a person reads it: a line, a chapter of the page, a figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from vectoruniverse.data.normalise import listed
from vectoruniverse.metrics.catalogue import describe
from vectoruniverse.metrics.classification import Reliability
from vectoruniverse.report.figures.album import Plate
from vectoruniverse.report.figures.classification import confusion, reliability
from vectoruniverse.report.page import Chapter
from vectoruniverse.report.tables import Table, interval
from vectoruniverse.runs.label_records import KNOWN, Bins, LabelsRecord, LabelStatus, Told

MOST_LABELS = 50
"""Labels that the page shows; evaluation.json has all."""

METRICS = ("map", "macro_f1", "micro_f1", "calibration_error")
"""What is told of all labels."""

LEAD = "map"
"""The metric of which it is told by how much the adapted model stands ahead; it needs no threshold."""


def labels_line(labels: LabelsRecord) -> str:
    """What the terminal says: mean average precision of base and adapted model, and of the best rival by pictures."""
    by, reached = labels.by, labels.reached[labels.by]
    base, adapted = (reached[model][LEAD][0] for model in ("base", "adapted"))
    gap = labels.ahead[by].get("base", {}).get(LEAD)
    change = f" (change {interval(*gap, sign=True)})" if gap else ""
    known = [one for one in labels.labels.values() if one.status in KNOWN]
    said = f"labels by {_words(by)}: mAP {base:.3f} → {adapted:.3f}{change}, {len(known)} of {len(labels.labels)} known"
    rivals = {name: told[LEAD][0] for name, told in labels.reached.get("picture", {}).items() if name not in reached}
    if not rivals:
        return said
    best = max(rivals, key=lambda name: rivals[name])
    alone = labels.reached["picture"]["adapted"][LEAD][0]
    return f"{said}; by pictures alone {alone:.3f} against {rivals[best]:.3f} of the {best}"


def labels_chapter(labels: LabelsRecord) -> Chapter:
    """The part of a run's page that tells how well labels are predicted."""
    tables = [_models_table(labels), _labels_table(labels), _mistaken_table(labels)]
    return Chapter("labels", "Which labels does a row have?", list(_said(labels)), tables)


def label_plates(labels: LabelsRecord | None) -> Iterator[Plate]:
    """What the adapted model takes for what, and whether its probabilities can be believed; none without labels."""
    if labels is None:
        return
    if (most := labels.confused) is not None:
        caption = (
            f"The labels most often confused, by {_words(labels.by)}, those of the commonest pair first. Off the "
            "diagonal: rows that have the label and were not said to, and were said to have the other one, which they "
            "have not. On it: rows that have the label and were said to. A row may count in no cell or in several."
        )
        figure = confusion(most.said, most.labels, most.rows, had="label", said="label that was said")
        yield Plate("label_confusion", "Which label is said in place of which", "labels", caption, figure)
    caption = (
        "Share of the pairs of row and label that are true among those of like probability, by "
        f"{_words(labels.by)}; on the diagonal a probability is what it says."
    )
    figure = reliability(
        _reliability(labels.reliability["adapted"]),
        sure="probability of a label",
        right="share that is true",
        counted="pairs",
    )
    yield Plate("label_reliability", "Probabilities of labels and truth", "labels", caption, figure)


def _reliability(bins: Bins) -> Reliability:
    confidence, accuracy = (np.array(part, dtype=np.float64) for part in (bins.confidence, bins.accuracy))
    return Reliability(np.array(bins.counts), confidence, accuracy)


def _words(by: str) -> str:
    return {"both": "picture and text", "fused": "picture, text and fusion"}.get(by, by)


def _said(labels: LabelsRecord) -> Iterator[str]:
    rules = "these very rows, so F1 and calibration are optimistic" if labels.in_sample else "the validation rows"
    yield (
        f"Of {labels.rows:,} rows that have a label. Scores are cosines with the labels' texts and, where "
        f"training rows have the label, linear probes; probabilities and thresholds were fitted on {rules}."
    )
    words: Mapping[LabelStatus, str] = {
        "default": "Too few validation rows have these, so they have the threshold of all labels together",
        "seen once": "One training or validation row has each of these: not known, in no mean, never predicted",
        "unseen": "No training or validation row has these: not known, in no mean, never predicted",
    }
    for status, meaning in words.items():
        if names := [name for name, one in labels.labels.items() if one.status == status]:
            yield f"{meaning}: {listed(names)}."


def _models_table(labels: LabelsRecord) -> Table:
    rows = []
    for by, models in labels.reached.items():
        for name, told in models.items():
            gap = labels.ahead[by].get(name, {}).get(LEAD)
            cells = [interval(*_three(told[metric])) for metric in METRICS]
            rows.append((name, _words(by), *cells, interval(*gap, sign=True) if gap else ""))
    note = "Means over known labels; each model is held against the adapted one by the same input."
    return Table(
        "", ("model", "by", *(describe(metric).marked for metric in METRICS), "adapted ahead in mAP"), rows, note
    )


def _labels_table(labels: LabelsRecord) -> Table:
    rows = []
    shown = [(name, one) for name, one in labels.labels.items() if one.rows]
    for name, one in shown[:MOST_LABELS]:
        told = one.by[labels.by]
        base, adapted, change = told["base"], told["adapted"], told["change"].get("ap")
        cells = (
            interval(*_three(base["ap"])),
            interval(*_three(adapted["ap"])),
            interval(*change, sign=True) if change else "",
            interval(*_three(adapted["f1"])) if "f1" in adapted else "",
            f"{one.thresholds[labels.by]:.2f}" if one.status in KNOWN else "",
        )
        rows.append((name, f"{one.training:,} / {one.validation:,} / {one.rows:,}", *cells, one.status))
    columns = (
        "label",
        "training / validation / here",
        "AP, base",
        "AP, adapted",
        "change",
        "F1",
        "from",
        "status",
    )
    more = f" {len(shown) - MOST_LABELS:,} more labels stand in evaluation.json." if len(shown) > MOST_LABELS else ""
    note = f"By {_words(labels.by)}. F1 of the adapted model, which says a label from this probability on.{more}"
    return Table("", columns, rows, note)


def _mistaken_table(labels: LabelsRecord) -> Table:
    rows = [(one.label, one.said, f"{one.rows:,}", interval(*_three(one.share))) for one in labels.mistaken]
    note = (
        "Rows that have the label and were not said to, and were said to have the other one, which they have not. "
        "The most frequent pairs, so that their shares are optimistic as a choice of the largest is."
    )
    return Table("", ("label", "said in its place", "rows", "share of the label's rows"), rows, note)


def _three(told: Told) -> tuple[float, float | None, float | None]:
    estimate, low, high = told if len(told) == 3 else (told[0], None, None)
    return estimate, low, high
