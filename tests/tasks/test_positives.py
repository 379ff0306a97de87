"""Rows that share a picture or a text, from the metadata file to the numbers, intervals and warnings."""

from __future__ import annotations

import csv
import dataclasses
import io
import shutil
import unicodedata

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console
from safetensors.numpy import load_file

from tests.conftest import draw_shape
from tests.models.models import save_clip
from vectoruniverse.data.splits import Split
from vectoruniverse.errors import ConfigError
from vectoruniverse.experiment import train
from vectoruniverse.metrics.intervals import mean_interval
from vectoruniverse.runs.outcomes import PER_QUERY_FILE
from vectoruniverse.sweep.forgetting import forgetting_curve
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.finished import evaluate_base
from vectoruniverse.tasks.image_text.prepared import build_task
from vectoruniverse.tasks.image_text.settings import ForgettingConfig
from vectoruniverse.tasks.image_text.setup import build_pairs, share
from vectoruniverse.terminal import Display
from vectoruniverse.tracking.jsonl import read_metrics
from vectoruniverse.training.batches import batches


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def experiment(clip, tmp_path):
    def load(root, **sections):
        base = {
            "name": "shared",
            "task": "image_text",
            "model": str(clip),
            "data": {"root": str(root), "split": {"val_fraction": 0.5, "test_fraction": 0}},
            "adapter": {"method": "lora", "rank": 2},
            "train": {"epochs": 1, "batch_size": 8, "precision": "fp32", "device": "cpu"},
            "eval": {"report": False, "label_template": None},
            "wandb": {"mode": "disabled"},
        }
        file = tmp_path / "shared.yaml"
        file.write_text(yaml.safe_dump(base | sections), encoding="utf-8")
        return load_experiment(file)

    return load


def loud():
    console = Console(file=io.StringIO(), width=400)
    return Display(console), console.file


def quiet():
    return Display(quiet=True)


