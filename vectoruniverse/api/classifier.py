"""A finished classifier in a program of your own, and `vu predict`: texts to classes.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.config.text import ClassificationExperiment
from vectoruniverse.data.metadata import BadRow
from vectoruniverse.data.table import Table
from vectoruniverse.data.text_table import TextRow, open_table, text_rows
from vectoruniverse.errors import ConfigError
from vectoruniverse.models.heads import TextClassifier
from vectoruniverse.models.identity import run_experiment
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import default_runs_dir, find_trained_run
from vectoruniverse.tasks.classification.setup import load_classifier as load_model
from vectoruniverse.tasks.classification.setup import text_columns, tokenize
from vectoruniverse.tasks.text_encoders import Adapted
from vectoruniverse.tasks.text_rows import tell_doubts
from vectoruniverse.terminal import Display
from vectoruniverse.training.device import choose_compute


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a classifier says of a table.

    Attributes:
        table: all rows as they are written.
        rows: usable rows.
        bad: rows that could not be used, with the reason.
        names: of the C classes.
        probabilities: (N, C), of ``rows``.
    """

    table: Table
    rows: Sequence[TextRow]
    bad: Sequence[BadRow]
    names: tuple[str, ...]
    probabilities: NDArray[np.float32]

    def classes(self) -> list[str]:
        """The likeliest class of each row."""
        return [self.names[i] for i in self.probabilities.argmax(axis=1)]

    def columns(self) -> list[str]:
        """The columns that are added: likeliest class, probability of each class, and why there is none.

        One that the table has already gets ``.1``, ``.2``, ..., as pandas calls a column that occurs again.
        """
        taken, added = set(self.table.written), []
        for name in ("prediction", *(f"p({name})" for name in self.names), "reason"):
            free = next(free for i in itertools.count() if (free := f"{name}.{i}" if i else name) not in taken)
            taken.add(free)
            added.append(free)
        return added

    def csv(self) -> str:
        """The table, for programs: its columns, cells and rows as they are, and ``columns`` behind them.

        A row that could not be used has a reason and no prediction; where it has more or fewer cells than the header,
        it is cut or filled up.
        """
        said = {
            row.line: [name, *(f"{share:.6f}" for share in shares), ""]
            for row, name, shares in zip(self.rows, self.classes(), self.probabilities, strict=True)
        }
        said |= {row.line: [""] * (1 + len(self.names)) + [row.reason] for row in self.bad}
        width = len(self.table.written)
        lines = [_csv_line([*self.table.written, *self.columns()])]
        for record in self.table.records:
            cells = record.cells[:width] + [""] * (width - len(record.cells))
            lines.append(_csv_line([*cells, *said[record.line]]))
        return "".join(lines)


class LoadedClassifier:
    """The model of a run of task ``sequence_classification`` or ``pair_classification``, in evaluation mode.

    Attributes:
        run: the run folder.
        experiment: its configuration.
        model: encoders, with what was trained on them, and head.
        names: of the classes.
    """

    def __init__(
        self,
        run: Run,
        experiment: ClassificationExperiment,
        adapted: Adapted,
        model: TextClassifier,
        names: tuple[str, ...],
    ) -> None:
        """Bind a model to the run that it belongs to; see ``load_classifier``."""
        self.run, self.experiment, self.model, self.names = run, experiment, model, names
        self._adapted = adapted
        model.eval()

    def predict(
        self, *texts: Sequence[str], batch_size: int = 64, display: Display | None = None
    ) -> NDArray[np.float32]:
        """Probability of each class, (N, C).

        Args:
            texts: one sequence of N texts; two, of first and second texts, where the run classifies pairs.
            batch_size: texts encoded at a time.
            display: is told of texts that are longer than the model reads.
        """
        roles = list(text_columns(self.experiment))
        if len(texts) != len(roles) or any(isinstance(column, str) for column in texts):
            raise TypeError(f"predict takes {len(roles)} sequence{'s' * (len(roles) > 1)} of texts: {', '.join(roles)}")
        if not texts[0]:
            return np.zeros((0, len(self.names)), dtype=np.float32)
        columns = dict(zip(roles, texts, strict=True))
        encoder = next(iter(self._adapted.encoders.values()))
        inputs = tokenize(self.experiment, encoder, columns, display or Display(quiet=True))
        found: NDArray[np.float32] = self.model.predict(inputs, batch_size=batch_size).numpy()
        return found

    def predict_table(self, file: Path, display: Display, *, encoding: str = "utf-8") -> Predictions:
        """What the classifier says of the rows of a table with the columns that the run was trained on.

        Raises:
            ConfigError: a column is not there, or there is no such encoding.
            DataError: the file cannot be read as a table.
        """
        columns = text_columns(self.experiment)
        table = open_table(file, encoding=encoding, keys={"file": "--input", "encoding": "--encoding"})
        found = text_rows(table, texts=columns)
        tell_doubts(found.doubts, file, display)
        texts = [[row.texts[role] for row in found.rows] for role in columns]
        return Predictions(table, found.rows, found.bad, self.names, self.predict(*texts, display=display))


def load_classifier(
    reference: str | os.PathLike[str],
    *,
    runs_dir: str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> LoadedClassifier:
    """Load the classifier of a finished run.

    Args:
        reference: a path; a full name; ``latest`` (of the finished ones); the name of an experiment, for its latest
            run; a unique prefix.
        runs_dir: folder of the runs; without it ``VU_RUNS``, else ``runs``.
        device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        ConfigError: there is no such run, it has trained nothing yet, it is no classifier, or its base
            cannot be loaded.
        DataError: what it saved is damaged.
    """
    run = find_trained_run(Path(runs_dir or default_runs_dir()), os.fspath(reference))
    experiment = run_experiment(run, trained_model_only=True)
    if not isinstance(experiment, ClassificationExperiment):
        raise ConfigError(f"{run.name} is of task {experiment.task}, which has no classes to predict")
    adapted, model, names = load_model(experiment, None, choose_compute(device, precision), run.adapter.absolute())
    return LoadedClassifier(run, experiment, adapted, model, names)


def _csv_line(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(cells)  # with its own \r\n, so that a bare \r in a cell is quoted as well
    return out.getvalue()[:-2] + "\n"


def described(predictions: Predictions) -> Iterable[tuple[str, str]]:
    """Class and number of rows, as text, the most frequent first."""
    said = predictions.classes()
    counts = {name: said.count(name) for name in predictions.names}
    return [(name, f"{count:,}") for name, count in sorted(counts.items(), key=lambda one: -one[1]) if count]
