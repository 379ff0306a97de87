from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vectoruniverse.config.sections import (
    AdapterSettings,
    EvalConfig,
    Experiment,
    GuardConfig,
    Section,
    TrainConfig,
)
from vectoruniverse.data.transfer import send
from vectoruniverse.errors import DataError, DivergedError
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.losses.contrastive import info_nce
from vectoruniverse.training.batches import batches, steps_per_epoch
from vectoruniverse.training.checkpoint import Checkpoint
from vectoruniverse.training.interruption import InterruptedTraining, Interruption
from vectoruniverse.training.loop import Trainer
from vectoruniverse.training.optim import adamw, constant, parameter_groups
from vectoruniverse.training.task import StepLoss

ROWS = 10


class Line:
    """Task: find y = 2x + 1 with dropout on x; the score is minus the distance to it."""

    def __init__(self, scores=None, poison_at=None):
        self.model = nn.Linear(1, 1)
        with torch.no_grad():
            self.model.weight.zero_()
            self.model.bias.zero_()
        self.scores, self.poison_at, self.calls = scores, poison_at, 0
        self.train_rows = ROWS

    def trained(self):
        return dict(self.model.named_parameters())

    def modules(self):
        return list(self.model.modules())

    def loss(self, rows, epoch):
        x = torch.from_numpy(rows).float()[:, None] / ROWS
        noisy = nn.functional.dropout(x, 0.1)
        total = (self.model(noisy) - (2 * x + 1)).square().mean()
        if self.poison_at == self.calls:
            total = total * float("nan")
        self.calls += 1
        return StepLoss(total, {"square": total.detach()}, self.embeddings(rows))

    def embeddings(self, rows):
        return None

    def after_step(self):
        pass

    def evaluate(self):
        if self.scores is not None:
            return Evaluation({"score": self.scores.pop(0)})
        with torch.no_grad():
            return Evaluation({"score": -float((self.model.weight - 2).abs() + (self.model.bias - 1).abs())})


class Recorder:
    def __init__(self, stop_at=None, save_every=None):
        self.save_every = save_every
        self.steps, self.evaluations, self.warnings, self.saves, self.stop_at = [], [], [], [], stop_at

    def on_step(self, step, values):
        self.steps.append((step, dict(values)))

    def on_evaluation(self, step, epoch, evaluation, is_best):
        self.evaluations.append((epoch, is_best))

    def on_warning(self, message):
        self.warnings.append(message)

    def save(self, checkpoint, is_best):
        tensors = {
            group: {name: tensor.detach().clone() for name, tensor in named.items()}
            for group, named in checkpoint.tensors.items()
        }
        self.saves.append((Checkpoint(checkpoint.step, tensors, checkpoint.state), is_best))

    def is_save_due(self):
        return self.save_every is not None and len(self.steps) % self.save_every == 0

    def at_once(self):
        return contextlib.nullcontext()

    def interrupted(self):
        return self.stop_at is not None and len(self.steps) >= self.stop_at


def settings(guard="warn", starts_random=False, monitor="score", every=1, **train):
    """An experiment that asks the loop for this."""
    return Experiment(
        name="line",
        task="line",
        seed=7,
        model="none",
        data=Section(),
        adapter=AdapterSettings(method="prefix" if starts_random else "lora"),
        train=TrainConfig(**{"epochs": 4, "batch_size": 4, "log_every": 1} | train),
        guard=GuardConfig(action=guard),
        eval=EvalConfig(monitor=monitor, every=every),
    )


def trainer(task, observer, scaler=False, fused=False, row_names=lambda rows: [], **asked):
    optimizer = adamw(parameter_groups(task.trained().items(), task.modules(), 0.0), fused=fused)
    return Trainer(
        task,
        optimizer,
        constant(peak=0.05, steps=1, warmup=0.0),
        settings(**asked),
        observer,
        scaler=torch.amp.GradScaler("cpu", enabled=scaler),
        row_names=row_names,
    )


def test_every_row_comes_once_an_epoch_in_batches_of_even_size():
    for epoch in range(3):
        parts = batches(10, 4, seed=1, epoch=epoch)
        assert sorted(np.concatenate(parts)) == list(range(10))
        assert sorted(map(len, parts)) == [3, 3, 4]
    assert steps_per_epoch(10, 4) == 3


def test_no_batch_has_a_single_row():
    """A contrastive loss has nothing to tell a lone row from."""
    for rows in range(2, 40):
        for size in (2, 3, 5):
            assert min(map(len, batches(rows, size, seed=0, epoch=0))) >= 2


