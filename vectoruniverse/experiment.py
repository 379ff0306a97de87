"""THE TABLE OF CONTENTS: one run, from top to bottom, in the order in which data flows.

config → data → encoder (+ adapter) → task (loss) → loop → metrics → tracking → report
"""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from vectoruniverse import processes
from vectoruniverse.adapters.apply import parameter_table
from vectoruniverse.adapters.lora import lora_plus_groups
from vectoruniverse.adapters.methods import lora_layers
from vectoruniverse.config.loading import dump_experiment, file_fingerprint
from vectoruniverse.config.sections import Experiment
from vectoruniverse.errors import DivergedError, UserError
from vectoruniverse.evaluation.comparison import Comparison
from vectoruniverse.models.shards import help_first, helped
from vectoruniverse.report.figures.style import undrawn
from vectoruniverse.report.learning import sign_lines
from vectoruniverse.report.run_verdict import signs_of
from vectoruniverse.report.tables import trained_table
from vectoruniverse.runs.base_record import BASE_FILE
from vectoruniverse.runs.durable import share_as_other_files
from vectoruniverse.runs.environment import environment
from vectoruniverse.runs.files import record_text
from vectoruniverse.runs.folder import Run, create_run, making_runs
from vectoruniverse.runs.listing import find_run
from vectoruniverse.tasks.base import Prepared, Shared
from vectoruniverse.tasks.identity import check_adapters_base, describe_base, run_experiment
from vectoruniverse.tasks.recorded_rows import (
    DATA_FILE,
    hold_to_data,
    locate_data,
    read_rows_of,
)
from vectoruniverse.tasks.results import (
    Outcome,
    beside_base,
    best_earlier,
    track_results,
    write_results,
)
from vectoruniverse.tasks.rows import reported_part
from vectoruniverse.tasks.same_run import changes_since, find_same, identity, refuse_begun
from vectoruniverse.tasks.sharing import RunTimes, TimedTask
from vectoruniverse.tasks.table import evaluated_base, setup
from vectoruniverse.terminal import Display
from vectoruniverse.tracking.contract import Trackers
from vectoruniverse.training.batches import steps_per_epoch
from vectoruniverse.training.blocks import passed_as_asked
from vectoruniverse.training.build import build_schedule, build_trackers, check_tracking, schedule_misfit
from vectoruniverse.training.checkpoint import Checkpoint, latest, named, take_up
from vectoruniverse.training.device import peak_memory
from vectoruniverse.training.interruption import InterruptedTraining, Interruption
from vectoruniverse.training.loop import Trainer
from vectoruniverse.training.memory import memory_told
from vectoruniverse.training.observer import AssistingObserver, Observer, RunObserver
from vectoruniverse.training.optim import Schedule, adamw, parameter_groups
from vectoruniverse.training.position import restore_parameters, trainer_state
from vectoruniverse.training.precision import settle_precision
from vectoruniverse.training.shares import refuse_empty_shares
from vectoruniverse.training.task import Task
from vectoruniverse.training.threads import threads_of_run


def train_or_go_on(
    experiment: Experiment, *, runs_dir: Path, display: Display, force: bool = False
) -> Outcome | Run | None:
    """The run of the experiment to its end: one that has begun goes on, and only where there is none a new one is made.

    Args:
        experiment: what to run.
        runs_dir: where the runs are.
        display: what a person sees.
        force: whether runs that have finished or diverged do not count.

    Returns:
        What was found; the run where it had finished before; None in all processes of a run but the first.

    Raises:
        LockedError: another process is at it.
        DivergedError: it diverged before, and would again.
        UserError, InterruptedTraining: as of ``train``.
    """
    started = time.monotonic()
    check_tracking(experiment)
    with display, processes.joined(), Interruption(display.warn) as interruption:
        if processes.rank() > 0:
            _assist(display, interruption)
            return None
        with processes.apart():
            same = find_same(experiment, runs_dir, display, force=force)
        if same is None:
            return train(experiment, runs_dir=runs_dir, display=display, once=True, force=force)
        if same.state == "finished":
            processes.told_by_first("")
            return same.run
        with same.run.lock(), threads_of_run(same.run.read_state().threads):
            if same.run.read_state().state == "finished":  # by another process, since it was looked for
                processes.told_by_first("")
                return same.run
            display.say(same.words)
            return _execute(same.experiment, same.run, display, interruption, same.shared, started)


