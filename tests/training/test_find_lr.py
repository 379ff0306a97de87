from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.test_loop import Recorder, settings
from vectoruniverse.errors import DataError
from vectoruniverse.training.batches import batches
from vectoruniverse.training.find_lr import MOST_FURTHER, LrFinder, divide
from vectoruniverse.training.loop import Trainer
from vectoruniverse.training.optim import adamw, cosine, parameter_groups
from vectoruniverse.training.rate_rules import AT_REST, Probe, RampStep, beyond, broke, candidates, recommended
from vectoruniverse.training.strata import Strata
from vectoruniverse.training.task import StepLoss

ROWS, SIZE, SEED = 240, 10, 3


class Pairs:
    """Two views of rows that have 6 of 24 numbers in common; a linear map must learn to read these."""

    def __init__(self, can_learn=True, scale=8.0):
        torch.manual_seed(0)
        self.model, self.scale, self.can_learn = nn.Linear(24, 6, bias=False), scale, can_learn
        same = torch.randn(ROWS, 6)
        self.first, self.second = (torch.cat([same, torch.randn(ROWS, 18)], dim=1) for _ in range(2))
        self.train_rows = ROWS

    def trained(self):
        return dict(self.model.named_parameters())

    def modules(self):
        return list(self.model.modules())

    def loss(self, rows, epoch):
        one, other = (nn.functional.normalize(self.model(x[rows]), dim=1) for x in (self.first, self.second))
        if not self.can_learn:
            other = other.detach().roll(1, 0)[torch.randperm(len(rows))]
        logits = self.scale * one @ other.T
        total = nn.functional.cross_entropy(logits, torch.arange(len(rows)))
        return StepLoss(total, {}, torch.cat([one, other]).detach(), math.log(len(rows)))

    def after_step(self):
        pass


def builder(task, strata=None):
    def build(schedule):
        optimizer = adamw(parameter_groups(task.trained().items(), task.modules(), 0.01), fused=False)
        asked = settings(guard="off", batch_size=SIZE).model_copy(update={"seed": SEED})
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        return Trainer(task, optimizer, schedule, asked, Recorder(), scaler=scaler, strata=strata)

    return build


def search(task, asked=1e-3, steps=12, said=None, strata=None):
    said = [] if said is None else said
    finder = LrFinder(task, builder(task, strata), SIZE, SEED, 0.5, lambda *told: said.append(told))
    return finder.find(asked, steps)


def by_hand(task, lr, steps, kinds=None):
    """A probe as it would be written down without any of the machinery: mean loss of the held batches after it."""
    held, rest = divide(ROWS, SIZE, SEED)
    group = {"params": list(task.model.parameters()), "weight_decay": 0.01}
    optimizer = torch.optim.AdamW([group], betas=(0.9, 0.98), eps=1e-6)
    done = 0
    for epoch in range(100):
        for rows in batches(len(rest), SIZE, SEED, epoch, None if kinds is None else Strata(kinds[rest], run=2)):
            if done == steps:
                with torch.no_grad():
                    return float(np.mean([float(task.loss(part, 0).total) for part in held]))
            optimizer.param_groups[0]["lr"] = cosine(peak=lr, steps=steps, warmup=0.1, final=0.0)(done)
            optimizer.zero_grad()
            task.loss(rest[rows], epoch).total.backward()
            nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
            optimizer.step()
            done += 1
    return None


def test_a_probe_is_a_plain_training_from_the_start_and_is_compared_on_rows_that_it_did_not_learn_from():
    found = search(Pairs())
    assert len(found.probes) >= 5
    for probe in found.probes:
        assert probe.loss == pytest.approx(by_hand(Pairs(), probe.lr, found.steps), rel=1e-5)


def test_probes_draw_their_batches_as_the_training_does():
    kinds = np.arange(ROWS) // 5
    shuffled, dealt = search(Pairs(), steps=6), search(Pairs(), steps=6, strata=Strata(kinds, run=2))
    assert [probe.loss for probe in dealt.probes] != [probe.loss for probe in shuffled.probes]
    for probe in dealt.probes:
        assert probe.loss == pytest.approx(by_hand(Pairs(), probe.lr, 6, kinds), rel=1e-5)


def test_the_rate_that_is_recommended_learns_as_well_as_any_of_a_fine_grid():
    found = search(Pairs(), asked=1e-6, steps=25)
    assert {probe.lr: probe.told for probe in found.probes}[1e-6] != "learns"
    best = min(by_hand(Pairs(), lr, 25) for lr in np.geomspace(1e-4, 1.0, 17))
    reached = by_hand(Pairs(), found.recommended, 25)
    assert found.start - reached > 0.8 * (found.start - best)


def test_parameters_are_afterwards_what_they_were():
    task = Pairs()
    before = {name: parameter.clone() for name, parameter in task.trained().items()}
    said = []
    found = search(task, said=said)
    assert all(torch.equal(before[name], parameter) for name, parameter in task.trained().items())
    assert all(parameter.grad is None for parameter in task.trained().values())
    assert [done for done, _, _ in said] == list(range(1, found.updates + 1))
    assert all(done <= total for done, total, _ in said)


def test_where_nothing_can_be_learned_no_rate_is_recommended():
    found = search(Pairs(can_learn=False))
    assert found.recommended is None
    assert not [probe for probe in found.probes if probe.told == "learns"]


def test_a_loss_that_falls_from_far_above_chance_to_chance_has_not_learned():
    """A logit scale that is too great: whoever gives everything the same direction loses the most loss."""
    found = search(Pairs(scale=100.0), steps=6)
    assert found.start > found.chance
    assert all(probe.told != "learns" or probe.loss < found.chance for probe in found.probes)
    assert "above chance" in {probe.told for probe in found.probes}


