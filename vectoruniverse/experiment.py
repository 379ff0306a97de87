"""THE TABLE OF CONTENTS: one run, from top to bottom, in the order in which data flows.

config → data → encoder (+ adapter) → task (loss) → loop → metrics → tracking → report
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from vectoruniverse.adapters.apply import ParameterCount, parameter_table
from vectoruniverse.adapters.lora import LoraAdapter, lora_plus_groups
from vectoruniverse.assembly.contract import Prepared, Shared, judged_base, setup
from vectoruniverse.assembly.loop import build_schedule, build_trackers, check_tracking, loop_settings
from vectoruniverse.assembly.prepared import TimedTask
from vectoruniverse.comparison import Comparison
from vectoruniverse.config.loading import dump_experiment, load_experiment
from vectoruniverse.config.sections import Experiment
from vectoruniverse.display import Display
from vectoruniverse.errors import DataError, DivergedError, UserError
from vectoruniverse.observer import RunObserver
from vectoruniverse.report import PARAMETER_COLUMNS, parameter_rows
from vectoruniverse.reporting import kept_epochs
from vectoruniverse.results import (
    Outcome,
    beside_base,
    best_earlier,
    card_facts,
    report,
    track_results,
    write_results,
)
from vectoruniverse.runs.environment import environment
from vectoruniverse.runs.folder import Run, create_run
from vectoruniverse.runs.listing import find_run, find_trained_run
from vectoruniverse.tasks.contract import Evaluation
from vectoruniverse.tracking.contract import Trackers
from vectoruniverse.training.checkpoint import Checkpoint, latest
from vectoruniverse.training.device import peak_memory
from vectoruniverse.training.interruption import Interruption
from vectoruniverse.training.loop import (
    InterruptedTraining,
    Snapshot,
    Trainer,
    batches,
    restore_parameters,
    steps_per_epoch,
)
from vectoruniverse.training.optim import adamw, parameter_groups

DATA_FILE = "data.sha256"
"""Fingerprint of the data that a run is trained on, in the run folder."""


def train(experiment: Experiment, *, runs_dir: Path, display: Display, shared: Shared | None = None) -> Outcome:
    """A new run of the experiment, to its end.

    Args:
        experiment: what to run.
        runs_dir: where the run folder goes.
        display: what a person sees.
        shared: what another run of the same base and data has loaded already; it is left as it was found.

    Raises:
        UserError: whatever the user can mend; ``state.json`` of the run tells it too.
        InterruptedTraining: somebody asked to stop; ``resume`` goes on from there.
    """
    check_tracking(experiment)
    run = create_run(runs_dir, experiment.name)
    run.write_text("config.yaml", dump_experiment(experiment))
    run.write_json("environment.json", environment())
    return _execute(experiment, run, display, shared)


def resume(reference: str, *, runs_dir: Path, display: Display, shared: Shared | None = None) -> Outcome | None:
    """Continue a run from its last checkpoint, with the config it was started with; None when it is already done."""
    run = find_run(runs_dir, reference)
    if run.read_state().state == "finished":
        return None
    return _execute(load_experiment(run.config_file), run, display, shared)


def evaluate_run(reference: str, *, runs_dir: Path, split: str, display: Display) -> tuple[Run, Comparison]:
    """Judge a finished run's adapter and its base on a split of the run's data.

    Raises:
        ConfigError: there is no such run, or it has no adapter yet.
    """
    run, prepared, base = _finished(reference, runs_dir, split, display)
    return run, beside_base(prepared, base, split)


def report_run(reference: str, *, runs_dir: Path, display: Display) -> Path:
    """Write a finished run's report.html and its figures again, from what its folder holds and its data."""
    run, prepared, base = _finished(reference, runs_dir, "val", display)
    facts = card_facts(prepared, *kept_epochs(run), run.read_state().seconds)
    report(run, prepared, beside_base(prepared, base, "val"), facts)
    return run.report_file


def _finished(reference: str, runs_dir: Path, split: str, display: Display) -> tuple[Run, Prepared, Evaluation]:
    """A finished run, its model with what was trained, and what its base reaches."""
    run = find_trained_run(runs_dir, reference)
    experiment = load_experiment(run.config_file)
    shared = setup(experiment).share(experiment, display)
    base = judged_base(experiment, shared, split)
    return run, setup(experiment).prepare(experiment, shared, run.adapter), base