def test_the_order_is_a_function_of_seed_and_epoch():
    one, same = (np.concatenate(batches(50, 8, 1, 2)) for _ in range(2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, np.concatenate(batches(50, 8, 1, 3)))
    assert not np.array_equal(one, np.concatenate(batches(50, 8, 2, 2)))


def test_training_learns_and_reports():
    task, seen = Line(), Recorder()
    position = trainer(task, seen, epochs=60).fit()
    losses = [values["loss"] for _, values in seen.steps]
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) / 5
    assert position.step == 180 and len(seen.steps) == 180
    assert {"loss", "loss/square", "lr", "grad_norm", "pairs_per_second"} <= seen.steps[0][1].keys()
    assert seen.evaluations[0] == (0, True), "the base is evaluated before the first step"
    assert len(seen.evaluations) == 61 and len(seen.saves) == 61


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_a_resumed_training_ends_bit_for_bit_where_an_uninterrupted_one_does(stop_at):
    straight = Line()
    trainer(straight, Recorder()).fit()

    first, seen = Line(), Recorder(stop_at)
    with pytest.raises(InterruptedTraining):
        trainer(first, seen).fit()
    again, rest = Line(), Recorder()
    resumed = trainer(again, rest)
    resumed.restore(seen.saves[-1][0])
    resumed.fit()
    assert len(rest.steps) == 12 - stop_at
    assert torch.equal(again.model.weight, straight.model.weight)
    assert torch.equal(again.model.bias, straight.model.bias)


def test_a_process_that_is_killed_goes_on_from_within_an_epoch_where_a_save_was_due():
    whole, seen = Line(), Recorder(save_every=2)
    trainer(whole, seen, epochs=2).fit()
    within = [saved for saved, _ in seen.saves if saved.step % 3]
    assert [saved.step for saved in within] == [2, 4], "of epochs of 3 steps"
    for saved in within:
        task = Line()
        loop = trainer(task, Recorder(), epochs=2)
        loop.restore(saved)
        loop.fit()
        assert all(torch.equal(a, b) for a, b in zip(whole.trained().values(), task.trained().values(), strict=True))


def test_an_epoch_whose_end_was_cut_off_is_evaluated_on_resume():
    """Interrupted right after the last step of an epoch, before it was evaluated: nothing may be skipped."""
    straight = Recorder()
    trainer(Line(), straight).fit()
    first = Recorder(stop_at=12)  # the last step of the last epoch
    with pytest.raises(InterruptedTraining):
        trainer(Line(), first).fit()
    rest, task = Recorder(), Line()
    resumed = trainer(task, rest)
    resumed.restore(first.saves[-1][0])
    resumed.fit()
    assert [epoch for epoch, _ in first.evaluations + rest.evaluations] == [0, 1, 2, 3, 4]
    assert rest.evaluations == straight.evaluations[-1:]


def test_the_model_is_in_training_mode_while_it_learns_and_dropout_works():
    modes = []

    class Watched(Line):
        def loss(self, rows, epoch):
            modes.append(self.model.training)
            return super().loss(rows, epoch)

    task = Watched()
    task.model.eval()  # as transformers hands models out
    trainer(task, Recorder(), epochs=1).fit()
    assert modes == [True, True, True]


def test_a_group_may_have_a_learning_rate_of_its_own():
    task = Line()
    loop = trainer(task, Recorder())
    loop.optimizer.param_groups[0]["lr_ratio"] = 4.0
    loop.train_step(np.arange(4), 0)
    assert loop.optimizer.param_groups[0]["lr"] == pytest.approx(0.2)


def test_a_snapshot_of_other_parameters_is_refused():
    seen = Recorder()
    trainer(Line(), seen, epochs=0).fit()
    saved = seen.saves[0][0]
    stranger = Checkpoint(0, {**saved.tensors, "model": {"weight": torch.zeros(2, 2)}}, saved.state)
    with pytest.raises(DataError, match="other parameters"):
        trainer(Line(), Recorder()).restore(stranger)


@pytest.mark.parametrize(
    ("part", "forged"),
    [
        ("position", {"step": 1, "owner": "me"}),
        ("position", {"step": "1"}),
        ("position", {"step": -3}),
        ("position", {"step": 7}),
        ("position", None),
        ("optimizer", {"groups": []}),
        ("scaler", [1, 2]),
    ],
)
def test_a_forged_snapshot_is_refused_before_anything_is_restored(part, forged):
    seen = Recorder(stop_at=1)
    with pytest.raises(InterruptedTraining):
        trainer(Line(), seen, epochs=1).fit()
    saved, task = seen.saves[-1][0], Line()
    before = {name: value.detach().clone() for name, value in task.trained().items()}
    forgery = Checkpoint(saved.step, saved.tensors, {**saved.state, part: forged}, Path("step-00000001"))
    with pytest.raises(DataError) as error:
        trainer(task, Recorder()).restore(forgery)
    assert error.value.remedy
    if part == "position":
        assert str(error.value).startswith("step-00000001")
        assert all(torch.equal(value, before[name]) for name, value in task.trained().items())


