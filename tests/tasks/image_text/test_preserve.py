"""``train.preserve``: training is held to the base's vectors, of training rows and of rows that the base knew."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vectoruniverse.data.views import to_input
from vectoruniverse.errors import ConfigError
from vectoruniverse.sweep.grid import Over, make_grid
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.image_text.prepared import build_task
from vectoruniverse.tasks.image_text.setup import prepare, share
from vectoruniverse.terminal import Display
from vectoruniverse.training.batches import batches

YELLOW = {"include": {"Category": ["yellow"]}}
STILL = {"count": 1, "crop_scale": [1.0, 1.0], "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
INFO_NCE = {"name": "info_nce", "temperature": 0.1}
TRAIN = {"epochs": 2, "batch_size": 8, "lr": 0.01, "precision": "fp32", "device": "cpu"}


def quiet():
    return Display(quiet=True)


def moved(prepared):
    """The parameters away from where they start, so that there is a distance from the base."""
    torch.manual_seed(1)
    for parameter in prepared.task.trained().values():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return list(prepared.task.trained().values())


def gradients(loss, parameters):
    return torch.cat([one.flatten() for one in torch.autograd.grad(loss, parameters)])


@pytest.mark.parametrize("distance", ["cosine", "squared"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_loss_adds_the_distance_from_the_base_row_by_row(method, distance, config):
    preserve = {"weight": 3.0, "distance": distance, "rows": 2}
    still = {"views": STILL | {"crop_ratio": [1.0, 1.0]}, "loss": INFO_NCE, "adapter": {"method": method}}
    experiment = load_experiment(config(train=TRAIN | {"preserve": preserve}, forgetting=YELLOW, **still))
    shared = share(experiment, quiet())
    encoder, known = shared.encoder, shared.known.pairs["train"]
    plain = build_task(experiment, encoder, shared.pairs)
    base, old_base = (
        plain.embed(shared.pairs["train"]),
        build_task(experiment, encoder, shared.known.pairs).embed(known),
    )
    prepared = prepare(experiment, shared)
    parameters, rows = moved(prepared), np.array([4, 0, 7])
    torch.manual_seed(5)
    drawn = torch.randperm(len(known))[:2].tolist()
    torch.manual_seed(5)
    found = prepared.task.loss(rows, 0)

    def apart(pairs, of_base, chosen):
        total = 0.0
        for row in chosen:
            image = encoder.encode_images(pixels(plain, pairs, row))[0]
            text = encoder.encode_texts(encoder.pad(pairs.tokens, [row]))[0]
            for ours, its in ((image, of_base.image[row]), (text, of_base.text[row])):
                total = total + ((1 - ours @ its) if distance == "cosine" else ((ours - its) ** 2).sum())
        return total / (2 * len(chosen))

    new, old = apart(shared.pairs["train"], base, rows), apart(known, old_base, drawn)
    slow = plain.loss(rows, 0).total + 3.0 * (new + old)
    assert float(new.detach()) > 0.001 and float(old.detach()) > 0.001
    assert float(found.total.detach()) == pytest.approx(float(slow.detach()), rel=1e-5)
    assert float(found.parts["preserve"]) == pytest.approx(float(new.detach()), rel=1e-4)
    assert float(found.parts["preserve_old"]) == pytest.approx(float(old.detach()), rel=1e-4)
    ours, its = gradients(found.total, parameters), gradients(slow, parameters)
    assert torch.allclose(ours, its, rtol=1e-3, atol=1e-5 * float(its.abs().max()))


def pixels(task, pairs, row):
    picture = torch.from_numpy(pairs.pictures.take(np.array([row])))
    return to_input(picture, task.encoder.picture.size, task._pictures.mean, task._pictures.std)


def test_a_model_that_is_still_the_base_is_at_no_distance_and_without_forgetting_no_old_row_is_asked_for(config):
    still = {"views": STILL | {"crop_ratio": [1.0, 1.0]}, "loss": INFO_NCE}
    experiment = load_experiment(config(train=TRAIN | {"preserve": {}}, **still))
    prepared = prepare(experiment, share(experiment, quiet()))
    found = prepared.task.loss(np.arange(6), 0)
    assert float(found.parts["preserve"]) == pytest.approx(0.0, abs=1e-6)
    assert "preserve_old" not in found.parts


def test_preserving_keeps_rows_that_were_not_distilled_nearer_to_the_base(config):
    nearness = []
    for preserve in (None, {"weight": 100.0}):
        experiment = load_experiment(config(train=TRAIN | {"preserve": preserve}, forgetting=YELLOW))
        shared = share(experiment, quiet())
        judged = load_experiment(config(train=TRAIN | {"preserve": {}}, forgetting=YELLOW))
        held_out = share(judged, quiet()).known.pairs["val"]
        task = build_task(experiment, shared.encoder, {"train": held_out, "val": held_out})
        base, prepared = task.embed(held_out), prepare(experiment, shared)
        optimizer = torch.optim.Adam(prepared.task.trained().values(), lr=0.02)
        for epoch in range(3):
            for rows in batches(prepared.task.train_rows, 8, 0, epoch):
                torch.manual_seed(epoch)
                prepared.task.loss(rows, epoch).total.backward()
                optimizer.step()
                optimizer.zero_grad()
        after = task.embed(held_out)
        nearness.append(float((base.image * after.image).sum(1).mean() + (base.text * after.text).sum(1).mean()) / 2)
    without, with_it = nearness
    assert with_it > without + 0.05


def test_known_rows_that_are_learned_from_are_not_evaluated(config):
    experiment = load_experiment(config(train=TRAIN | {"preserve": {}}, forgetting=YELLOW))
    known = share(experiment, quiet()).known.data
    learned, evaluated = ({known.rows[i].id for i in part} for part in known.split[:2])
    assert len(learned) == len(evaluated) == 4 and not learned & evaluated
    plain = share(load_experiment(config(forgetting=YELLOW)), quiet()).known.data
    assert len(plain.split.val) == 8 and not len(plain.split.train)


def test_cells_of_a_sweep_have_the_known_rows_that_they_learn_from(config):
    over = [Over("adapter.rank", (1, 2))]
    plain = make_grid(config(forgetting=YELLOW), [], over, [0])
    assert all(cell.experiment.forgetting is None for cell in plain.cells)
    grids = [
        make_grid(config(train=TRAIN | {"preserve": {}}, forgetting=YELLOW | {"rows": rows}), [], over, [0])
        for rows in (4, 8)
    ]
    assert all(cell.experiment.forgetting == grids[0].base.forgetting for cell in grids[0].cells)
    assert grids[0].fingerprint("data") != grids[1].fingerprint("data")


def test_random_weights_know_nothing_to_preserve(config):
    scratch = {"scratch": "clip"}
    with pytest.raises(ConfigError, match=r"train\.preserve: a model of random weights knows nothing"):
        load_experiment(config(model=scratch, adapter={"method": "full"}, train=TRAIN | {"preserve": {}}))