def evaluate_base(experiment: Experiment, *, split: str, display: Display) -> Evaluation:
    """Judge the model of an experiment as it is, before any training."""
    shared = setup(experiment).share(experiment, display)
    return judged_base(experiment, shared, split)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training would do, and what one batch of it took."""

    rows: Mapping[str, int]
    steps_per_epoch: int
    steps: int
    parameters: list[ParameterCount]
    compute: str
    loss: Mapping[str, float]
    seconds_per_step: float
    memory: int | None


def dry_run(experiment: Experiment, display: Display) -> Plan:
    """Load everything, take one batch forward and backward, write nothing."""
    shared = setup(experiment).share(experiment, display)
    prepared = setup(experiment).prepare(experiment, shared)
    for said in prepared.warnings():
        display.warn_once(said)
    task = prepared.task
    rows = batches(task.train_rows, experiment.train.batch_size, experiment.seed, 0)[0]
    started = time.perf_counter()
    loss = task.loss(rows, 0)
    torch.autograd.backward(loss.total)
    per_epoch = steps_per_epoch(task.train_rows, experiment.train.batch_size)
    return Plan(
        rows=prepared.data.counts(),
        steps_per_epoch=per_epoch,
        steps=per_epoch * experiment.train.epochs,
        parameters=parameter_table(prepared.model),
        compute=str(prepared.compute),
        loss={"total": float(loss.total.detach()), **{name: float(part) for name, part in loss.parts.items()}},
        seconds_per_step=time.perf_counter() - started,
        memory=peak_memory(prepared.compute.device),
    )


def _execute(experiment: Experiment, run: Run, display: Display, shared: Shared | None) -> Outcome:
    """Train under the run's lock, and leave its state.json telling how it went, however it went."""
    with run.lock(), Interruption(display.warn) as interruption:
        run.set_state("running", metric=experiment.eval.monitor, message=None)
        display.say(f"run {run.path}")
        try:
            return _train(experiment, run, display, interruption, shared)
        except InterruptedTraining as stopped:
            run.set_state("interrupted")
            stopped.exit_code, stopped.remedy = interruption.exit_code, f"go on with: vu train --resume {run.name}"
            raise
        except KeyboardInterrupt:
            run.set_state("interrupted")
            raise
        except BaseException as error:
            with contextlib.suppress(UserError):  # a full disk must not hide why the run failed
                run.set_state("stopped" if isinstance(error, DivergedError) else "failed", message=str(error)[:500])
            raise
        finally:
            display.close()


def _train(
    experiment: Experiment, run: Run, display: Display, interruption: Interruption, shared: Shared | None
) -> Outcome:
    """Share → judge the base → prepare → fit → conclude; the base is as it was afterwards."""
    started = time.monotonic()
    shared = shared or setup(experiment).share(experiment, display)
    _hold_to_its_data(run, shared.data.fingerprint())
    base = judged_base(experiment, shared, "val")
    prepared = setup(experiment).prepare(experiment, shared)
    try:
        return _train_prepared(prepared, base, run, display, interruption, started)
    finally:
        prepared.release()


def _hold_to_its_data(run: Run, fingerprint: str) -> None:
    """Note what a new run is trained on, and refuse to go on with other data."""
    file = run.path / DATA_FILE
    if not file.is_file():
        run.write_text(DATA_FILE, fingerprint + "\n")
    elif file.read_text(encoding="utf-8", errors="replace").strip() != fingerprint:
        raise DataError(
            "the data is not what this run was begun with", file=run.path, remedy="put it back, or train a new run"
        )


@dataclass(frozen=True, slots=True)
class Session:
    """Where one execution of a run writes, and what it listens to."""

    run: Run
    display: Display
    trackers: Trackers
    interruption: Interruption
    started: float