def train(
    experiment: Experiment,
    *,
    runs_dir: Path,
    display: Display,
    shared: Shared | None = None,
    once: bool = False,
    force: bool = False,
) -> Outcome | None:
    """A new run of the experiment, to its end; gives None in all processes of a run but the first.

    Args:
        experiment: what to run.
        runs_dir: where the run folder goes.
        display: what a person sees.
        shared: what another run of the same base and data has loaded already; it is left as it was found.
        once: whether to leave it to another process that has begun the same run meanwhile.
        force: with ``once``: whether runs that have finished or diverged do not count.

    Raises:
        LockedError: another process has.
        UserError: whatever the user can mend; ``state.json`` of the run tells it too, once there is one: data that
            cannot be read leave no run behind.
        InterruptedTraining: somebody asked to stop; ``resume`` goes on from there.
    """
    started = time.monotonic()
    check_tracking(experiment)
    with (
        display,
        processes.joined(),
        Interruption(display.warn) as interruption,
        threads_of_run(None),
        contextlib.ExitStack() as held,
    ):
        if processes.rank() > 0:
            _assist(display, interruption)
            return None
        held.enter_context(processes.apart())
        base, asked = describe_base(experiment), experiment
        check_adapters_base(experiment, base)
        measured = None
        if shared is None:  # else whoever loaded it has settled that
            experiment, measured = settle_precision(experiment, display.say)
            shared = setup(experiment).share(experiment, display)
        text = dump_experiment(experiment)
        data = shared.data.fingerprint()
        earlier, changes = changes_since(asked, runs_dir, base, shared.data)
        told = {"settings": file_fingerprint(text, Path("config.yaml")), "identity": identity(asked, base)}
        record = base.model_copy(update=told | {"earlier": earlier, "changes": changes})
        files = {
            "config.yaml": text,
            "environment.json": record_text(environment(precision=measured)),
            BASE_FILE: record_text(record),
            DATA_FILE: data + "\n",
        }
        with making_runs(runs_dir):
            if once:
                refuse_begun(asked, runs_dir, base, data, force=force)
            run = create_run(runs_dir, experiment.name, files)
            held.enter_context(run.lock())
        if record.since is not None:
            display.say(record.since)
        return _execute(experiment, run, display, interruption, shared, started)


def resume(reference: str, *, runs_dir: Path, display: Display, shared: Shared | None = None) -> Outcome | None:
    """Continue a run from its last checkpoint, with the config it was started with; None when it is already done.

    So it is in all processes of a run but the first.
    """
    started = time.monotonic()
    with display, processes.joined(), Interruption(display.warn) as interruption, contextlib.ExitStack() as held:
        if processes.rank() > 0:
            _assist(display, interruption)
            return None
        run = find_run(runs_dir, reference, among="resumable")
        if run.read_state().state == "finished":
            processes.told_by_first("")
            return None
        held.enter_context(run.lock())
        held.enter_context(threads_of_run(run.read_state().threads))
        experiment = locate_data(run, run_experiment(run), read_rows_of(run), display)
        return _execute(experiment, run, display, interruption, shared, started)


def warnings_before(prepared: Prepared, steps: int) -> list[str]:
    """What a person should know before ``steps`` updates are made."""
    train = prepared.experiment.train
    alone = "train.shard_base changes nothing here: a single process holds the whole base (vu guide processes)"
    misfits = (schedule_misfit(train, steps), alone if train.shard_base and processes.count() == 1 else None)
    return prepared.warnings() + [said for said in misfits if said is not None]


def _execute(
    experiment: Experiment,
    run: Run,
    display: Display,
    interruption: Interruption,
    shared: Shared | None,
    started: float,
) -> Outcome:
    """Train, and leave the run's state.json telling how it went, however it went; its lock is held.

    Args:
        experiment: what is run.
        run: the run.
        display: what a person sees.
        interruption: says when to stop.
        shared: base and data, where they are loaded already.
        started: when this process began with the run, on the monotonic clock.
    """
    run.set_state("running", metric=experiment.eval.monitor, threads=torch.get_num_threads())
    display.say(f"run {run.path}")
    try:
        with processes.apart():
            shared = shared or setup(experiment).share(experiment, display)
            hold_to_data(run, experiment, shared.data)
        with processes.together(), memory_told(experiment.train):
            processes.told_by_first(str(run.path.absolute()))
            processes.told_by_first("\n".join(_passed_alike(experiment)))
            return _train(experiment, run, display, interruption, shared, started)
    except InterruptedTraining as stopped:
        run.set_state("interrupted")
        for line in sign_lines(signs_of(run, monitor=experiment.eval.monitor)):
            display.warn(line)
        stopped.exit_code, stopped.remedy = interruption.exit_code, f"go on with: vu train --resume {run.name}"
        raise
    except KeyboardInterrupt:
        run.set_state("interrupted")
        raise
    except BaseException as error:
        if isinstance(error, DivergedError):
            find = f"vu find-lr --config {shlex.quote(str(run.config_file))} measures which rate learns"
            error.remedy = "; ".join(filter(None, (error.remedy, find)))
        with contextlib.suppress(UserError):  # a full disk must not hide why the run failed
            run.set_state("stopped" if isinstance(error, DivergedError) else "failed", message=str(error)[:500])
        raise


