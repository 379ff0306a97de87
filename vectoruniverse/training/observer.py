"""What the loop reports to: the trackers, the display and the checkpoint folder of a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

from vectoruniverse.config.sections import Experiment
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.runs.folder import Run
from vectoruniverse.terminal import Display, step_detail
from vectoruniverse.tracking.contract import Trackers
from vectoruniverse.training.checkpoint import Checkpoint, point, prune, save_checkpoint
from vectoruniverse.training.interruption import Interruption

SAVE_SECONDS = 600.0
"""A process that is killed without a word loses so much training at most, and the longest epoch no more."""


class Observer:
    """Is told what happens; this one lets all of it pass but what a person should know."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.on_warning = warn

    def on_step(self, step: int, values: Mapping[str, float]) -> None:
        """After every update: loss parts, learning rate, gradient norm, pairs/s, effective rank.

        On a GPU ``values`` are empty between the steps of ``train.log_every`` and the ends of epochs.
        """

    def on_evaluation(self, step: int, epoch: int, evaluation: Evaluation, is_best: bool) -> None:
        """After every evaluation; epoch 0 is the one before the first step."""

    def save(self, checkpoint: Checkpoint, is_best: bool) -> None:
        """Write a checkpoint."""

    def interrupted(self) -> bool:
        """Whether a person or the system asked to stop."""
        return False

    def is_save_due(self) -> bool:
        """Whether so much was done since the last checkpoint that it should not be lost."""
        return False

    def at_once(self) -> AbstractContextManager[object]:
        """Within it whoever asks to stop is not noted for ``interrupted``: a ``KeyboardInterrupt`` is raised."""
        return contextlib.nullcontext()


class AssistingObserver(Observer):
    """Of a process that is not the first of its run: it listens to signals, and leaves everything else to that one."""

    def __init__(self, interruption: Interruption) -> None:
        """``interruption`` says when to stop."""
        super().__init__(lambda text: None)
        self._interruption = interruption

    def interrupted(self) -> bool:
        """Whether a signal came."""
        return bool(self._interruption)


class RunObserver(Observer):
    """Writes everything down where it belongs."""

    def __init__(
        self,
        experiment: Experiment,
        total_steps: int,
        run: Run,
        trackers: Trackers,
        display: Display,
        interruption: Interruption,
        times: Callable[[], Mapping[str, float]],
    ) -> None:
        """Report to ``run``'s folder, ``trackers`` and ``display``; ``interruption`` says when to stop.

        ``times`` tells how long the run has taken so far, as ``state.json`` does.
        """
        super().__init__(display.warn)
        self._total, self._log_every, self._monitor = total_steps, experiment.train.log_every, experiment.eval.monitor
        self._run, self._trackers, self._display = run, trackers, display
        self._interruption, self._times = interruption, times
        self._step = self._save = 0.0  # seconds of the longest step and save of this process
        self._lap = self._saved = time.monotonic()
        self._shown: dict[str, float] = {}  # of each number the last one, since not all are measured at every step

    def on_step(self, step: int, values: Mapping[str, float]) -> None:
        """Move the progress bar; every ``log_every`` steps tell the trackers."""
        self._shown = {**self._shown, **values}
        self._display.advance("training", step, self._total, step_detail(self._shown) if self._shown else "")
        if step % self._log_every == 1 or self._log_every == 1 or step == self._total:
            self._trackers.log(step, {f"train/{name}": value for name, value in values.items()})

    def on_evaluation(self, step: int, epoch: int, evaluation: Evaluation, is_best: bool) -> None:
        """Tell trackers every metric, and people the one that counts."""
        metrics = evaluation.metrics
        self._trackers.log(step, {f"val/{name}": value for name, value in metrics.items()} | {"epoch": epoch})
        line = f"epoch {epoch}: {self._monitor} {metrics[self._monitor]:.3f}{' (best)' if is_best and epoch else ''}"
        rank = metrics.get("effective_rank")
        self._display.say(line if rank is None else f"{line}, effective rank {rank:.1f}")

    def save(self, checkpoint: Checkpoint, is_best: bool) -> None:
        """Write a checkpoint, let ``last`` (and ``best``) name it; keep the one before it, drop the others."""
        started, folder = time.monotonic(), self._run.checkpoints
        point(folder, save_checkpoint(folder, checkpoint), *(("last", "best") if is_best else ("last",)))
        prune(folder)
        self._run.note(**self._times())  # a killed process is counted up to here
        self._lap = self._saved = time.monotonic()
        self._save = max(self._save, self._lap - started)

    def interrupted(self) -> bool:
        """Whether a signal came, which a limit of time sends early enough for one more step and its checkpoint."""
        now = time.monotonic()
        self._step, self._lap = max(self._step, now - self._lap), now
        self._interruption.reserve(self._step + 2 * self._save)
        return bool(self._interruption)

    def is_save_due(self) -> bool:
        """Whether the last checkpoint is ten minutes old."""
        return self._lap - self._saved > SAVE_SECONDS

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Have a signal raised, and the time that passes count for no step."""
        with self._interruption.at_once():
            yield
        self._lap = time.monotonic()
