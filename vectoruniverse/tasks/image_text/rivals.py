"""The rivals of a run on pictures and texts: which training rows they see, so that they cost next to nothing."""

from __future__ import annotations

from vectoruniverse.evaluation.label_rules import Probes
from vectoruniverse.evaluation.result import Evaluation, Rivals
from vectoruniverse.evaluation.retrieval import Embeddings
from vectoruniverse.evaluation.rivals import EmbeddedRows, fit_probe, fit_rivals, sample
from vectoruniverse.tasks.image_text.settings import ImageTextExperiment
from vectoruniverse.tasks.image_text.task import ImageTextTask, Pairs

SHARE = 0.05
"""The pass over the training rows costs at most this share of the forward and backward passes of training."""

MIN_ROWS = 256
"""Training rows that are seen however short the training is; a pass over them takes seconds."""

MAX_ROWS = 100_000
"""Training rows that are seen at most; a map of a few hundred numbers needs no more."""

MAX_CHOOSING = 1_000
"""Rows that choose strengths at most: each candidate ranks them all."""


def free_rivals(
    task: ImageTextTask,
    experiment: ImageTextExperiment,
    training: EmbeddedRows,
    *,
    choosing: tuple[Pairs, Evaluation],
    reported: tuple[Pairs, Evaluation],
) -> Rivals:
    """What rivals that cost nothing reach on rows that are reported.

    Args:
        task: with the base as its model.
        experiment: what is trained.
        training: rows to fit on, as ``training_rows`` has them.
        choosing: rows that choose strengths and the best rival, and what the base is evaluated as on them.
        reported: the same of the rows that are reported; they may be the same rows.
    """
    rows = [_embedded(task, *part) for part in (choosing, reported)]
    some = rows[0].select(sample(choosing[0].keys, MAX_CHOOSING))
    return fit_rivals(training, some, experiment.eval.monitor, experiment.eval.recall_at).evaluate(rows[1])


def training_rows(task: ImageTextTask, epochs: int) -> EmbeddedRows:
    """Training rows as the task's model sees them now: as many as the length of the training allows."""
    seen = sample(task.train.keys, row_limit(len(task.train), epochs, task.passes_per_step))
    return _embedded(task, task.train.select(seen))


def label_probes(training: EmbeddedRows, found: Evaluation) -> Probes:
    """Linear probes of both sides, fitted on training rows; the evaluated rows, which are others, choose strengths.

    Returns:
        None of either side where no row of either kind has a label.
    """
    labels = found.labels
    if training.labelled is None or labels is None or not labels.of_row.any():
        return {}
    sides = (("image", training.image), ("text", training.text))
    return {name: fit_probe(rows, training.labelled, found.vectors[name], labels) for name, rows in sides}


def row_limit(rows: int, epochs: int, passes_per_step: int) -> int:
    """Training rows that may be embedded once, of ``rows`` that are stepped on ``epochs`` times."""
    return min(MAX_ROWS, max(MIN_ROWS, int(SHARE * epochs * passes_per_step * rows)))


def _embedded(task: ImageTextTask, pairs: Pairs, found: Evaluation | None = None) -> EmbeddedRows:
    """The rows as the model sees them, embedded unless their evaluation holds the vectors."""
    embedded = task.embed(pairs) if found is None else Embeddings(found.vectors["image"], found.vectors["text"])
    return EmbeddedRows(embedded.image, embedded.text, pairs.items, task.labels(pairs))