def imagefolder(root, rows):
    """Rows of (picture file, text, channel); pictures that do not exist yet are drawn, each another shape."""
    root.mkdir()
    names = dict.fromkeys(name for name, _, _ in rows)
    for i, name in enumerate(names):
        colour, shape = ("red", "green", "blue", "yellow")[i % 4], ("circle", "square", "triangle", "cross")[i // 4 % 4]
        draw_shape(colour, shape, ("left", "right")[i // 16 % 2], size=40 + i // 32).save(root / name)
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file_name", "text", "Channel"), *rows])
    return root


def evaluate_all(asked):
    """Retrieval of every row, whatever the split."""
    shared = share(asked, quiet())
    everything = dataclasses.replace(shared.data, split=Split(np.array([], np.int64), np.arange(len(shared.data.rows))))
    pairs = build_pairs(shared.encoder, everything, None, quiet())
    return shared.data.items(), build_task(asked, shared.encoder, pairs).evaluate()


def test_rows_that_say_the_same_again_change_no_number_of_retrieval(experiment, tmp_path):
    """Every row again from another file of the same pixels, and once more with its title in another form."""
    plain = [(f"{i:02}.png", f"Thing n\u00famero {i}", "") for i in range(24)]
    root = imagefolder(tmp_path / "plain", plain)
    again = tmp_path / "again"
    shutil.copytree(root, again)
    rows = []
    for i, (name, text, _) in enumerate(plain):
        Image.open(root / name).save(again / f"{i:02}_copy.bmp")
        rows += [(name, text), (f"{i:02}_copy.bmp", text)]
        rows += [(f"{i:02}_copy.bmp", unicodedata.normalize("NFD", text.upper()))]
    with (again / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file_name", "text"), *rows])
    items, once = evaluate_all(experiment(root))
    many, thrice = evaluate_all(experiment(again, data={"root": str(again), "max_bad_share": 0.5}))
    assert (len(items), len(many)) == (24, 72)
    assert len(many.gallery()) == len(many.turned().gallery()) == 24
    for name in ("image_to_text/recall@1", "image_to_text/recall@5", "image_to_text/mrr"):
        assert thrice.metrics[name] == pytest.approx(once.metrics[name])


def test_a_picture_with_five_captions_is_found_by_each_and_finds_any(experiment, tmp_path):
    rows = [(f"{i}.png", f"caption {c} of thing {i}", "") for i in range(20) for c in range(5)]
    _, evaluated = evaluate_base(experiment(imagefolder(tmp_path / "captions", rows)), split="val", display=quiet())
    image, text = evaluated.vectors["image"], evaluated.vectors["text"]
    of_picture = np.arange(50) // 5  # rows are ordered by their ids: the path, and a number behind it
    cosine = (image @ text.T).numpy()
    back = cosine.T[:, ::5]
    for name, matrix, right in (
        ("image_to_text", cosine, of_picture[:, None] == of_picture),
        ("text_to_image", back, of_picture[:, None] == np.arange(10)),
    ):
        best = np.where(right, matrix, -2).max(axis=1, keepdims=True)
        ranks = 1 + ((matrix >= best - 1e-6) & ~right).sum(axis=1)
        assert evaluated.ranks[name].tolist() == ranks.tolist()
        assert evaluated.metrics[f"{name}/recall@5"] == pytest.approx((ranks <= 5).mean())
    assert (evaluated.ranks["text_to_image"] == 1).any(), "a picture no longer ties with itself"


def test_rows_without_a_group_are_drawn_one_by_one_and_those_of_one_picture_together(experiment, tmp_path):
    rows = [(f"{i}.png", f"thing {i}", f"channel {i // 4}" if i < 16 else "") for i in range(48)]
    rows += [(f"{i}.png", f"thing {i} again", "") for i in range(40, 48)]
    root = imagefolder(tmp_path / "groups", rows)
    data = {"root": str(root), "split": {"val_fraction": 0.5, "test_fraction": 0, "group_by": "Channel"}}
    outcome = train(experiment(root, data=data), runs_dir=tmp_path / "runs", display=quiet())
    assert outcome.run.read_evaluation().intervals_drawn_by == "Channel"
    found = load_file(outcome.run.path / PER_QUERY_FILE)
    shared = share(experiment(root, data=data), quiet())
    held_out = [shared.data.rows[i] for i in shared.data.split.val]
    groups = [row.columns["Channel"] or str(row.path) for row in held_out]
    assert "" in {row.columns["Channel"] for row in held_out}
    same = found["drawn"][:, None] == found["drawn"]
    assert same.tolist() == [[a == b for b in groups] for a in groups]
    plain = share(experiment(root), quiet())  # grouped by picture alone
    assert len(set(plain.data.units("val"))) == len({plain.data.rows[i].path for i in plain.data.split.val})
    alone = imagefolder(tmp_path / "alone", rows[:48])
    assert share(experiment(alone), quiet()).data.units("val") is None


def test_a_row_that_is_not_evaluated_ties_no_groups_of_evaluated_ones_together(experiment, tmp_path):
    rows = [(f"{i}.png", f"thing {i}", f"channel {i // 4}") for i in range(24)]
    bridges = [(f"{4 * i}.png", f"new text {i}", f"channel {i + 1}") for i in range(5)]
    root = imagefolder(tmp_path / "bridged", rows + bridges)

    class Recorded:
        trained, side = tmp_path, "val"

        def divide(self, named, file):
            train, val = (
                np.array([i for i, row in enumerate(named) if row.id in wanted], dtype=np.int64)
                for wanted in ({f"{i}.png" for i in range(12)}, {f"{i}.png" for i in range(12, 24)})
            )
            return Split(train, val)

    data = {"root": str(root), "split": {"val_fraction": 0.2, "test_fraction": 0, "group_by": "Channel"}}
    found = share(experiment(root, data=data), quiet(), Recorded()).data
    assert found.units("val") == [f"column:channel {i // 4}" for i in range(12, 24)]


def test_the_forgetting_ledger_draws_the_groups_of_the_split(experiment, tmp_path):
    rows = [(f"{i}.png", f"thing {i}", f"{'new' if i < 24 else 'old'} {i // 6}") for i in range(48)]
    root = imagefolder(tmp_path / "ledger", rows)
    new = [f"new {i}" for i in range(4)]
    data = {
        "root": str(root),
        "include": {"Channel": new},
        "split": {"val_fraction": 0.5, "test_fraction": 0, "group_by": "Channel"},
    }
    asked = experiment(root, data=data)
    outcome = train(asked, runs_dir=tmp_path / "runs", display=quiet())
    forgetting = ForgettingConfig(exclude={"Channel": new}, scales=[0.0, 1.0])
    shared = share(asked, quiet())
    told = forgetting_curve(asked, forgetting, outcome.run.adapter, display=quiet(), shared=shared)
    found = load_file(outcome.run.path / PER_QUERY_FILE)
    for point, model in zip(told.curve, ("base", "adapted"), strict=True):
        values = found[f"{model}/recall@5"]
        drawn = mean_interval(values, groups=found["drawn"], share=True)
        assert point.new == pytest.approx([drawn.estimate, drawn.low, drawn.high])
    one = ForgettingConfig(include={"Channel": ["old 4"]}, scales=[0.0, 1.0])
    with pytest.raises(ConfigError, match="the old rows are one group by Channel"):
        forgetting_curve(asked, one, outcome.run.adapter, display=quiet(), shared=shared)


def test_rows_that_share_a_picture_are_no_negatives_in_training(experiment, tmp_path):
    rows = [(f"{i // 2}.png", f"thing {i}", "") for i in range(32)]
    rows += [(f"{i}.png", f"it {i}", "") for i in range(16, 32)]
    train_keys = {"epochs": 1, "batch_size": 8, "precision": "fp32", "device": "cpu", "log_every": 1}
    shared = experiment(imagefolder(tmp_path / "twice", rows), train=train_keys)
    outcome = train(shared, runs_dir=tmp_path / "runs", display=quiet())
    logged = [line.get("train/masked_share") for line in read_metrics(outcome.run.path / "metrics.jsonl")]
    data = share(shared, quiet()).data
    pictures = data.items().select(data.split.train).first
    order = batches(len(pictures), 8, shared.seed, epoch=0)
    counted = [((pictures[b][:, None] == pictures[b]).sum() / len(b) - 1) / (len(b) - 1) for b in order]
    assert max(counted) > 0 and [share for share in logged if share is not None] == pytest.approx(counted)


def test_texts_that_the_model_cannot_read_to_the_end_are_counted(experiment, tmp_path):
    rows = [(f"{i}.png", f"thing {i}" + " and so on" * (60 if i % 3 == 0 else 0), "") for i in range(24)]
    display, told = loud()
    evaluate_base(experiment(imagefolder(tmp_path / "long", rows)), split="val", display=display)
    assert "warning: 8 of 24 texts are longer than" in told.getvalue() and "were cut" in told.getvalue()
