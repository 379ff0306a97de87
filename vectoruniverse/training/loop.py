"""The training loop, for every task: one update after another, evaluated after each epoch, resumable at every step.

Between two steps that are told to somebody nothing waits for a GPU: losses and gradient norms stay there, and an update
that is not finite, like all after it, is skipped there, until the numbers are read and training ends with a message.

Nothing random is kept between steps: the order of rows is a function of seed and epoch, dropout of seed and step, and
views of seed, epoch and row. So parameters, optimizer, scaler and position are all there is to save, and the order of
an epoch's rows where the model decided it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from vectoruniverse import processes
from vectoruniverse.config.sections import Experiment
from vectoruniverse.errors import DataError, DivergedError
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.metrics.geometry import effective_rank
from vectoruniverse.training.batches import batches, steps_per_epoch
from vectoruniverse.training.checkpoint import Checkpoint
from vectoruniverse.training.interruption import InterruptedTraining
from vectoruniverse.training.observer import Observer
from vectoruniverse.training.optim import Schedule
from vectoruniverse.training.optimizer_state import optimizer_names, optimizer_tensors, restore_optimizer
from vectoruniverse.training.position import DAMAGED, Position, TrainerState, restore_parameters, trainer_state
from vectoruniverse.training.shares import whole_step
from vectoruniverse.training.strata import Blocks, Miner, Strata
from vectoruniverse.training.task import StepLoss, Task
from vectoruniverse.training.updates import MAX_SKIPPED, RowNames, Update, diverged, on_host


class Trainer:
    """Parameters, optimizer, scaler and position, and the loop over them."""

    def __init__(
        self,
        task: Task,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        experiment: Experiment,
        observer: Observer,
        *,
        scaler: torch.amp.GradScaler,
        strata: Strata | Blocks | None = None,
        miner: Miner | None = None,
        row_names: RowNames = lambda rows: [],
        ahead: Callable[[np.ndarray], None] = lambda rows: None,
    ) -> None:
        """Bind a task to its optimizer, before the first step; ``restore`` goes on from a checkpoint.

        ``ahead`` is told, before a step, the rows of the one after it, which may be read meanwhile.
        """
        self.task, self.optimizer, self.schedule = task, optimizer, schedule
        self.experiment, self.observer, self.scaler, self.strata = experiment, observer, scaler, strata
        self._miner, self._row_names, self._ahead = miner, row_names, ahead
        self._order: Tensor | None = None  # of the rows of the epoch, where the model decided it
        self.position = Position()
        self._best: tuple[int, Evaluation] | None = None  # with its step, where this process evaluated it
        self._last: tuple[int, Evaluation] | None = None
        self._trained = dict(task.trained())
        self._names = optimizer_names(optimizer, self._trained)
        self._unread: list[Update] = []
        self._numbers: dict[str, float] = {}  # of the last update that was read
        self._skipped = 0  # updates up to it, one after the other
        self._rows, self._seconds = 0, 0.0  # since then
        self._skips = bool(optimizer.defaults.get("fused"))  # an update on the device, where it is told to
        self._halted = torch.zeros((), device=next(iter(self._trained.values())).device)  # 1 from such an update on
        self._asked_to_stop = torch.zeros(())  # by how many processes, as of the last step
        if self._skips:
            optimizer.register_step_pre_hook(self._skip_where_halted)

    def checkpoint(self) -> Checkpoint:
        """Everything needed to resume: parameters, optimizer, scaler and position, as they are now."""
        moments, facts = optimizer_tensors(self.optimizer, self._names)
        state = TrainerState(position=self.position, optimizer=facts, scaler=self.scaler.state_dict())
        tensors: dict[str, Mapping[str, Tensor]] = {"model": self._trained, "optimizer": moments}
        if self._order is not None:
            tensors["order"] = {"rows": self._order}
        return Checkpoint(self.position.step, tensors, state.model_dump())

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on exactly where the checkpoint was taken.

        Raises:
            DataError: it is of other parameters, or not what was saved.
        """
        state = trainer_state(checkpoint)
        if state.position.step != checkpoint.step or {"model", "optimizer"} - checkpoint.tensors.keys():
            raise DataError("is not what was saved: its parts differ", file=checkpoint.path, remedy=DAMAGED)
        restore_parameters(self._trained, checkpoint.tensors["model"], checkpoint.path)
        restore_optimizer(self.optimizer, self._names, checkpoint.tensors["optimizer"], state.optimizer)
        if self.scaler.is_enabled():
            if state.scaler.keys() != self.scaler.state_dict().keys():
                raise DataError("is of another number format", file=checkpoint.path, remedy=DAMAGED)
            self.scaler.load_state_dict(dict(state.scaler))
        self.position = state.position
        self._order = checkpoint.tensors.get("order", {}).get("rows")

    def evaluation_at(self, step: int) -> Evaluation | None:
        """What the best or the last epoch reached, if it ended at this step and this process evaluated it."""
        return next((found for at, found in filter(None, (self._best, self._last)) if at == step), None)

    def fit(self) -> Position:
        """Train to the end, to early stopping, or to an interruption.

        Raises:
            DivergedError: a loss or gradient is not finite, or the space collapsed and the guard is set to stop.
            InterruptedTraining: somebody asked to stop; a checkpoint was written.
        """
        for module in self.task.modules():
            module.train()  # models are loaded in evaluation mode, in which dropout does nothing
        train, position = self.experiment.train, self.position
        per_epoch = steps_per_epoch(self.task.train_rows, train.batch_size)
        done = position.step // per_epoch
        if (self._is_due(done) and position.evaluated < done) or not position.base:
            self._evaluate(done)  # the base, or an epoch whose end an interruption cut off
        for epoch in range(done, train.epochs):
            if self._is_due(epoch) and self._is_out_of_patience(epoch):
                break
            begun = position.step - epoch * per_epoch
            plan = self._batches(epoch, begun=begun > 0)[begun:]
            for rows, following in zip(plan, [*plan[1:], plan[-1][:0]], strict=True):
                self._ahead(following)
                told = position.step % train.log_every == 0 or (position.step + 1) % per_epoch == 0
                values = self.train_step(rows, epoch, read=told)
                self.observer.on_step(position.step, values)
                if self._is_to_stop(told=told):
                    self._stop()
                if self.observer.is_save_due():
                    self._save()
            if self._is_due(epoch + 1):
                self._evaluate(epoch + 1)
        return position

    def _is_to_stop(self, *, told: bool) -> bool:
        """Whether this process was asked to; of several any one, which on a GPU is read with all else."""
        if processes.count() == 1:
            return self.observer.interrupted()
        return (told or not self._asked_to_stop.is_cuda) and bool(self._asked_to_stop)

    def _save(self) -> None:
        """Save where training stands, between evaluations."""
        self._read()
        self.observer.save(self.checkpoint(), is_best=False)

    def _stop(self) -> NoReturn:
        """Save, and end training."""
        self._save()
        raise InterruptedTraining(f"stopped at step {self.position.step}")

    @contextlib.contextmanager
    def _between_steps(self) -> Iterator[None]:
        """What changes neither parameters nor position is not waited for: it is done again after a resume.

        Several processes have to end after the same step, so it is waited for there.
        """
        if processes.count() > 1:
            yield
            return
        try:
            with self.observer.at_once():
                yield
        except KeyboardInterrupt:
            self._stop()

    def _batches(self, epoch: int, *, begun: bool) -> list[np.ndarray]:
        """Rows of each batch of an epoch; of one that was ``begun`` in an order by the model, in that order.

        Raises:
            DataError: the checkpoint lacks that order.
        """
        count, size, seed = self.task.train_rows, self.experiment.train.batch_size, self.experiment.seed
        if self._miner is None:
            return batches(count, size, seed, epoch, self.strata)
        if not begun:
            with self._between_steps():
                strata = self._miner(epoch)
            found = batches(count, size, seed, epoch, strata)
            self._order = processes.of_first(torch.from_numpy(np.concatenate(found)))
        if self._order is None or sorted(self._order.tolist()) != list(range(count)):
            raise DataError("the checkpoint lacks the order of this epoch's rows", remedy=DAMAGED)
        return np.array_split(self._order.numpy(), steps_per_epoch(count, size))

    def train_step(self, rows: np.ndarray, epoch: int, *, read: bool = True) -> dict[str, float]:
        """One update; returns what happened, by name.

        Where it need not be ``read`` it is left on a GPU that can skip updates by itself, and nothing returned.

        Raises:
            DivergedError: this update, or one that was not read, is not finite; none since then was made.
        """
        started, position = time.perf_counter(), self.position
        torch.manual_seed(_mix(self.experiment.seed, position.step) + processes.rank())
        learning_rate = self.schedule(position.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_ratio", 1.0)  # LoRA+ gives lora_B a rate of its own

        loss = self.task.loss(rows, epoch)
        torch.autograd.backward(self.scaler.scale(loss.total))
        if processes.count() > 1:
            asked = self.observer.interrupted()
            loss, self._asked_to_stop = whole_step(loss, self._trained.values(), flag=asked)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._trained.values(), self.experiment.train.clip_grad_norm or float("inf"))
        self._note(loss, norm, rows)
        read = read or not self._skips
        if not self._skips:
            self._read()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if read:
            self._read()
        self.task.after_step()

        values = {**self._numbers, "lr": learning_rate} if read else {}
        if read and position.step % self.experiment.train.log_every == 0:
            values |= self._watch_space(None if loss.embeddings is None else processes.collected(loss.embeddings))
        position.step += 1
        return values | self._pace(len(rows), time.perf_counter() - started, read=read)

    def _pace(self, rows: int, seconds: float, *, read: bool) -> dict[str, float]:
        """Rows per second since updates were last read, for only then is it known that they are done."""
        self._rows, self._seconds = self._rows + rows, self._seconds + seconds
        if not read:
            return {}
        pace = self._rows / self._seconds
        self._rows, self._seconds = 0, 0.0
        return {"pairs_per_second": pace}

    def _note(self, loss: StepLoss, norm: Tensor, rows: np.ndarray) -> None:
        """Keep loss, parts, the gradient's norm before clipping, trained scalars and chance; halt where one is NaN.

        A NaN survives clipping and would poison every parameter, so it is caught before the update.
        """
        total = loss.total.detach()
        finite = torch.isfinite(total) & torch.isfinite(norm)
        if self.scaler.is_enabled():  # it skips an update whose scaled gradient overflowed, and lowers its scale
            finite |= torch.isfinite(total) & (self.scaler.scale(torch.ones_like(total)) > 1.0)
        self._halted = torch.maximum(self._halted, 1.0 - finite.float())
        parts = {f"loss/{name}": part for name, part in loss.parts.items()}
        chance = {} if loss.chance is None else {"chance": loss.chance}
        numbers = {"loss": total, "grad_norm": norm, **parts, **loss.watched, **chance}
        self._unread.append(Update(self.position.step, rows, finite, numbers))

    def _skip_where_halted(self, optimizer: Any, *_: object) -> None:
        """Before a fused optimizer's step, whose kernels leave everything as it is where ``found_inf`` is 1."""
        found = getattr(optimizer, "found_inf", self._halted)  # by the scaler, if it is enabled
        optimizer.found_inf = torch.maximum(found, self._halted)

    def _read(self) -> None:
        """Wait for the device, and look at the updates that were not read yet.

        Raises:
            DivergedError: one is not finite, or so many were skipped, one after the other, that none will be made.
        """
        for update, finite, numbers in on_host(self._unread):
            was_skipped = not math.isfinite(numbers["grad_norm"])
            if not finite or (was_skipped and self._skipped == MAX_SKIPPED):
                raise diverged(update, numbers, self._skipped, self._row_names)
            self._skipped = self._skipped + 1 if was_skipped else 0
            if (bound := self.experiment.train.clip_grad_norm) is not None:
                self.position.clipped += numbers["grad_norm"] > bound
                numbers["clipped_share"] = self.position.clipped / (update.step + 1)
            self._numbers = numbers
        self._unread.clear()

    def _watch_space(self, embeddings: Tensor | None) -> dict[str, float]:
        """Effective rank of this batch's embeddings; a warning, or the end, when it collapses."""
        guard, position = self.experiment.guard, self.position
        if embeddings is None:
            return {}
        rank = effective_rank(embeddings)
        if position.initial_rank is None:
            position.initial_rank = rank
        collapsed = rank == 0.0 or rank < guard.min_share * position.initial_rank
        if collapsed and position.collapsed_at is None and guard.action != "off":
            position.collapsed_at = position.step
            message = (
                f"the embedding space is collapsing: effective rank {rank:.1f} at step {position.step}, "
                f"{position.initial_rank:.1f} before the first"
            )
            if guard.action == "stop":
                raise DivergedError(message, key="guard.action", remedy="lower train.lr, or use another loss")
            self.observer.on_warning(message)
        return {"effective_rank": rank}

    def _evaluate(self, epoch: int) -> None:
        """Evaluate, remember the best, save."""
        position = self.position
        with self._between_steps():
            evaluation = self.task.evaluate()
        score = evaluation.metrics[self.experiment.eval.monitor]
        is_best = self._is_best(epoch, score, evaluation.loss)
        self._last = (position.step, evaluation)
        if is_best:
            self._best = self._last
            if position.best is None or score > position.best:
                position.improved = epoch
            position.best, position.best_loss, position.best_epoch = score, evaluation.loss, epoch
        position.evaluated = epoch
        if epoch == 0:
            position.base = dict(evaluation.metrics)
        self.observer.on_evaluation(position.step, epoch, evaluation, is_best)
        self.observer.save(self.checkpoint(), is_best)

    def _is_best(self, epoch: int, score: float, loss: float | None) -> bool:
        """Whether an epoch is better than the best so far; of equals the one of lower loss, else the later one."""
        position = self.position
        if epoch == 0 and self.experiment.train.epochs > 0 and self.experiment.starts_random:
            return False
        if position.best is None or score != position.best:
            return position.best is None or score > position.best
        return loss is None or position.best_loss is None or loss <= position.best_loss

    def _is_due(self, epoch: int) -> bool:
        return epoch % self.experiment.eval.every == 0 or epoch == self.experiment.train.epochs

    def _is_out_of_patience(self, epoch: int) -> bool:
        patience, position = self.experiment.train.early_stopping, self.position
        improved = position.best_epoch if position.improved is None else position.improved
        if patience is None:
            return False
        return bool(processes.of_first(torch.tensor(int(epoch - improved >= patience))))


def _mix(seed: int, step: int) -> int:
    """A 63-bit seed for torch from two numbers."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))
