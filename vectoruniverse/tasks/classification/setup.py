"""What the two kinds of classification share: encoders and a head, on texts with labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from vectoruniverse.data.splits import by_part
from vectoruniverse.evaluation.comparison import Comparison
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.metrics import classification as metrics
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.encoder import TokenizedTexts
from vectoruniverse.models.heads import (
    HEAD_FILE,
    TextClassifier,
    load_head,
    read_head,
    save_head,
)
from vectoruniverse.models.scratch import random_like
from vectoruniverse.models.text import TextEncoder
from vectoruniverse.models.text_tower import without_normalize
from vectoruniverse.report.figures.album import Plate
from vectoruniverse.report.figures.classification import confusion, reliability
from vectoruniverse.report.run import Findings
from vectoruniverse.tasks.base import Prepared, Shared
from vectoruniverse.tasks.classification.settings import (
    ClassificationExperiment,
    LabelledData,
    PairClassificationExperiment,
)
from vectoruniverse.tasks.classification.task import ClassificationTask, Examples
from vectoruniverse.tasks.rows import RowChoice
from vectoruniverse.tasks.sharing import sharing_key
from vectoruniverse.tasks.text_encoders import base_words, load_encoder, load_trained, put_adapters
from vectoruniverse.tasks.text_rows import TextRows, read_text_rows, tell_truncated
from vectoruniverse.terminal import Display
from vectoruniverse.training.device import choose_compute

SNIPPET = """
from vectoruniverse import load_classifier