def _passed_alike(experiment: Experiment) -> list[str]:
    """Settings by which processes pass a model together, and which may differ from those that the run was made with."""
    return [
        f"train.shard_base={json.dumps(experiment.train.shard_base)}",
        f"eval.batch_size={experiment.eval.batch_size}",
    ]


def _assist(display: Display, interruption: Interruption) -> None:
    """What the other processes of a run do: the same steps on rows of their own, and nothing is written or said."""
    if not (place := processes.told_by_first("")):
        return  # it has finished before
    run, asked = Run(Path(place)), processes.told_by_first("").splitlines()
    with threads_of_run(run.read_state().threads), processes.apart():
        experiment = locate_data(run, run_experiment(run, asked), read_rows_of(run), display)
        shared = setup(experiment).share(experiment, display)
        with processes.together(), memory_told(experiment.train):
            base = evaluated_base(experiment, shared, "val")
            prepared = setup(experiment).prepare(experiment, shared)
            checkpoint = named(run.checkpoints, processes.told_by_first(""))
            task = TimedTask(prepared.task, base if checkpoint is None and prepared.starts_as_base else None)
            _fit(prepared, task, AssistingObserver(interruption), interruption, checkpoint)
            help_first(prepared.model)


def _train(
    experiment: Experiment, run: Run, display: Display, interruption: Interruption, shared: Shared, started: float
) -> Outcome:
    """Evaluate the base → prepare → fit → conclude; the base is as it was afterwards."""
    evaluated_base(experiment, shared, "val")
    prepared = setup(experiment).prepare(experiment, shared)
    try:
        return _train_prepared(prepared, shared, run, display, interruption, started)
    finally:
        prepared.release()


@dataclass(frozen=True, slots=True)
class Session:
    """Where one process of a run writes, what it listens to, and the time of all processes."""

    run: Run
    display: Display
    trackers: Trackers
    interruption: Interruption
    times: RunTimes


def _train_prepared(
    prepared: Prepared, shared: Shared, run: Run, display: Display, interruption: Interruption, started: float
) -> Outcome:
    """Fit → conclude, with the trackers told of the end whatever it is."""
    experiment = prepared.experiment
    checkpoint = take_up(run.checkpoints, display.warn)
    processes.told_by_first(checkpoint.path.name if checkpoint and checkpoint.path else "")
    for line in (plan_line(prepared), *prepared.remarks()):
        display.say(line)
    parts = trained_table(parameter_table(prepared.model, prepared.beside))
    display.table("", parts.columns, parts.rows)
    per_epoch = steps_per_epoch(prepared.task.train_rows, experiment.train.batch_size)
    for said in warnings_before(prepared, experiment.train.epochs * per_epoch):
        display.warn_once(said)
    if checkpoint is not None:
        display.say(f"resumed at step {checkpoint.step}")
    trackers = build_trackers(experiment, run, display, checkpoint.step if checkpoint else None)
    base = evaluated_base(experiment, shared, "val")
    task = TimedTask(prepared.task, base if checkpoint is None and prepared.starts_as_base else None)
    session = Session(run, display, trackers, interruption, RunTimes(run.read_state(), started, task))
    try:
        heard = (run, trackers, display, interruption, session.times.facts)
        observer = RunObserver(experiment, experiment.train.epochs * per_epoch, *heard)
        trainer = _fit(prepared, task, observer, interruption, checkpoint)
        with processes.apart(), helped(prepared.model):
            outcome = _conclude(prepared, shared, session, trainer, task)
    except (InterruptedTraining, KeyboardInterrupt):
        trackers.finish("interrupted")
        raise
    except BaseException:
        trackers.finish("failed")
        raise
    trackers.finish("finished")
    return outcome


