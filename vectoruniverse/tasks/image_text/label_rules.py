"""The labels of a run: probes fitted on its training rows once training has ended, and rules fitted on its validation
rows; both are kept beside the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vectoruniverse.adapters.methods import read_beside, write_beside
from vectoruniverse.data.pair_items import number
from vectoruniverse.errors import DataError
from vectoruniverse.evaluation.label_report import LabelledRows, LabelReport, label_report
from vectoruniverse.evaluation.label_rules import (
    Predicted,
    Probe,
    Probes,
    enough_rows,
    fit_probed_rules,
    fit_rules,
    label_values,
    predict,
)
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.metrics.multilabel import Bools, Floats
from vectoruniverse.models.fusion import fused_rows
from vectoruniverse.runs.durable import share_as_other_files
from vectoruniverse.runs.files import read_record, write_record
from vectoruniverse.runs.label_records import COSINES, PROBED, PROBES_FILE, LabelInput, LabelRules, LabelsFile
from vectoruniverse.tasks.image_text.labels import LabelTexts
from vectoruniverse.tasks.image_text.settings import DataConfig
from vectoruniverse.tasks.image_text.template import text_tells_labels

LABELS_FILE = "labels.json"
"""The rules, in the folder of what a run trained."""


@dataclass(frozen=True, slots=True)
class LearnedLabels:
    """What a run knows of its labels.

    Attributes:
        rules: of its models.
        probes: model → its linear probes of the labels that the rules name; empty where the rules do without.
    """

    rules: LabelsFile
    probes: Mapping[str, Probes] = field(default_factory=dict)

    def of(self, model: str, places: Sequence[int]) -> Probes:
        """A model's probes of the labels at these places among those of the rules; -1: of one that they do not name."""
        return {name: probe.select(places) for name, probe in self.probes.get(model, {}).items()}


def read_labels(folder: Path, width: int) -> LearnedLabels | None:
    """What ``learn_labels`` found; None where there was nothing to learn, or an earlier version made the run.

    Args:
        folder: of what a run trained.
        width: of the shared space, E.

    Raises:
        DataError: a file is damaged, or the probes that the rules need are missing.
    """
    if not (folder / LABELS_FILE).exists():
        return None
    rules = read_record(folder / LABELS_FILE, LabelsFile)
    if not rules.probed:
        return LearnedLabels(rules)
    models = {model: sorted({name for by in inputs for name in PROBED[by]}) for model, inputs in rules.models.items()}
    shapes = {"weights": (width, len(rules.names)), "bias": (len(rules.names),)}
    needed = {
        f"{model}.{name}.{part}": torch.empty(shape, device="meta")
        for model, sides in models.items()
        for name in sides
        for part, shape in shapes.items()
    }
    saved = read_beside(folder / PROBES_FILE, needed)
    if saved.keys() != needed.keys():
        remedy = "Take an intact copy of the adapter."
        raise DataError(f"lacks probes that {LABELS_FILE} needs", file=folder / PROBES_FILE, remedy=remedy)
    probes = {
        model: {name: Probe(*(saved[f"{model}.{name}.{part}"] for part in shapes)) for name in sides}
        for model, sides in models.items()
    }
    return LearnedLabels(rules, probes)


def save_labels(learned: LearnedLabels, folder: Path) -> None:
    """Write rules and probes; the rules last, since they say whether there are probes."""
    if learned.probes:
        tensors = {
            f"{model}.{name}.{part}": value.contiguous()
            for model, sides in learned.probes.items()
            for name, probe in sides.items()
            for part, value in (("weights", probe.weights), ("bias", probe.bias))
        }
        write_beside(folder / PROBES_FILE, tensors)
        share_as_other_files(folder / PROBES_FILE)
    write_record(folder / LABELS_FILE, learned.rules)


