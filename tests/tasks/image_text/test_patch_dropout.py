"""``views.patch_dropout``: which patches training reads, and that nothing else changes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from tests.models.models import save_siglip
from vectoruniverse.data.views import augment, draw, kept_patches
from vectoruniverse.errors import ConfigError
from vectoruniverse.experiment import train
from vectoruniverse.planning import dry_run
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.image_text.setup import prepare, share
from vectoruniverse.terminal import Display

STILL = {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


def quiet():
    return Display(quiet=True)


def loaded(config, views, *overrides, **sections):
    return load_experiment(config(views=views, **sections), list(overrides))


def begun(config, views, *overrides, **sections):
    experiment = loaded(config, views, *overrides, **sections)
    return prepare(experiment, share(experiment, quiet()))


def weights_of(outcome):
    return load_file(outcome.run.adapter / "adapter_model.safetensors")


def views_of_step(task, rows, epoch):
    """The views that a step gives to the loss."""
    seen, given = [], task._loss
    task._loss = lambda views, relations: seen.append(views) or given(views, relations)
    task.loss(rows, epoch)
    task._loss = given
    return seen[0]


def test_what_is_kept_depends_on_seed_epoch_row_and_view_alone_and_moves_no_other_draw():
    rows = [2**63 + 5, 7, 11]
    one = draw(0, 3, rows, 1, patches=20)
    assert np.array_equal(one[:, :8], draw(0, 3, rows, 1)), "crops and colours are those without patch dropout"
    kept = kept_patches(one, 6)
    assert np.array_equal(kept[::-1], kept_patches(draw(0, 3, rows[::-1], 1, patches=20), 6))
    others = [draw(1, 3, rows, 1, 20), draw(0, 4, rows, 1, 20), draw(0, 3, rows, 0, 20)]
    assert not any(np.array_equal(kept, kept_patches(other, 6)) for other in others)
    assert (np.diff(kept) > 0).all() and kept.min() >= 0 and kept.max() < 20


def test_every_patch_is_kept_equally_often():
    kept = np.concatenate([kept_patches(draw(0, epoch, range(50), 0, patches=9), 4) for epoch in range(40)])
    expected, counts = 2000 * 4 / 9, np.bincount(kept.ravel(), minlength=9)
    assert (abs(counts - expected) < 4 * (expected * 5 / 9) ** 0.5).all()


@pytest.mark.parametrize("count", [1, 2])
def test_a_step_reads_the_drawn_patches_of_each_view(config, count):
    loss = {"name": "info_nce", "temperature": 0.1}
    task = begun(config, {"count": count, "patch_dropout": 0.5}, loss=loss).task
    rows = np.array([4, 0, 7])
    given, encoder = views_of_step(task, rows, epoch=2), task.encoder
    assert encoder.patches == 16
    for name, view in list({"I": 0, "I+": 1}.items())[:count]:
        draws = draw(0, 2, [task.train.keys[i] for i in rows], view, patches=16)
        pictures = torch.from_numpy(task.train.pictures.take(rows))
        pixels = augment(pictures, draws, task._pictures._augmentation, 32, task._pictures.mean, task._pictures.std)
        alone = encoder.encode_images(pixels, torch.from_numpy(np.argsort(draws[:, 8:])[:, :8]))  # in any order
        torch.testing.assert_close(given[name], alone, rtol=1e-4, atol=1e-5)
    assert (given["I"] is given["I+"]) == (count == 1)


def test_left_out_patches_alone_make_two_views(config):
    for share_left_out, told in ((0.0, ["II+ draws nothing together: I+ is I"]), (0.5, [])):
        loss = {"name": "info_nce", "temperature": 0.1, "pairs": ["IT", "II+"]}
        prepared = begun(config, STILL | {"patch_dropout": share_left_out}, loss=loss)
        assert [one.partition(", since")[0] for one in prepared.remarks() if "draws nothing" in one] == told
        given = views_of_step(prepared.task, np.arange(4), epoch=0)
        assert torch.allclose(given["I"], given["I+"], atol=1e-4) == (share_left_out == 0)


def test_without_it_a_step_is_as_it_was_to_the_bit(config):
    with_zero, without = begun(config, {"patch_dropout": 0.0}).task, begun(config, {}).task
    rows = np.arange(6)
    given = views_of_step(with_zero, rows, epoch=1)
    keys = [without.train.keys[i] for i in rows]
    pictures, how = torch.from_numpy(without.train.pictures.take(rows)), without._pictures._augmentation
    pixels = [
        augment(pictures, draw(0, 1, keys, v), how, 32, without._pictures.mean, without._pictures.std) for v in (0, 1)
    ]
    by_hand = without.encoder.encode_images(torch.cat(pixels)).chunk(2)
    assert all(torch.equal(given[name], one) for name, one in zip(("I", "I+"), by_hand, strict=True))


def test_evaluation_mining_and_old_rows_read_every_patch(config):
    sections = {
        "forgetting": {"include": {"Category": ["yellow"]}, "exclude": {"Category": ["red", "green", "blue"]}},
        "train": {"preserve": {"rows": 3}, "hard_negatives": {}, "precision": "fp32", "device": "cpu"},
    }
    prepared = begun(config, {"patch_dropout": 0.75}, **sections)
    whole = begun(config, {}, **sections)
    assert prepared.task.evaluate().metrics == whole.task.evaluate().metrics
    torch.testing.assert_close(
        prepared.task._parts.preserved.base.image, whole.task._parts.preserved.base.image, rtol=0, atol=0
    )
    assert np.array_equal(prepared.miner(1).of_row, whole.miner(1).of_row)
    read, encode = [], prepared.encoder.encode_images
    prepared.encoder.encode_images = lambda pixels, kept=None: read.append((len(pixels), kept)) or encode(pixels, kept)
    prepared.task.loss(np.arange(5), epoch=0)
    (views, kept), (old, of_old) = read
    assert (views, kept.shape) == (10, (10, 4)) and (old, of_old) == (3, None)


@pytest.mark.parametrize("method", ["lora", "full", "prefix"])
def test_a_cut_run_resumes_to_the_same_bits(config, cut_and_resumed, tmp_path, method):
    adapter = {"method": method} | ({"prefix_length": 2} if method == "prefix" else {})
    adapter |= {"rank": 2} if method == "lora" else {}
    experiment = loaded(config, {"patch_dropout": 0.5}, adapter=adapter)
    whole = train(experiment, runs_dir=tmp_path / "whole", display=quiet())
    resumed = cut_and_resumed(experiment)
    (file,) = [one.name for one in whole.run.adapter.glob("*model.safetensors")]
    ours, theirs = (load_file(one.run.adapter / file) for one in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and resumed.adapted == whole.adapted


def test_a_siglip_learns_with_fewer_patches(config, tmp_path):
    siglip = str(save_siglip(tmp_path / "siglip"))
    outcomes = [
        train(loaded(config, {"patch_dropout": p}, model=siglip), runs_dir=tmp_path / str(p), display=quiet())
        for p in (0.0, 0.5)
    ]
    ours, theirs = map(weights_of, outcomes)
    assert any(not torch.equal(ours[name], theirs[name]) for name in theirs if "vision" in name)


def test_a_dry_run_says_how_many_patches_are_read(config):
    console = Console(file=io.StringIO(), width=200)
    dry_run(loaded(config, {"patch_dropout": 0.3}), Display(console))
    assert "training reads 11 of the 16 patches of a picture" in console.file.getvalue()


@pytest.mark.parametrize("share_left_out", [-0.1, 1.0, "half", ".nan"])
def test_shares_that_are_none_are_refused(config, share_left_out):
    with pytest.raises(ConfigError, match="patch_dropout"):
        loaded(config, {}, f"views.patch_dropout={share_left_out}")


def test_a_share_that_leaves_out_no_patch_is_refused(config):
    with pytest.raises(ConfigError, match=r"0\.01 of 16 patches is none") as caught:
        begun(config, {"patch_dropout": 0.01})
    assert caught.value.key == "views.patch_dropout"