def test_a_step_that_is_not_finite_ends_its_probe_and_spoils_no_other():
    class Bursts(Pairs):
        def loss(self, rows, epoch):
            found = super().loss(rows, epoch)
            far = float((self.model.weight.detach() - self.begun).abs().max()) > 1.0
            return StepLoss(found.total * (float("nan") if far else 1.0), {}, found.embeddings, found.chance)

    task = Bursts()
    task.begun = task.model.weight.detach().clone()
    found = search(task, asked=0.5, steps=25)
    probes = {probe.lr: probe for probe in found.probes}
    assert probes[0.5].told == "diverges"
    assert found.recommended is not None
    assert probes[found.recommended].loss == pytest.approx(by_hand(Pairs(), found.recommended, 25), rel=1e-5)


def test_held_rows_and_learned_rows_are_all_rows_once():
    for rows, size in ((16, 64), (240, 10), (1000, 64)):
        held, rest = divide(rows, size, seed=1)
        assert sorted([*np.concatenate(held), *rest]) == list(range(rows))
        assert len(held) >= 2 and all(2 <= len(part) <= size for part in held)
        assert sum(map(len, held)) <= rows / 4
    assert list(map(len, divide(10_000, 64, seed=1)[0])) == [64] * 4
    assert len(np.concatenate(divide(10_000, 4, seed=1)[0])) == 256
    with pytest.raises(DataError, match="15 training rows are too few"):
        divide(15, 4, seed=1)


def ramp(losses, chance=None, ranks=None):
    """Steps of these losses and effective ranks at rates that grow tenfold."""
    found, average = [], 0.0
    for step, loss in enumerate(losses):
        average = 0.7 * average + 0.3 * loss
        found.append(
            RampStep(10.0 ** (step - 9), loss, average / (1 - 0.7 ** (step + 1)), chance, ranks and ranks[step])
        )
    return found


def test_a_ramp_breaks_where_it_loses_what_it_gained_and_not_by_noise():
    start, rest = np.array([4.0, 4.05]), [4.0, 4.05, 3.95, 4.0, 4.02]
    assert len(rest) == AT_REST
    assert broke(ramp([*rest, 4.06, 3.97, 4.05, 3.9]), start, 0.5) is None
    assert broke(ramp([*rest, 3.5, 3.0, 2.5, 2.4]), start, 0.5) is None
    broken = ramp([*rest, 3.5, 3.0, 2.5, 2.4, 5.0, 9.0])
    assert broke(broken, start, 0.5) == min(broken, key=lambda step: step.smoothed).lr


def test_a_ramp_breaks_where_it_comes_down_to_chance_and_stays_there():
    start, rest = np.array([8.0, 8.1]), [8.0, 8.1, 7.9, 8.0, 8.0]
    fallen = ramp([*rest, 6.0, *[4.16] * 12], chance=math.log(64))
    assert broke(fallen, start, 0.5) == fallen[AT_REST].lr, "the last rate that was elsewhere"
    through = ramp([*rest, 6.0, 4.2, 3.0, 2.0, 2.0, 2.0], chance=math.log(64))
    assert broke(through, start, 0.5) is None


def test_a_ramp_breaks_where_its_space_begins_to_collapse():
    collapsing = ramp([4.0] * 11, ranks=[8.0, 8.1, 7.9, 8.0, 8.0, 7.8, 6.5, 4.5, 3.0, 2.0, 2.0])
    assert broke(collapsing[:-1], np.array([4.0, 4.0]), 0.5) is None, "two batches may be an accident"
    assert broke(collapsing, np.array([4.0, 4.0]), 0.5) == collapsing[6].lr


def test_rates_to_probe_lie_below_the_one_that_broke_and_hold_the_one_asked_for():
    assert candidates(2e-3, 0.05) == [3e-4, 1e-3, 2e-3, 3e-3, 1e-2]
    assert candidates(1e-3, 0.05) == [3e-4, 1e-3, 3e-3, 1e-2]
    assert candidates(0.5, 1e-4) == [1e-6, 3e-6, 1e-5, 3e-5, 0.5]


def probe(lr, told, loss=None):
    return Probe(lr, told, loss, None if loss is None else 4.0 - loss, 0.01)


def test_the_search_goes_on_beyond_an_end_that_is_the_best_and_below_rates_that_all_break():
    learns = [probe(1e-3, "learns", 3.0), probe(3e-3, "learns", 2.0), probe(1e-2, "learns", 2.5)]
    assert beyond(learns) is None
    assert beyond(learns[:2]) == 1e-2
    assert beyond(learns[1:]) == 1e-3
    assert beyond([probe(1e-6, "unclear", 4.0), *learns[1:]]) == 1e-3, "the one asked for is too far to tell"
    assert beyond([probe(1e-3, "collapses", 4.0), probe(1e-2, "diverges")]) == 3e-4
    assert beyond([probe(1e-3, "unclear", 4.0), probe(1e-2, "diverges")]) is None
    assert MOST_FURTHER >= 1


def test_of_rates_that_are_equally_good_the_least_is_recommended():
    best = probe(3e-3, "learns", 2.0)
    assert recommended([probe(1e-3, "learns", 2.05), best]) == 1e-3
    assert recommended([probe(1e-3, "learns", 2.5), best]) == 3e-3
    assert recommended([probe(1e-3, "collapses", 1.0)]) is None
