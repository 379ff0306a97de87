"""The labels of a run: rules fitted on its validation rows once training has ended, and kept beside the adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from vectoruniverse.data.pair_items import number
from vectoruniverse.evaluation.label_report import LabelledRows, LabelReport, label_report
from vectoruniverse.evaluation.label_rules import Predicted, cosines, enough_rows, fit_rules, predict
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.metrics.multilabel import Floats
from vectoruniverse.models.fusion import fused_rows
from vectoruniverse.runs.files import read_record
from vectoruniverse.runs.label_records import LabelInput, LabelsFile
from vectoruniverse.tasks.image_text.labels import LabelTexts
from vectoruniverse.tasks.image_text.metadata import text_tells_labels
from vectoruniverse.tasks.image_text.settings import DataConfig

LABELS_FILE = "labels.json"
"""The rules, in the folder of what a run trained."""


def read_labels(folder: Path) -> LabelsFile | None:
    """What ``learn_labels`` found; None where there was nothing to learn, or an earlier version made the run.

    Raises:
        DataError: the file is damaged.
    """
    file = folder / LABELS_FILE
    return read_record(file, LabelsFile) if file.exists() else None


def learn_labels(
    models: Mapping[str, Evaluation], training: LabelTexts | None, data: DataConfig, fusion: nn.Module | None = None
) -> LabelsFile | None:
    """Fit the rules of each model.

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
    rules = {
        name: {
            by: fit_rules(scores[having.numpy()][:, seen], truth)
            for by, scores in label_scores(found, data, fusion if name == "adapted" else None).items()
        }
        for name, found in models.items()
    }
    return LabelsFile(
        names=[labels.names[i] for i in seen],
        training=counts[0][seen].tolist(),
        validation=counts[1][seen].tolist(),
        fitted=enough_rows(truth).tolist(),
        rows=len(truth),
        models=rules,
    )


def label_scores(found: Evaluation, data: DataConfig, fusion: nn.Module | None = None) -> dict[LabelInput, Floats]:
    """Scores (N, C, D) of the evaluated rows by each input; texts that are made of labels are none."""
    assert found.labels is not None
    sides = {name: rows for name, rows in found.vectors.items() if name == "image" or not text_tells_labels(data)}
    return cosines(with_fused(sides, fusion), found.labels.text)


def with_fused(sides: Mapping[str, Tensor], fusion: nn.Module | None) -> dict[str, Tensor]:
    """The sides ``image`` and ``text`` of rows, and ``fused`` where both and a fusion are there."""
    if fusion is None or len(sides) < 2:
        return dict(sides)
    return {**sides, "fused": fused_rows(fusion, sides["image"], sides["text"])}


def predictions(
    file: LabelsFile, model: str, found: Evaluation, data: DataConfig, fusion: nn.Module | None = None
) -> dict[LabelInput, Predicted]:
    """What a model says of the rows that it was evaluated on, by each input that it has rules for."""
    assert found.labels is not None
    scores, places = label_scores(found, data, fusion), file.places(found.labels.names)
    return {by: predict(rules, scores[by], places) for by, rules in file.models[model].items() if by in scores}


def predicted_beside(
    file: LabelsFile,
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
        file: the rules.
        base: with its rivals, on the same rows as ``adapted``.
        adapted: with labels.
        data: says whether texts are made of labels.
        units: group of each row, which counts as one draw.
        in_sample: whether these rows chose the thresholds.
        fusion: that the adapted model was trained with.
    """
    assert adapted.labels is not None
    models: dict[str, Mapping[LabelInput, Predicted]] = {
        "base": predictions(file, "base", base, data),
        **({} if base.rivals is None else {name: {"picture": said} for name, said in base.rivals.labels.items()}),
        "adapted": predictions(file, "adapted", adapted, data, fusion),
    }
    groups = None if units is None else number(units)
    rows = LabelledRows(adapted.labels.names, adapted.labels.of_row.numpy(), groups)
    return label_report(file, models, rows, in_sample=in_sample)