def test_the_best_epoch_is_marked_and_patience_ends_training():
    seen = Recorder()
    position = trainer(Line(scores=[0.1, 0.5, 0.4, 0.5, 0.9]), seen, epochs=9, early_stopping=2).fit()
    assert seen.evaluations == [(0, True), (1, True), (2, False), (3, True)]
    assert (position.best, position.best_epoch) == (0.5, 3), "of equals the later one"
    assert position.step == 9, "and it does not renew the patience"
    assert [is_best for _, is_best in seen.saves] == [True, True, False, True]


class Graded(Line):
    """A task whose score and held-out loss are told, epoch by epoch."""

    def __init__(self, *evaluated):
        super().__init__()
        self.evaluated = list(evaluated)

    def evaluate(self):
        score, loss = self.evaluated.pop(0)
        return Evaluation({"score": score}, loss=loss)


@pytest.mark.parametrize(
    ("evaluated", "best"),
    [
        ([(0.5, 3.0), (0.5, 2.0), (0.5, 1.0), (0.5, 1.5)], 2),  # the lowest loss
        ([(0.5, 1.0), (0.5, 2.0), (0.5, 3.0), (0.4, 0.1)], 0),  # training made it worse, if anything
        ([(0.5, 1.0), (0.5, 1.0), (0.5, 1.0), (0.5, 2.0)], 2),  # equal in both: the later one
        ([(1.0, None), (1.0, None), (1.0, None), (1.0, None)], 3),
        ([(0.2, 1.0), (0.6, 2.0), (0.5, 0.1), (0.1, 0.1)], 1),  # the metric comes before the loss
    ],
)
def test_ties_go_to_the_lower_loss_or_else_the_later_epoch(evaluated, best):
    seen = Recorder()
    assert trainer(Graded(*evaluated), seen, epochs=3).fit().best_epoch == best
    assert [epoch for epoch, is_best in seen.evaluations if is_best][-1] == best


def test_a_random_start_is_never_the_best_unless_nothing_was_trained():
    seen = Recorder()
    position = trainer(Line(scores=[0.9, 0.1, 0.3, 0.2]), seen, epochs=3, starts_random=True).fit()
    assert (position.best, position.best_epoch) == (0.3, 2)
    assert [is_best for _, is_best in seen.saves] == [False, True, True, False]
    assert position.base == {"score": 0.9}
    untouched = trainer(Line(scores=[0.9]), Recorder(), epochs=0, starts_random=True).fit()
    assert (untouched.best, untouched.best_epoch) == (0.9, 0)


def test_evaluations_of_this_process_are_found_by_their_step():
    loop = trainer(Line(scores=[0.1, 0.9, 0.5]), Recorder(), epochs=2)
    loop.fit()
    assert loop.evaluation_at(3).metrics == {"score": 0.9}, "the best"
    assert loop.evaluation_at(6).metrics == {"score": 0.5}, "the last"
    assert loop.evaluation_at(0) is None and loop.evaluation_at(4) is None


def test_a_nan_is_caught_before_it_reaches_a_parameter():
    task, seen = Line(poison_at=5), Recorder()
    with pytest.raises(DivergedError, match=r"loss is not finite at step 5 .*square"):
        trainer(task, seen).fit()
    assert all(torch.isfinite(p).all() for p in task.trained().values())
    assert len(seen.steps) == 5


def test_the_rows_of_an_update_that_is_not_finite_are_named():
    loop = trainer(Line(poison_at=2), Recorder(), row_names=lambda rows: [f"row {i}" for i in rows], batch_size=10)
    with pytest.raises(DivergedError, match=r"its rows: (row \d, ){4}row \d and 5 more$"):
        loop.fit()