def _fit(
    prepared: Prepared,
    task: TimedTask,
    observer: Observer,
    interruption: Interruption,
    checkpoint: Checkpoint | None,
) -> Trainer:
    """The loop, from the start or from where the checkpoint stands."""
    experiment = prepared.experiment
    per_epoch = steps_per_epoch(task.train_rows, experiment.train.batch_size)
    refuse_empty_shares(task.train_rows // per_epoch)
    total = experiment.train.epochs * per_epoch
    trainer = build_trainer(prepared, task, observer, build_schedule(experiment.train, total))
    if checkpoint is not None:
        trainer.restore(checkpoint)
    with (
        passed_as_asked(prepared.model, experiment.train, prepared.compute.device),
        interruption.deferred(),  # from here on a signal ends the step first, and leaves a checkpoint
    ):
        trainer.fit()
    return trainer


def build_trainer(prepared: Prepared, task: Task, observer: Observer, schedule: Schedule) -> Trainer:
    """The loop before its first step, with its optimizer."""
    experiment = prepared.experiment
    groups = parameter_groups(task.trained().items(), task.modules(), experiment.train.weight_decay)
    if experiment.adapter.lora_plus_ratio is not None:
        groups = lora_plus_groups(
            lora_layers(prepared.adapters.values()), groups, ratio=experiment.adapter.lora_plus_ratio
        )
    return Trainer(
        task,
        adamw(groups, fused=prepared.compute.device.type == "cuda"),
        schedule,
        experiment,
        observer,
        scaler=torch.amp.GradScaler(prepared.compute.device.type, enabled=prepared.compute.needs_scaler),
        strata=prepared.strata,
        miner=prepared.miner,
        row_names=prepared.row_names,
        ahead=prepared.ahead,
    )


def _conclude(prepared: Prepared, shared: Shared, session: Session, trainer: Trainer, task: TimedTask) -> Outcome:
    """Put the parameters to keep back, evaluate them beside the base, write what a person wants to have.

    Here, after the last decision, the test rows are evaluated for the first and only time.
    """
    experiment, run = prepared.experiment, session.run
    blends = experiment.eval.keep == "blend"
    kept = latest(run.checkpoints, "last" if experiment.eval.keep == "last" else "best", session.display.warn)
    assert kept is not None, "the first evaluation writes a checkpoint"
    restore_parameters(prepared.task.trained(), kept.tensors["model"], kept.path)
    blend = prepared.choose_scale("val") if blends else None
    forgetting = prepared.forgotten("val", 1.0 if blend is None else blend.scale)
    if blend is not None:
        prepared.blend(blend.scale)
    prepared.save(run.adapter)
    for weights in run.adapter.rglob("*.safetensors"):
        share_as_other_files(weights)
    trained_parameters, base = prepared.trained_parameters(), evaluated_base(experiment, shared, "val")
    adapted = (None if blends else trainer.evaluation_at(kept.step)) or prepared.task.evaluate("val")
    prepared = prepared.learn_labels(base, adapted)
    prepared.save_labels(run.adapter)
    selection = beside_base(prepared, base, "val", adapted)
    prepared, comparison = _on_reported_rows(prepared, shared, run, selection)
    try:
        times = session.times.facts()  # once: the card, the report and the record of a run tell the same time
        outcome = Outcome(
            run,
            comparison,
            None if comparison is selection else selection,
            trained_parameters,
            experiment.eval.monitor,
            trainer.position.best_epoch,
            trainer_state(kept).position.evaluated,
            times["seconds"],
            task.step_seconds,
            task.evaluation_seconds,
            best_earlier(run, experiment.eval.monitor, prepared.data.fingerprint()),
            blend,
            forgetting,
        )
        _publish(prepared, outcome, session, trainer.position.step, times)
    finally:
        prepared.release()
    return outcome


def _on_reported_rows(
    prepared: Prepared, shared: Shared, run: Run, selection: Comparison
) -> tuple[Prepared, Comparison]:
    """The run's adapter, as it was saved, beside its base on what is reported; ``selection`` where those picked."""
    experiment = prepared.experiment
    side = reported_part(experiment, prepared.data.split.reported)
    if side == selection.split:
        return prepared, selection
    prepared.release()  # the base is evaluated without what was trained on it
    base = evaluated_base(experiment, shared, side)
    saved = setup(experiment).prepare(experiment, shared, run.adapter)
    return saved, beside_base(saved, base, side)


def _publish(prepared: Prepared, outcome: Outcome, session: Session, step: int, times: Mapping[str, float]) -> None:
    """Write results and report, tell the trackers, and end the run."""
    findings = write_results(prepared, outcome)
    if (lacking := undrawn()) is not None:
        session.display.say(lacking)
    track_results(session.trackers, prepared, outcome, findings, step)
    outcome.run.set_state(
        "finished",
        best=outcome.score,
        epoch=outcome.epoch,
        epochs=prepared.experiment.train.epochs,
        **times,
        device=str(prepared.compute),
        peak_memory_bytes=peak_memory(prepared.compute.device),
    )


def plan_line(prepared: Prepared) -> str:
    """Rows, trained parameters and device in one line."""
    counts, total = prepared.data.counts(), parameter_table(prepared.model, prepared.beside)[-1].total
    bad = f" ({counts['set aside']} set aside)" if counts["set aside"] else ""
    return (
        f"{prepared.data.counted_parts()}{bad}; "
        f"{prepared.trained_parameters():,} of {total:,} parameters trained; {prepared.compute.with_threads}"
    )