def learn_labels(
    models: Mapping[str, Evaluation], training: LabelTexts | None, data: DataConfig, fusion: nn.Module | None = None
) -> LearnedLabels | None:
    """Fit the rules of each model, with its probes where all models have some.

    Args:
        models: ``base`` and ``adapted`` on the same validation rows.
        training: labels of the rows that were learned from; one that neither they nor the validation rows have stays
            unknown.
        data: says whether texts are made of labels, by which then none is predicted.
        fusion: that the adapted model was trained with.

    Returns:
        None where validation rows have no labels, or all have all of them.
    """
    labels = next(iter(models.values())).labels
    if labels is None or training is None:
        return None
    having = labels.of_row.any(dim=1)
    truth = labels.of_row[having].numpy()
    counts = [part.sum(dim=0).numpy() for part in (training.of_row, labels.of_row)]
    seen = (counts[0] + counts[1]).nonzero()[0]
    truth = truth[:, seen]
    if not truth.any() or truth.all():
        return None
    probes: dict[str, Probes] = {}
    if all(found.probes for found in models.values()):
        probes = {
            model: {name: found.probes[name].select(seen.tolist()) for name in _sides(found, data)}
            for model, found in models.items()
        }
    rules: dict[str, dict[LabelInput, LabelRules]] = {}
    for name, found in models.items():
        said = label_scores(found, data, found.probes if probes else {}, fusion if name == "adapted" else None)
        rules[name] = {
            by: _fit(by, scores[having.numpy()][:, seen], truth, probes.get(name, {})) for by, scores in said.items()
        }
    file = LabelsFile(
        version=2 if probes else 1,
        names=[labels.names[i] for i in seen],
        training=counts[0][seen].tolist(),
        validation=counts[1][seen].tolist(),
        fitted=enough_rows(truth).tolist(),
        rows=len(truth),
        models=rules,
    )
    return LearnedLabels(file, probes)


def _fit(by: LabelInput, scores: Floats, truth: Bools, probes: Probes) -> LabelRules:
    """Rules of scores (N, C, D) by an input, with what the probes of its sides say, if there are any."""
    if not probes:
        return fit_rules(scores, truth)
    known = np.logical_and.reduce([probes[name].known for name in PROBED[by]])
    return fit_probed_rules(scores, truth, known, len(COSINES[by]))


def label_scores(
    found: Evaluation, data: DataConfig, probes: Probes, fusion: nn.Module | None = None
) -> dict[LabelInput, Floats]:
    """Scores (N, C, D) of the evaluated rows by each input, by probes of their labels."""
    assert found.labels is not None
    return label_values(with_fused(_sides(found, data), fusion), found.labels.text, probes)


def _sides(found: Evaluation, data: DataConfig) -> dict[str, Tensor]:
    """Vectors of the evaluated rows; texts that are made of labels are none."""
    return {name: rows for name, rows in found.vectors.items() if name == "image" or not text_tells_labels(data)}


def with_fused(sides: Mapping[str, Tensor], fusion: nn.Module | None) -> dict[str, Tensor]:
    """The sides ``image`` and ``text`` of rows, and ``fused`` where both and a fusion are there."""
    if fusion is None or len(sides) < 2:
        return dict(sides)
    return {**sides, "fused": fused_rows(fusion, sides["image"], sides["text"])}


def predictions(
    learned: LearnedLabels, model: str, found: Evaluation, data: DataConfig, fusion: nn.Module | None = None
) -> dict[LabelInput, Predicted]:
    """What a model says of the rows that it was evaluated on, by each input that it has rules for."""
    assert found.labels is not None
    places = learned.rules.places(found.labels.names)
    scores = label_scores(found, data, learned.of(model, places), fusion)
    rules = learned.rules.models[model]
    return {by: predict(one, scores[by], places) for by, one in rules.items() if by in scores}


def predicted_beside(
    learned: LearnedLabels,
    base: Evaluation,
    adapted: Evaluation,
    data: DataConfig,
    units: Sequence[str] | None,
    *,
    in_sample: bool,
    fusion: nn.Module | None = None,
) -> LabelReport | None:
    """How well both models and the rivals that know labels predict them.

    Args:
        learned: rules and probes.
        base: with its rivals, on the same rows as ``adapted``.
        adapted: with labels.
        data: says whether texts are made of labels.
        units: group of each row, which counts as one draw.
        in_sample: whether these rows chose the thresholds.
        fusion: that the adapted model was trained with.
    """
    assert adapted.labels is not None
    models: dict[str, Mapping[LabelInput, Predicted]] = {
        "base": predictions(learned, "base", base, data),
        **({} if base.rivals is None else {name: {"picture": said} for name, said in base.rivals.labels.items()}),
        "adapted": predictions(learned, "adapted", adapted, data, fusion),
    }
    groups = None if units is None else number(units)
    rows = LabelledRows(adapted.labels.names, adapted.labels.of_row.numpy(), groups)
    return label_report(learned.rules, models, rows, in_sample=in_sample)