@pytest.mark.parametrize(("scale", "at"), [(2.0**16, 16), (2.0**30, 20)])
def test_updates_that_the_scaler_skips_again_and_again_end_training(scale, at):
    """From 65,536 the scale is down at 1; from far above, it is not even then."""

    class Overflows(Line):
        def loss(self, rows, epoch):
            step = super().loss(rows, epoch)
            steep = (0 * self.model.weight).sqrt().sum() if self.calls > 5 else 0
            return StepLoss(step.total + steep, step.parts)

    task = Overflows()
    loop = trainer(task, Recorder(), scaler=True, epochs=99)
    loop.scaler.load_state_dict({**loop.scaler.state_dict(), "scale": scale})
    with pytest.raises(
        DivergedError, match=rf"gradient is not finite at step {5 + at} .* the {at} updates before it"
    ) as ended:
        loop.fit()
    assert "bf16 or fp32" in ended.value.remedy
    assert all(torch.isfinite(p).all() for p in task.trained().values())


def test_an_overflow_under_the_scaler_is_skipped_and_lowers_the_scale():
    class Overflows(Line):
        def loss(self, rows, epoch):
            step = super().loss(rows, epoch)
            # a gradient of 1e35 stays finite until it is scaled by 65,536
            factor = 1e35 if self.calls == 1 else 1.0
            return StepLoss(step.total * factor, step.parts)

    task = Overflows()
    loop = trainer(task, Recorder(), scaler=True, epochs=1)
    before = loop.scaler.get_scale()
    loop.fit()
    assert loop.scaler.get_scale() == before / 2
    assert all(torch.isfinite(p).all() for p in task.trained().values())
    assert task.model.weight.item() != 0.0, "later steps are taken"


