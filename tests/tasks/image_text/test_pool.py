"""``views.pool``: fixed views, for which frozen blocks are computed once; the numbers are those without the store."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from tests.models.models import save_chinese_clip, save_siglip
from vectoruniverse.data.views import augment, draw, pooled
from vectoruniverse.errors import ConfigError
from vectoruniverse.experiment import train
from vectoruniverse.planning import dry_run
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.finished import evaluate_run
from vectoruniverse.tasks.image_text import setup
from vectoruniverse.tasks.image_text.setup import prepare, share
from vectoruniverse.terminal import Display

UPPER = {"method": "lora", "rank": 2, "vision_layers_to_transform": [1], "text_layers_to_transform": [1]}
INFO_NCE = {"name": "info_nce", "temperature": 0.1}


def quiet():
    return Display(quiet=True)


@pytest.fixture
def begun(config, tmp_path):
    """A prepared experiment whose cache is its own."""

    def begin(views, *overrides, adapter=UPPER, cache="cache", **sections):
        file = config(views=views, adapter=adapter, **sections)
        experiment = load_experiment(file, [f"data.cache_dir={tmp_path / cache}", *overrides])
        return prepare(experiment, share(experiment, quiet()))

    return begin


def passes(encoder, side):
    """How many rows have passed the first block of a tower; noted while the list lives."""
    rows = []
    tower = encoder.model.get_submodule(side)
    stack = next(module for module in tower.modules() if isinstance(module, torch.nn.ModuleList))
    stack[0].self_attn.register_forward_hook(lambda *given: rows.append(len(given[-1][0])))
    return rows


def stepped(prepared, steps=6):
    """What the loss is given in each step, and the loss; trained on in between."""
    task, seen = prepared.task, []
    given = task._loss
    task._loss = lambda views, relations: (
        seen.append({k: v.detach() for k, v in views.items()}) or given(views, relations)
    )
    optimizer = torch.optim.SGD(task.trained().values(), lr=0.05)
    prepared.model.train()
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        loss = task.loss(np.array([step, 7, 3]), epoch=step // 2).total
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return seen, torch.stack(losses)


def without_store(monkeypatch):
    monkeypatch.setattr(setup, "frozen_blocks", lambda *_: None)


@pytest.mark.parametrize(
    ("views", "adapter", "loss"),
    [
        ({"pool": 3}, UPPER, {"name": "alignment_anisotropy"}),
        ({"pool": 3, "count": 1}, UPPER | {"dropout": 0.3}, INFO_NCE),
        ({"pool": 3}, UPPER | {"dropout": 0.3}, {"name": "alignment_anisotropy"}),
        ({"pool": 2, "patch_dropout": 0.5}, UPPER | {"train_projections": True}, INFO_NCE),
        ({"pool": 4}, {"rank": 2, "text_targets": [], "vision_layers_to_transform": [1]}, INFO_NCE),
        ({"pool": 4}, {"rank": 2, "text_layers_to_transform": [1]}, INFO_NCE),
    ],
)
def test_the_numbers_are_those_of_the_same_pool_without_the_store(views, adapter, loss, begun, monkeypatch):
    with_store = begun(views, adapter=adapter, loss=loss)
    assert with_store.frozen is not None
    seen, losses = stepped(with_store)
    again = stepped(begun(views, adapter=adapter, loss=loss))
    assert torch.equal(again[1], losses), "to the bit, whether states were there before or not"
    without_store(monkeypatch)
    plain = begun(views, adapter=adapter, loss=loss)
    expected, expected_losses = stepped(plain)
    assert plain.frozen is None
    torch.testing.assert_close(seen, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=1e-6)


def test_siglip_whose_texts_are_padded_to_the_end(begun, monkeypatch, tmp_path):
    sections = {"model": str(save_siglip(tmp_path / "siglip")), "loss": INFO_NCE}
    seen, losses = stepped(begun({"pool": 3}, **sections))
    without_store(monkeypatch)
    expected, expected_losses = stepped(begun({"pool": 3}, **sections))
    torch.testing.assert_close(seen, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=1e-6)


def test_the_views_of_a_step_are_those_of_the_pool(begun):
    task = begun({"pool": 5}, loss=INFO_NCE).task
    given = {}
    task._loss, whole = lambda views, relations: given.update(views) or whole(views, relations), task._loss
    rows = np.array([4, 0, 7])
    task.loss(rows, epoch=2)
    keys = [task.train.keys[row] for row in rows]
    chosen = pooled(0, 2, keys, 2, 5)
    assert chosen.shape == (2, 3) and (chosen[0] != chosen[1]).all() and chosen.max() < 5
    pictures, views = torch.from_numpy(task.train.pictures.take(rows)), task._pictures
    for name, own in zip(("I", "I+"), chosen, strict=True):
        for at in range(3):
            draws = draw(0, 0, [keys[at]], int(own[at]))
            pixels = augment(pictures[at : at + 1], draws, views._augmentation, 32, views.mean, views.std)
            torch.testing.assert_close(given[name][at], task.encoder.encode_images(pixels)[0], rtol=1e-4, atol=1e-5)


def test_which_view_is_shown_depends_on_seed_epoch_and_row_alone_and_all_are():
    keys = [2**63 + 5, 7, 11]
    one = pooled(0, 3, keys, 2, 6)
    assert np.array_equal(one[:, ::-1], pooled(0, 3, keys[::-1], 2, 6)) and np.array_equal(
        one, pooled(0, 3, keys, 2, 6)
    )
    assert any(not np.array_equal(one, other) for other in (pooled(1, 3, keys, 2, 6), pooled(0, 4, keys, 2, 6)))
    shown = np.concatenate([pooled(0, epoch, range(60), 2, 6) for epoch in range(50)], axis=1)
    counts = np.bincount(shown.ravel(), minlength=6)
    assert (abs(counts - 1000) < 4 * (1000 * 5 / 6) ** 0.5).all() and (shown[0] != shown[1]).all()


def test_a_frozen_block_is_computed_once_for_each_view_and_by_no_other_cell_of_a_sweep(begun):
    prepared = begun({"pool": 2}, loss=INFO_NCE)
    seen, read = passes(prepared.encoder, "vision_model"), passes(prepared.encoder, "text_model")
    rows, texts = np.arange(prepared.task.train_rows), len(set(prepared.frozen.text_digests))
    for epoch in range(3):
        prepared.task.loss(rows, epoch)
    assert sum(seen) == 2 * len(rows) and sum(read) == texts
    for override in ("seed=5", "train.lr=1.0", "adapter.rank=1", "loss.temperature=0.3", "views.count=1"):
        other = begun({"pool": 2}, override, loss=INFO_NCE)
        seen, read = passes(other.encoder, "vision_model"), passes(other.encoder, "text_model")
        known = [at for at, key in enumerate(other.task.train.keys) if key in prepared.task.train.keys]
        other.task.loss(np.array(known), epoch=0)
        assert not seen and not read, override


def test_other_weights_views_or_sizes_are_other_states(begun, tmp_path):
    def folders():
        return {one.name for one in (tmp_path / "cache").glob("states-*")}

    begun({"pool": 2}, loss=INFO_NCE)
    first = folders()
    assert len(first) == 2
    begun({"pool": 4}, loss=INFO_NCE)
    assert folders() == first, "a larger pool holds a smaller one"
    begun({"pool": 2, "flip": True}, loss=INFO_NCE)
    assert len(folders()) == 3
    begun({"pool": 2, "patch_dropout": 0.5}, loss=INFO_NCE)
    assert len(folders()) == 4
    begun({"pool": 2}, "data.cache_size=40", loss=INFO_NCE)
    assert len(folders()) == 5
    begun({"pool": 2}, loss=INFO_NCE, adapter=UPPER | {"vision_layers_to_transform": None})
    assert len(folders()) == 5, "block 0 of pictures is trained, and texts are as before"


def test_a_cut_run_resumes_to_the_same_bits_and_is_evaluated_as_ever(config, cut_and_resumed, tmp_path):
    sections = {"views": {"pool": 3}, "adapter": UPPER | {"dropout": 0.2}}
    experiment = load_experiment(config(**sections), [f"data.cache_dir={tmp_path / 'cache'}"])
    whole = train(experiment, runs_dir=tmp_path / "whole", display=quiet())
    resumed = cut_and_resumed(experiment)
    ours, theirs = (load_file(one.run.adapter / "adapter_model.safetensors") for one in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and resumed.adapted == whole.adapted
    _, comparison = evaluate_run(whole.run.name, runs_dir=tmp_path / "whole", split="val", display=quiet())
    assert comparison.adapted.metrics == whole.adapted


def test_a_dry_run_says_what_is_kept(config, tmp_path):
    console = Console(file=io.StringIO(), width=300)
    experiment = load_experiment(config(views={"pool": 3}, adapter=UPPER), [f"data.cache_dir={tmp_path / 'cache'}"])
    dry_run(experiment, Display(console))
    rows = prepare(experiment, share(experiment, quiet())).task.train_rows
    assert f"frozen blocks are computed once, 1 of {3 * rows} views of pictures and 1 of" in console.file.getvalue()


@pytest.mark.parametrize(
    ("views", "adapter", "says"),
    [
        ({"pool": 0}, UPPER, "pool"),
        ({"pool": 1}, UPPER, "pool: 1 gives no 2 views that differ"),
        ({"pool": 4, "text": {"word_dropout": 0.2}}, UPPER, "views.text draws them anew"),
        ({"pool": 4}, {"method": "full"}, "adapter.method full changes all of them"),
        ({"pool": 4}, {"method": "prefix", "prefix_length": 2}, "adapter.method prefix changes all of them"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_any_data_is_read(views, adapter, says, config):
    with pytest.raises(ConfigError, match=says):
        load_experiment(config(views=views, adapter=adapter, data={"root": "nowhere"}))


def test_a_model_of_which_every_block_is_adapted_is_refused(begun):
    with pytest.raises(ConfigError, match="block 0 is adapted in both towers") as caught:
        begun({"pool": 4}, adapter={"rank": 2})
    assert caught.value.key == "views.pool"


def test_frozen_blocks_that_draw_dropout_are_refused(begun, tmp_path):
    model = str(save_chinese_clip(tmp_path / "chinese"))
    text = {"text_targets": ["query"], "vision_targets": ["q_proj"]}
    with pytest.raises(ConfigError, match="the frozen blocks of text_model draw dropout"):
        begun({"pool": 4}, model=model, adapter=UPPER | text)
    file = Path(model) / "config.json"
    settings = json.loads(file.read_text())
    settings["text_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    file.write_text(json.dumps(settings))
    assert begun({"pool": 4}, model=model, adapter=UPPER | text).frozen.texts is not None
