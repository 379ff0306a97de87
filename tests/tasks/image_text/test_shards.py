"""Packed data: a training, an evaluation and predictions from shards are those from the folder they were made of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.data.packing import FORMATS, pack
from tests.export.runs import train_shapes
from vectoruniverse.cli import app
from vectoruniverse.data import streamed
from vectoruniverse.data.decoding import PictureRecipe
from vectoruniverse.data.shards import parquet, saved, tar
from vectoruniverse.data.thumbnails import Pictures, PictureStore
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.experiment import train
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.finished import evaluate_run
from vectoruniverse.tasks.image_text import data
from vectoruniverse.tasks.image_text.metadata import read_metadata
from vectoruniverse.tasks.image_text.settings import DataConfig
from vectoruniverse.tasks.image_text.setup import prepare, share
from vectoruniverse.terminal import Display
from vectoruniverse.tracking.jsonl import read_metrics
from vectoruniverse.training.batches import batches
from vectoruniverse.training.strata import Blocks

QUIET = Display(quiet=True)
SPLIT = {"val_fraction": 0.3, "test_fraction": 0.2}


@pytest.fixture(scope="session")
def packed(shapes, tmp_path_factory):
    """The shapes packed in each format."""
    folder = tmp_path_factory.mktemp("packed")
    return {form: pack(shapes, folder / form, form) for form in FORMATS}


def invoke(*arguments: object):
    return CliRunner().invoke(app, list(map(str, arguments)))


def told(run):
    """What a run noted: its rows, its losses, its weights and what it reached."""
    rows = json.loads((run.path / "rows.json").read_text())
    lines = read_metrics(run.path / "metrics.jsonl")
    evaluation = json.loads((run.path / "evaluation.json").read_text())
    return {
        "rows": [rows[part] for part in ("train", "val", "test")],
        "data": (run.path / "data.sha256").read_text(),
        "losses": [line["train/loss"] for line in lines if "train/loss" in line],
        "weights": (run.path / "adapter" / "adapter_model.safetensors").read_bytes(),
        "reached": [evaluation[side] for side in ("base", "adapted")],
    }


def trained(config, tmp_path, root, name, **data):
    found = load_experiment(config(data={"root": str(root), "split": SPLIT, **data}))
    return train(found, runs_dir=tmp_path / name, display=QUIET).run


@pytest.mark.parametrize("form", FORMATS)
def test_a_training_from_shards_is_bit_for_bit_that_from_the_folder(config, shapes, packed, tmp_path, form):
    filters = {"include": {"Category": ["red", "green", "blue"]}}
    expected = told(trained(config, tmp_path, shapes, "folder", **filters))
    found = told(trained(config, tmp_path, packed[form], "packed", **filters))
    assert found == expected and len(found["losses"]) > 3


def test_a_run_is_evaluated_and_predicts_from_shards_as_from_the_folder(shapes, packed, tmp_path):
    data = {"root": str(packed["webdataset"]), "split": SPLIT}
    run = train_shapes(tmp_path, shapes, data=data)
    _, again = evaluate_run(str(run), runs_dir=tmp_path, split=None, display=QUIET)
    told_then = json.loads((run / "evaluation.json").read_text())["adapted"]
    assert {name: again.adapted.metrics[name] for name in told_then if "/" not in name} == {
        name: value for name, value in told_then.items() if "/" not in name
    }
    _, other = evaluate_run(str(run), runs_dir=tmp_path, split=None, display=QUIET, place=str(packed["parquet"]))
    assert other.rows == 32 and other.trained_on == 16
    said = {}
    for place in (shapes / "metadata.csv", *packed.values(), f"{packed['webdataset']}/shard-*.tar"):
        out = tmp_path / "said.json"
        told = invoke("predict", run, "--input", place, "--out", out)
        assert told.exit_code == 0, told.output
        rows = json.loads(out.read_text())
        said[str(place)] = [
            (row["Id"], row["prediction"], row["p(red)"]) for row in sorted(rows, key=lambda r: r["Id"])
        ]
    assert len(next(iter(said.values()))) == 32 and all(one == next(iter(said.values())) for one in said.values())


def test_a_pattern_of_shards_is_found_beside_the_experiment_file_and_beside_a_run_that_was_moved(
    config, packed, tmp_path, monkeypatch
):
    shutil.copytree(packed["webdataset"], tmp_path / "world" / "shards")
    file = Path(config(data={"root": "shards/shard-{000000..000003}.tar", "split": SPLIT}))
    file = file.rename(tmp_path / "world" / file.name)
    experiment = load_experiment(file)
    assert experiment.data.root == str(tmp_path / "world" / "shards" / "shard-{000000..000003}.tar")
    monkeypatch.chdir(tmp_path / "world")
    run = train(load_experiment(file), runs_dir=Path("runs"), display=QUIET).run
    (tmp_path / "world").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    _, found = evaluate_run(str(tmp_path / "moved" / run.path), runs_dir=tmp_path, split=None, display=QUIET)
    assert found.rows == 6


def check(place, *more):
    told = invoke("data", "check", place, "--json", "-q", *more)
    return told.exit_code, json.loads(told.output)


def test_a_check_of_shards_finds_what_it_finds_in_the_folder_and_names_shard_and_row(described, tmp_path):
    def change(i, row):
        return row | {
            "Title": " " if i == 20 else row["Title"],
            "Category": "Red, cross" if i == 3 else row["Category"],
        }

    root = described(change)["root"]
    (found := tmp_path / "described" / "images" / "red" / "red-circle-left.png").write_bytes(b"no picture")
    code, expected = check(root)
    assert code == 3
    for form in ("parquet", "webdataset"):
        out = tmp_path / form
        told = invoke("data", "shard", root, "--out", out, "--format", form, "--rows-per-shard", 7, "-q")
        assert told.exit_code == 0 and "32 rows in 5 shards" in told.output
        code, report = check(out)
        assert code == 3 and report["counts"] == expected["counts"] and report["stats"] == expected["stats"]
        assert [row["row_id"] for row in report["findings"]] == [row["row_id"] for row in expected["findings"]]
        bad = {row["kind"]: (row["file"], row["line"]) for row in report["findings"]}
        ending = "parquet" if form == "parquet" else "tar"
        assert bad["empty_text"] == (f"shard-000002.{ending}", 7)
        assert bad["not_a_picture"] == (f"shard-000000.{ending}", 1)
    assert found.exists()


def test_a_check_tells_shards_whose_content_changed_though_their_length_did_not(shapes, tmp_path):
    out = pack(shapes, tmp_path / "out", "webdataset")
    assert check(out)[0] == 0
    file = out / "shard-000002.tar"
    content = bytearray(file.read_bytes())
    place = content.index(b"IDAT") + 6
    content[place] ^= 1
    file.write_bytes(content)
    code, report = check(out)
    assert code == 3 and report["counts"]["broken_shard"] == 1
    assert report["findings"][0]["file"] == "shard-000002.tar"


def test_a_damaged_shard_is_told_by_check_and_stops_a_training(config, shapes, tmp_path):
    out = pack(shapes, tmp_path / "out", "webdataset")
    (out / "shards.json").unlink()
    (out / "shard-000001.tar").write_bytes((out / "shard-000001.tar").read_bytes()[:5000])
    code, report = check(out)
    assert code == 3 and report["counts"] == {"broken_shard": 1}
    assert report["findings"][0]["file"] == "shard-000001.tar"
    told = invoke("train", "--config", config(data={"root": str(out)}), "--quiet")
    assert told.exit_code == 3 and "shard-000001.tar" in told.output and "cut off" in told.output


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--shard-size", "many"], 2, "is no size"),
        (["--shard-size", "0MB"], 2, "is no size"),
        (["--rows-per-shard", "0"], 2, "rows-per-shard"),
        (["--format", "zip"], 2, "zip"),
        (["--config", "a.yaml"], 2, "either a folder or --config"),
    ],
)
def test_options_of_shard_that_cannot_be_are_refused(shapes, tmp_path, arguments, code, said):
    told = invoke("data", "shard", shapes, "--out", tmp_path / "out", *arguments)
    assert told.exit_code == code and said in told.output and not (tmp_path / "out").exists()


# data that are decoded whenever they are read


@pytest.mark.parametrize("form", ["folder", *FORMATS])
def test_without_a_store_a_training_is_bit_for_bit_the_same_where_all_shards_are_shuffled_together(
    config, shapes, packed, tmp_path, form
):
    place = packed.get(form, shapes)
    kept = told(trained(config, tmp_path, shapes, "kept"))
    cache = tmp_path / "cache"
    found = told(trained(config, tmp_path, place, "streamed", store="off", cache_dir=str(cache)))
    assert found == kept
    assert not list(cache.rglob("pictures.u8")) and sum(f.stat().st_size for f in cache.rglob("digests.u8")) == 32 * 16


def begun(config, place, *overrides, **sections):
    file = config(data={"root": str(place), "split": SPLIT, "store": "off"}, **sections)
    return load_experiment(file, overrides)


@pytest.mark.parametrize("form", FORMATS)
def test_rows_are_shuffled_block_by_block_and_a_run_cut_within_an_epoch_goes_on_bit_for_bit(
    config, shapes, tmp_path, monkeypatch, cut_and_resumed, form
):
    monkeypatch.setattr(streamed, "WINDOW_BYTES", 1)
    monkeypatch.setattr(tar, "_BLOCK", 1000)
    monkeypatch.setattr(saved, "_BLOCK", 1000)
    place = pack(shapes, tmp_path / "packed", form, rows=6)
    experiment = begun(config, place)
    prepared = prepare(experiment, share(experiment, QUIET))
    assert isinstance(prepared.strata, Blocks) and prepared.strata.together == 1
    assert len(np.unique(prepared.strata.of_row)) > 3
    assert "pictures are decoded whenever they are read (data.store)" in prepared.remarks()
    whole = train(experiment, runs_dir=tmp_path / "whole", display=QUIET).run
    assert told(cut_and_resumed(experiment).run) == told(whole)


def test_each_row_group_is_read_about_once_an_epoch(config, shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "WINDOW_BYTES", 1)
    monkeypatch.setattr(parquet, "KEPT_BYTES", 1)  # nothing but the last group is kept
    place = pack(shapes, tmp_path / "packed", "parquet", rows=6)
    experiment = begun(config, place, "train.batch_size=4", "data.split.test_fraction=0")
    prepared = prepare(experiment, share(experiment, QUIET))
    read = []
    for file in {one.shard._file for one in prepared.task.train.pictures.files}:
        given = file.read_row_group
        monkeypatch.setattr(
            file, "read_row_group", lambda group, given=given, **how: read.append(1) or given(group, **how)
        )
    for rows in batches(prepared.task.train_rows, 4, 0, 1, prepared.strata):
        prepared.task.train.pictures.take(np.sort(rows))
    assert 6 <= len(read) <= 14, "22 rows in six groups, of which a batch touches one or two"


@pytest.mark.parametrize(
    ("override", "key"),
    [("train.sampler=labels", "train.sampler"), ("train.hard_negatives={share: 0.5}", "train.hard_negatives")],
)
def test_batches_of_rows_from_anywhere_need_the_store(config, packed, override, key):
    experiment = begun(config, packed["parquet"], override)
    with pytest.raises(ConfigError, match="may lie anywhere in the shards") as fault:
        prepare(experiment, share(experiment, QUIET))
    assert fault.value.key == key


def test_a_row_group_too_large_to_be_shuffled_is_refused(config, packed, monkeypatch):
    monkeypatch.setattr(streamed, "MAX_BLOCK", 100)
    experiment = begun(config, packed["parquet"])
    with pytest.raises(DataError, match="cannot be shuffled") as fault:
        prepare(experiment, share(experiment, QUIET))
    assert fault.value.key == "data.store"


def test_a_picture_that_changes_later_on_ends_the_run(config, shapes, tmp_path):
    place = pack(shapes, tmp_path / "packed", "webdataset")
    experiment = begun(config, place)
    prepared = prepare(experiment, share(experiment, QUIET))
    for file in place.glob("*.tar"):
        content = bytearray(file.read_bytes())
        at = content.index(b"IDAT") + 6
        content[at] ^= 1
        file.write_bytes(content)
    with pytest.raises(DataError, match="is another picture than when the run began"):
        prepared.task.evaluate("train")


def test_pictures_that_cannot_be_decoded_are_set_aside_alike_with_and_without_store(config, described, tmp_path):
    root = described(lambda i, row: row)["root"]
    (tmp_path / "described" / "images" / "red" / "red-circle-left.png").write_bytes(b"no picture")
    place = pack(Path(root), tmp_path / "packed", "webdataset")
    for store in ("on", "off"):
        experiment = begun(config, place, f"data.store={store}")
        with pytest.raises(DataError, match=r"1 of 32 rows .*shard-000000\.tar:1 \(red-circle-left\)"):
            share(experiment, QUIET)
        allowed = share(begun(config, place, f"data.store={store}", "data.max_bad_share=0.1"), QUIET).data
        assert len(allowed.rows) == 31 and [bad.kind for bad in allowed.table.bad] == ["not_a_picture"]


def test_auto_keeps_decoded_pictures_up_to_a_limit(config, packed, monkeypatch):
    experiment = begun(config, packed["parquet"], "data.store=auto")
    side = share(experiment, QUIET).data.pictures.take(slice(0, 1)).shape[1]
    monkeypatch.setattr(data, "MOST_STORED", 32 * side * side * 3)
    assert isinstance(share(experiment, QUIET).data.pictures, Pictures)
    monkeypatch.setattr(data, "MOST_STORED", 32 * side * side * 3 - 1)
    assert isinstance(share(experiment, QUIET).data.pictures, streamed.StreamedPictures)


def test_what_comes_next_is_decoded_ahead_and_what_was_not_asked_for_is_forgotten(packed, tmp_path):
    rows = read_metadata(DataConfig(root=str(packed["webdataset"]))).rows
    files = [row.path for row in rows]
    store = PictureStore.open(tmp_path, PictureRecipe(16), pixels=False)
    found = store.digest_only(files)
    kept = PictureStore.open(tmp_path, PictureRecipe(16)).ensure(files)
    assert found.digests == kept.digests and [found.content(i) for i in range(32)] == [
        kept.content(i) for i in range(32)
    ]
    found.ahead(np.array([3, 1, 2]))
    begun = dict(found._ahead.begun)
    np.testing.assert_array_equal(found.take(np.array([1, 3, 9])), kept.take(np.array([1, 3, 9])))
    assert begun.keys() == {1, 2, 3} and found._ahead.begun.keys() == {2}
    found.ahead(np.array([5]))
    assert found._ahead.begun.keys() == {5}
    assert found.take(np.array([], np.int64)).shape == (0, 16, 16, 3)