def _train_prepared(
    prepared: Prepared, base: Evaluation, run: Run, display: Display, interruption: Interruption, started: float
) -> Outcome:
    """Fit → conclude, with the trackers told of the end whatever it is."""
    experiment = prepared.experiment
    checkpoint = latest(run.checkpoints, "last", display.warn) if run.checkpoints.is_dir() else None
    display.say(plan_line(prepared))
    display.table("", PARAMETER_COLUMNS, parameter_rows(parameter_table(prepared.model)))
    for said in prepared.warnings():
        display.warn_once(said)
    if checkpoint is not None:
        display.say(f"resumed at step {checkpoint.step}")
    trackers = build_trackers(experiment, run, display, checkpoint.step if checkpoint else None)
    session = Session(run, display, trackers, interruption, started)
    task = TimedTask(prepared.task, base if checkpoint is None and prepared.starts_as_base else None)
    try:
        trainer = _fit(prepared, task, session, checkpoint)
        outcome = _conclude(prepared, base, session, trainer, task)
    except (InterruptedTraining, KeyboardInterrupt):
        trackers.finish("interrupted")
        raise
    except BaseException:
        trackers.finish("failed")
        raise
    trackers.finish("finished")
    return outcome


def _fit(prepared: Prepared, task: TimedTask, session: Session, checkpoint: Checkpoint | None) -> Trainer:
    """The loop, from the start or from where the checkpoint stands."""
    experiment = prepared.experiment
    groups = parameter_groups(task.trained().items(), task.modules(), experiment.train.weight_decay)
    if experiment.adapter.lora_plus_ratio is not None:
        adapters = [adapter for adapter in prepared.adapters.values() if isinstance(adapter, LoraAdapter)]
        groups = lora_plus_groups(adapters, groups, ratio=experiment.adapter.lora_plus_ratio)
    total = experiment.train.epochs * steps_per_epoch(task.train_rows, experiment.train.batch_size)
    observer = RunObserver(
        session.run,
        session.trackers,
        session.display,
        session.interruption,
        total_steps=total,
        log_every=experiment.train.log_every,
        monitor=experiment.eval.monitor,
    )
    trainer = Trainer(
        task,
        adamw(groups, fused=prepared.compute.device.type == "cuda"),
        build_schedule(experiment.train, total),
        loop_settings(experiment),
        observer,
        scaler=torch.amp.GradScaler(prepared.compute.device.type, enabled=prepared.compute.needs_scaler),
    )
    if checkpoint is not None:
        trainer.restore(Snapshot(checkpoint.step, checkpoint.tensors, checkpoint.state, checkpoint.path))
    with session.interruption.deferred():  # from here on a signal ends the step first, and leaves a checkpoint
        trainer.fit()
    return trainer


def _conclude(prepared: Prepared, base: Evaluation, session: Session, trainer: Trainer, task: TimedTask) -> Outcome:
    """Put the parameters to keep back, judge them beside the base, write what a person wants to have."""
    experiment, position, run = prepared.experiment, trainer.position, session.run
    kept = latest(run.checkpoints, experiment.eval.keep, session.display.warn)
    assert kept is not None, "the first evaluation writes a checkpoint"
    restore_parameters(prepared.task.trained(), kept.tensors["model"])
    prepared.save(run.adapter)
    epoch = int(kept.state["position"]["judged"])
    comparison = beside_base(prepared, base, "val", trainer.evaluation_at(kept.step))
    outcome = Outcome(
        run,
        comparison,
        experiment.eval.monitor,
        position.best_epoch,
        epoch,
        time.monotonic() - session.started,
        task.step_seconds,
        task.evaluation_seconds,
        best_earlier(run, experiment.eval.monitor, prepared.data.fingerprint()),
    )
    findings = write_results(prepared, outcome)
    track_results(session.trackers, prepared, outcome, findings, position.step)
    run.set_state(
        "finished",
        best=comparison.adapted.metrics[experiment.eval.monitor],
        epoch=epoch,
        epochs=experiment.train.epochs,
        seconds=round(outcome.seconds, 1),
        step_seconds=round(outcome.step_seconds, 1),
        device=str(prepared.compute),
        peak_memory_bytes=peak_memory(prepared.compute.device),
    )
    return outcome


def plan_line(prepared: Prepared) -> str:
    """Rows, trained parameters and device in one line."""
    counts, total = prepared.data.counts(), sum(p.numel() for p in prepared.model.parameters())
    bad = f" ({counts['set aside']} set aside)" if counts["set aside"] else ""
    return (
        f"{counts['training']} training and {counts['validation']} validation rows{bad}; "
        f"{prepared.trained_parameters():,} of {total:,} parameters trained; {prepared.compute}"
    )
