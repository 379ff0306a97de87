"""Finished runs, evaluated and reported again; and a model as it is before any training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from vectoruniverse.config.places import place_key, place_of, with_place
from vectoruniverse.config.sections import Experiment
from vectoruniverse.errors import ConfigError
from vectoruniverse.evaluation.comparison import Comparison
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.report.figures.style import undrawn
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import find_trained_run
from vectoruniverse.tasks.base import Prepared
from vectoruniverse.tasks.identity import run_experiment
from vectoruniverse.tasks.recorded_rows import (
    EveryRow,
    RecordedRows,
    count_trained,
    locate_data,
    read_rows_of,
    refuse_other_data,
)
from vectoruniverse.tasks.results import beside_base, card_facts, report
from vectoruniverse.tasks.rows import lacks_test_rows, reported_part
from vectoruniverse.tasks.table import evaluated_base, setup
from vectoruniverse.terminal import Display, counted

NOT_OTHER_DATA = ("data.max_bad_share", "data.cache_dir", "data.encoding", "data.split.group_by")
"""Settings of the data that do not choose other rows."""


def evaluate_run(
    reference: str,
    *,
    runs_dir: Path,
    split: str | None,
    display: Display,
    place: str | None = None,
    settings: Sequence[str] = (),
) -> tuple[Run, Comparison]:
    """Evaluate a finished run's adapter and its base: on the rows of the run's own split, or on other data.

    Args:
        reference: the run.
        runs_dir: folder of the runs.
        split: ``test``, ``val`` or ``train``, of the run's own data; None: what the run reports, which is ``test``
            where it has test rows.
        display: what a person sees.
        place: where other data is; all its rows are evaluated.
        settings: of other data, such as ``data.text={Title}``.

    Raises:
        ConfigError: there is no such run, it has no adapter yet, it has no such rows, or a part of other data is asked
            for.
        DataError: the data cannot be read, or is not the run's any more.
    """
    run = find_trained_run(runs_dir, reference)
    if place is not None or any(one.partition("=")[0].strip() not in NOT_OTHER_DATA for one in settings):
        if split not in (None, "val"):
            said = f"other data has no {split} rows of this run: all its rows are evaluated"
            raise ConfigError(said, file="--split", remedy="leave it out")
        return run, _beside_base_elsewhere(run, place, settings, display)
    prepared, comparison = _finished(run, split, display, settings)
    if comparison.split == "val" and comparison.labels is None:  # an earlier version made the run
        learned = prepared.learn_labels(comparison.base, comparison.adapted)
        if learned is not prepared:
            with run.lock():
                learned.save_labels(run.adapter)
        told = beside_base(learned, comparison.base, "val", comparison.adapted)
        comparison = dataclasses.replace(told, gone=comparison.gone)
    return run, comparison


def report_run(reference: str, *, runs_dir: Path, display: Display) -> Path:
    """Write a finished run's report.html and its figures again, from what its folder holds and its data."""
    run = find_trained_run(runs_dir, reference, kind="run or sweep")
    with run.lock():
        prepared, comparison = _finished(run, None, display)
        facts = card_facts(prepared, run, run.read_state().seconds)
        if gone := comparison.gone:
            which = comparison.rows_are
            facts["gone"] = f"{gone} {which} that were evaluated when the run ended are not there any more"
        report(run, prepared, comparison, facts)
    if (lacking := undrawn()) is not None:
        display.say(lacking)
    return run.report_file


def _finished(
    run: Run, split: str | None, display: Display, settings: Sequence[str] = ()
) -> tuple[Prepared, Comparison]:
    """A finished run's model beside its base on the rows of a part; None: on those that it reports."""
    record = read_rows_of(run)
    experiment = locate_data(run, run_experiment(run, settings), record, display)
    side = split or reported_part(experiment, record.reported if record is not None else "val")
    if record is not None and side == "test" and not record.test:
        raise lacks_test_rows()
    choice = None if record is None else RecordedRows(record, side, display.warn, run.adapter)
    shared = setup(experiment).share(experiment, display, choice)
    if record is None:
        refuse_other_data(run, shared.data)
    shared.data.refuse_missing(side)
    base = evaluated_base(experiment, shared, side)
    gone = 0 if record is None else len(getattr(record, side)) - len(getattr(shared.data.split, side))
    prepared = setup(experiment).prepare(experiment, shared, run.adapter)
    return prepared, dataclasses.replace(beside_base(prepared, base, side), gone=gone)


def _beside_base_elsewhere(run: Run, place: str | None, settings: Sequence[str], display: Display) -> Comparison:
    """A finished run's model and its base on all rows of data that is not the run's own."""
    record = read_rows_of(run)
    experiment = run_experiment(run, settings)
    if place is not None:
        experiment = with_place(experiment, Path(place))
    elif not any(one.partition("=")[0].strip() == f"data.{place_key(experiment)}" for one in settings):
        experiment = locate_data(run, experiment, record, display)
    shared = setup(experiment).share(experiment, display, EveryRow(run.adapter))
    rows = shared.data.named_rows()
    seen = None if record is None else count_trained(record, rows)
    base = evaluated_base(experiment, shared, "val")
    comparison = beside_base(setup(experiment).prepare(experiment, shared, run.adapter), base, "val")
    if seen is None:
        display.warn(
            "an earlier version made this run and did not note its rows: it may have learned from some of these"
        )
    elif seen:
        display.warn(f"the run learned from {seen} of these {counted(len(rows), 'row')}")
    labels = comparison.labels and comparison.labels.model_copy(update={"in_sample": False})
    source = str(place_of(experiment))
    return dataclasses.replace(comparison, evaluated_on="other", source=source, trained_on=seen, labels=labels)


def evaluate_base(experiment: Experiment, *, split: str | None, display: Display) -> tuple[str, Evaluation]:
    """Evaluate the model of an experiment as it is, before any training, on a part; None: on what a run would report.

    Raises:
        ConfigError: the experiment has no test rows, and those are asked for.
    """
    shared = setup(experiment).share(experiment, display)
    side = split or reported_part(experiment, shared.data.split.reported)
    shared.data.refuse_missing(side)
    return side, evaluated_base(experiment, shared, side)