classifier = load_classifier(".")
"""


@dataclass(slots=True)
class ClassificationShared(Shared):
    """The base and the examples that runs of it share.

    Attributes:
        data: texts, labels and their division.
        encoders: the bases, by part of the model.
        examples: the texts as the task reads them, by split.
    """

    data: TextRows
    encoders: Mapping[str, TextEncoder]
    examples: Mapping[str, Examples]


def share(
    experiment: ClassificationExperiment, display: Display, choice: RowChoice | None = None
) -> ClassificationShared:
    """Config → texts and labels → encoders."""
    train = experiment.train
    compute = choose_compute(train.device, train.precision, sharded=train.shard_base)
    data = read_text_rows(
        experiment.data,
        text_columns(experiment),
        label=experiment.data.label,
        display=display,
        choice=choice,
        names=None if choice is None else read_head(choice.trained / HEAD_FILE).names,
    )
    trained = None if choice is None else choice.trained / _part_names(experiment)[0]
    encoders = _parts(experiment, lambda: _base(experiment, compute, data.train_texts, trained))
    inputs = tokenize(
        experiment,
        next(iter(encoders.values())),
        {role: data.column(role) for role in text_columns(experiment)},
        display,
    )
    assert data.labels is not None
    labels = data.labels

    def of(part: np.ndarray) -> Examples:
        return Examples([tokens.select(part) for tokens in inputs], labels[part], data.names)

    return ClassificationShared(sharing_key(experiment), compute, data, {}, encoders, by_part(data.split, of))


def text_columns(experiment: ClassificationExperiment) -> dict[str, str]:
    """Role → column."""
    data = experiment.data
    return {"text": data.text} if isinstance(data, LabelledData) else {"first": data.first, "second": data.second}


def _base(
    experiment: ClassificationExperiment,
    compute: Compute,
    texts: Callable[[], Iterable[str]],
    trained: Path | None = None,
) -> TextEncoder:
    """An encoder as classifiers read it; see ``load_encoder``."""
    encoder = load_encoder(experiment, compute, texts, trained)
    without_normalize(encoder.module)
    return encoder


def _parts(experiment: ClassificationExperiment, load: Callable[[], TextEncoder]) -> dict[str, TextEncoder]:
    """The encoders by part; two of one checkpoint start equal, two from scratch each with weights of its own."""
    first = load()
    if not isinstance(experiment, PairClassificationExperiment) or experiment.shared_encoder:
        return {"": first}
    second = load() if isinstance(experiment.model, str) else random_like(first, experiment.seed + 1)
    return {"first": first, "second": second}


def tokenize(
    experiment: ClassificationExperiment, encoder: TextEncoder, columns: Mapping[str, Sequence[str]], display: Display
) -> list[TokenizedTexts]:
    """What each encoder of the model reads: the text, or the pair in either order."""
    if "text" in columns:
        inputs = {"text": encoder.tokenize(columns["text"])}
    else:
        first, second = columns["first"], columns["second"]
        inputs = {"pair": encoder.tokenize_pairs(first, second), "swapped": encoder.tokenize_pairs(second, first)}
    tell_truncated({role: tokens for role, tokens in inputs.items() if role != "swapped"}, encoder.max_tokens, display)
    return list(inputs.values())


def build_model(
    experiment: ClassificationExperiment, encoders: Mapping[str, TextEncoder], classes: int
) -> TextClassifier:
    """A head on the encoders."""
    dropout, seed = experiment.head.dropout, experiment.seed
    if not isinstance(experiment, PairClassificationExperiment):
        return TextClassifier({"encoder": encoders[""]}, classes, dropout, seed)
    first, second = (encoders.get(part, encoders.get("")) for part in ("first", "second"))
    assert first is not None and second is not None
    return TextClassifier({"first": first, "second": second}, classes, dropout, seed)


def build_task(
    experiment: ClassificationExperiment, model: TextClassifier, examples: Mapping[str, Examples]
) -> ClassificationTask:
    """Bind a classifier to its examples."""
    return ClassificationTask(
        model,
        train=examples["train"],
        val=examples["val"],
        test=examples.get("test"),
        l1=experiment.loss.l1,
        l2=experiment.loss.l2,
        class_weights="balanced" if experiment.loss.balanced else None,
        eval_batch=experiment.eval.batch_size,
    )


def evaluate_base(experiment: ClassificationExperiment, shared: ClassificationShared, split: str) -> Evaluation:
    """What an untrained head on the untrained encoders reaches: about chance."""
    model = build_model(experiment, shared.encoders, len(shared.data.names))
    return build_task(experiment, model, shared.examples).evaluate(split)


def prepare(
    experiment: ClassificationExperiment, shared: ClassificationShared, trained: Path | None = None
) -> PreparedClassifier:
    """Adapter → head → task, on what is shared; ``release`` undoes it."""
    assert shared.key == sharing_key(experiment), "prepared on another base or other data"
    adapters = put_adapters(shared.encoders, experiment, shared.compute, trained)
    model = build_model(experiment, shared.encoders, len(shared.data.names))
    if trained is not None:
        load_head(model, trained / HEAD_FILE)
    return PreparedClassifier(
        experiment,
        shared.compute,
        shared.data,
        model,
        adapters,
        build_task(experiment, model, shared.examples),
        starts_as_base=experiment.adapter.starts_as_base,
        base=base_words(next(iter(shared.encoders.values()))),
    )


def load_classifier(
    experiment: ClassificationExperiment, compute: Compute, folder: Path
) -> tuple[TextEncoder, TextClassifier, tuple[str, ...]]:
    """A classifier as a run left it: its first encoder, the whole, and the names of its classes.

    Args:
        experiment: the run's.
        compute: where and in which format.
        folder: the run's adapter folder.
    """
    if experiment.adapter.trains_everything:  # what is saved needs no base, which may be gone
        encoders = {part: load_trained(experiment, compute, folder / part) for part in _part_names(experiment)}
    else:
        encoders = _parts(experiment, lambda: _base(experiment, compute, list))
        put_adapters(encoders, experiment, compute, folder)
    names = read_head(folder / HEAD_FILE).names
    model = build_model(experiment, encoders, len(names))
    load_head(model, folder / HEAD_FILE)
    return next(iter(encoders.values())), model, names


def _part_names(experiment: ClassificationExperiment) -> tuple[str, ...]:
    two = isinstance(experiment, PairClassificationExperiment) and not experiment.shared_encoder
    return ("first", "second") if two else ("",)


@dataclass(frozen=True, slots=True)
class PreparedClassifier(Prepared):
    """A classifier with what is trained of it, and its examples."""

    experiment: ClassificationExperiment
    data: TextRows
    model: TextClassifier
    task: ClassificationTask
    base: str

    def save(self, folder: Path) -> None:
        """Write encoders or their adapters, and the head."""
        Prepared.save(self, folder)
        save_head(self.model, folder / HEAD_FILE, self.data.names)

    def base_model(self) -> str:
        """The base in words."""
        return self.base

    def snippet(self) -> str:
        """Python that loads what the run made."""
        return SNIPPET

    @property
    def has_space(self) -> bool:
        """No: a classifier's vectors need one direction for each class and no more."""
        return False

    def facts(self) -> dict[str, str]:
        """Classes and penalties."""
        loss = self.experiment.loss
        penalties = ", ".join(f"{name} {value:g}" for name, value in (("L1", loss.l1), ("L2", loss.l2)) if value)
        return {
            "classes": f"{len(self.data.names)}: {', '.join(self.data.names[:12])}",
            "loss": "cross-entropy" + (f", {penalties}" if penalties else ""),
        }

    def findings(self, comparison: Comparison) -> Findings:
        """Which classes are taken for which, and whether confidence can be trusted."""
        logits = self.model.logits(comparison.adapted.vectors["pooled"])
        return classification_findings(logits.softmax(dim=1), self.task.part(comparison.split))


def classification_findings(probabilities: Tensor, part: Examples) -> Findings:
    """Confusion matrix and reliability of predictions (N, C)."""
    confidence, predicted = probabilities.double().max(dim=1)
    matrix = metrics.confusion_matrix(part.labels, predicted.numpy(), len(part.names))
    bins = metrics.reliability(confidence.numpy(), predicted.numpy() == part.labels)
    caption = "Rows are true classes, columns what the model said; shares of each row."
    plates = [Plate("confusion", "Which class is taken for which", "answer", caption, confusion(matrix, part.names))]
    caption = "Share of right answers among those of like confidence; on the diagonal confidence is what it says."
    plates.append(Plate("reliability", "Confidence and truth", "curves", caption, reliability(bins)))
    return Findings(plates)
