"""Packed data: a training, an evaluation and predictions from shards are those from the folder they were made of."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tests.data.packing import FORMATS, pack
from tests.export.runs import train_shapes
from vectoruniverse.cli import app
from vectoruniverse.experiment import train
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.finished import evaluate_run
from vectoruniverse.terminal import Display
from vectoruniverse.tracking.jsonl import read_metrics

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