class Reads(TorchDispatchMode):
    """Counts how often the host waits for a number of the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")
        self.count += func._schema.name.removeprefix("aten::") in waits
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("scaler", [False, True])
def test_an_optimizer_that_skips_updates_on_the_device_is_not_waited_for_between_told_steps(scaler):
    loop = trainer(Line(), seen := Recorder(), fused=True, scaler=scaler, log_every=5)
    with Reads() as reads:
        told = [bool(loop.train_step(np.arange(4), 0, read=read)) for read in (True, False, False, True)]
    assert told == [True, False, False, True] and reads.count == 0, "all numbers are read at once, by tolist"
    loop = trainer(Line(), seen, fused=True, log_every=5, clip_grad_norm=3.0)
    loop.fit()
    assert [step for step, values in seen.steps if values] == [1, 3, 6, 9, 11, 12], "and at the end of epochs of 3"
    every = Recorder()
    trainer(Line(), every, fused=True, log_every=1, clip_grad_norm=3.0).fit()
    for (_, values), (_, expected) in zip(seen.steps, every.steps, strict=True):
        assert all(expected[name] == value for name, value in values.items() if name != "pairs_per_second")


@pytest.mark.parametrize("scaler", [False, True])
@pytest.mark.parametrize("cut_after", [None, 4])
def test_a_nan_that_nobody_read_yet_stops_every_update_and_is_told_with_its_own_step(cut_after, scaler):
    sound = Line()
    with pytest.raises(InterruptedTraining):
        trainer(sound, Recorder(stop_at=2), fused=True, scaler=scaler, batch_size=2).fit()
    task, seen = Line(poison_at=2), Recorder(stop_at=cut_after)
    with pytest.raises(DivergedError, match=r"loss is not finite at step 2 \(square nan\)") as error:
        trainer(task, seen, fused=True, scaler=scaler, batch_size=2, log_every=100).fit()
    assert "checkpoint is intact" in error.value.remedy
    assert all(torch.equal(value, sound.trained()[name]) for name, value in task.trained().items())
    assert [saved.step for saved, _ in seen.saves] == [0], "nothing was saved since"


def test_a_fused_optimizer_learns_what_the_plain_one_does():
    one, other = Line(), Line()
    trainer(one, Recorder(), fused=True, log_every=7).fit()
    trainer(other, Recorder()).fit()
    for mine, theirs in zip(one.trained().values(), other.trained().values(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.cuda
def test_cuda_itself_sees_no_wait_between_told_steps():
    class OnCuda(Line):
        def __init__(self):
            super().__init__()
            self.model.cuda()

        def loss(self, rows, epoch):
            x = send(torch.from_numpy(rows).float()[:, None] / ROWS, torch.device("cuda"))
            views = {"I": self.model(x), "T": 2 * x + 1}
            return StepLoss(info_nce(views, logit_scale=1.0).total, {})

    loop = trainer(OnCuda(), Recorder(), fused=True)
    loop.train_step(np.arange(4), 0)
    try:
        torch.cuda.set_sync_debug_mode("error")
        loop.train_step(np.arange(4), 0, read=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_gradients_are_clipped_to_the_norm_asked_for():
    task = Line()
    loop = trainer(task, Recorder(), clip_grad_norm=1e-3)
    taken = []
    step = loop.optimizer.step
    loop.optimizer.step = lambda *args, **kwargs: (
        taken.append(torch.cat([p.grad.flatten() for p in task.trained().values()]).norm().item()),
        step(*args, **kwargs),
    )
    values = loop.train_step(np.arange(4), 0)
    assert values["grad_norm"] > 1e-3
    assert taken == pytest.approx([1e-3], rel=1e-3)


def test_the_share_of_clipped_steps_is_counted_from_the_first_step_and_over_an_interruption():
    whole = Recorder()
    trainer(Line(), whole, clip_grad_norm=3.0).fit()
    norms = [values["grad_norm"] for _, values in whole.steps]
    shares = [values["clipped_share"] for _, values in whole.steps]
    clipped = [norm > 3.0 for norm in norms]
    assert 0 < sum(clipped) < len(clipped), "some are and some are not"
    assert shares == pytest.approx(np.cumsum(clipped) / np.arange(1, len(clipped) + 1))
    task, cut = Line(), Recorder(stop_at=5)
    with pytest.raises(InterruptedTraining):
        trainer(task, cut, clip_grad_norm=3.0).fit()
    again = trainer(Line(), rest := Recorder(), clip_grad_norm=3.0)
    again.restore(cut.saves[-1][0])
    again.fit()
    assert [values["clipped_share"] for _, values in cut.steps + rest.steps] == shares
    assert "clipped_share" not in trainer(Line(), Recorder(), clip_grad_norm=None).train_step(np.arange(4), 0)


def test_what_a_task_watches_and_what_chance_would_reach_are_told_at_every_step():
    class Watched(Line):
        def loss(self, rows, epoch):
            found = super().loss(rows, epoch)
            return StepLoss(found.total, found.parts, None, 0.25, {"logit_scale": torch.tensor(20.0)})

    values = trainer(Watched(), Recorder()).train_step(np.arange(4), 0)
    assert (values["chance"], values["logit_scale"]) == (0.25, 20.0)
    assert "chance" not in trainer(Line(), Recorder()).train_step(np.arange(4), 0)


class Collapses(Line):
    """Embeddings that spread over 8 directions at first and over one from the fourth step on."""

    def embeddings(self, rows):
        return torch.eye(8) if self.calls < 4 else torch.ones(8, 8) / 8**0.5


def test_the_guard_warns_once_when_the_space_collapses():
    seen = Recorder()
    position = trainer(Collapses(), seen).fit()
    assert len(seen.warnings) == 1
    assert "effective rank 1.0 at step 3, 8.0 before the first" in seen.warnings[0]
    assert position.collapsed_at == 3


class Vanishes(Line):
    """Embeddings that are all zero from the start, as of a tower that passes nothing on."""

    def embeddings(self, rows):
        return torch.zeros(len(rows), 8)


def test_embeddings_that_are_all_zero_are_a_collapse_and_no_fault_of_the_program():
    seen = Recorder()
    trainer(Vanishes(), seen).fit()
    assert len(seen.warnings) == 1
    assert "effective rank 0.0 at step 0" in seen.warnings[0]
    with pytest.raises(DivergedError, match="collapsing"):
        trainer(Vanishes(), Recorder(), guard="stop").fit()


def test_the_guard_can_stop_or_be_off():
    with pytest.raises(DivergedError, match="collapsing"):
        trainer(Collapses(), Recorder(), guard="stop").fit()
    seen = Recorder()
    trainer(Collapses(), seen, guard="off").fit()
    assert seen.warnings == []


class Signalling(Line):
    """A signal comes in the middle of one of its evaluations."""

    def __init__(self, at):
        super().__init__()
        self.left = at

    def evaluate(self):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGUSR1)
        return super().evaluate()


@pytest.mark.parametrize("at", [1, 3])
def test_a_signal_does_not_wait_for_an_evaluation_which_is_done_again(at):
    whole, uncut = Line(), Recorder()
    trainer(whole, uncut).fit()

    seen = Recorder()
    cut = trainer(Signalling(at), seen)
    with Interruption() as interruption:
        seen.at_once = interruption.at_once
        with pytest.raises(InterruptedTraining), interruption.deferred():
            cut.fit()
    assert len(seen.evaluations) == at - 1, "it did not come to its end"
    task, rest = Line(), Recorder()
    loop = trainer(task, rest)
    loop.restore(seen.saves[-1][0])
    loop.fit()
    assert all(torch.equal(a, b) for a, b in zip(whole.trained().values(), task.trained().values(), strict=True))
    assert seen.evaluations + rest.evaluations == uncut.evaluations
