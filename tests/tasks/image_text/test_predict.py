"""Labels of new pictures and titles: by either or both, the same in Python and in every file, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score
from typer.testing import CliRunner

from tests.conftest import COLOURS, draw_shape
from tests.export.runs import train_shapes
from vectoruniverse.api import load_run
from vectoruniverse.cli import app
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.evaluation.runs import compare_runs
from vectoruniverse.runs.files import read_record
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.label_records import PROBES_FILE, LabelsFile
from vectoruniverse.runs.outcomes import outcomes
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.image_text.label_rules import LABELS_FILE
from vectoruniverse.terminal import Display

QUIET = Display(quiet=True)


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    data = {"root": str(shapes), "split": {"val_fraction": 0.5, "test_fraction": 0}}
    return train_shapes(tmp_path_factory.mktemp("labels"), shapes, data=data)


@pytest.fixture(scope="module")
def loaded(run):
    return load_run(run, device="cpu", precision="fp32")


@pytest.fixture
def new(tmp_path) -> Path:
    """Four new rows: whole, without picture, without title, with neither; and one with a broken picture."""
    images = tmp_path / "new" / "images"
    images.mkdir(parents=True)
    for name in ("whole", "mute"):
        draw_shape("red", "cross", "left", size=64).save(images / f"{name}.png")
    (images / "broken.png").write_bytes(b"no picture")
    rows = [("whole", "a red cross"), ("blind", "a red cross"), ("mute", " "), ("nothing", ""), ("broken", "a cross")]
    file = tmp_path / "new" / "metadata.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("Id", "Channel", "Title", "Category"), *((i, "new", t, "Dog") for i, t in rows)])
    return file


def invoke(*arguments: object):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_rules_are_learned_when_a_run_ends(run):
    rules = read_record(run / "adapter" / LABELS_FILE, LabelsFile)
    experiment = load_experiment(run / "config.yaml")
    record = json.loads((run / "rows.json").read_text(encoding="utf-8"))
    labels = [row[0].split("-")[:2] for row in record["val"]]
    assert rules.rows == len(labels) == 16 and {*rules.names} == {*COLOURS, "circle", "square", "triangle", "cross"}
    assert rules.validation == [sum(name in row for row in labels) for name in rules.names]
    assert rules.models.keys() == {"base", "adapted"} and list(rules.models["base"]) == ["picture", "text", "both"]
    assert experiment.eval.label_template == "{label}"
    told = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["labels"]
    assert (told["rows"], told["in_sample"], told["by"]) == (16, True, "both"), "there are no test rows"
    assert told["reached"]["picture"].keys() == {"base", "linear probe", "Tip-Adapter cache", "adapted"}


def test_what_a_run_predicts_of_its_evaluated_rows_is_what_was_evaluated(run, loaded, shapes):
    record = json.loads((run / "rows.json").read_text(encoding="utf-8"))
    told = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["labels"]["reached"]
    rules = read_record(run / "adapter" / LABELS_FILE, LabelsFile)
    assert rules.probed and (run / "adapter" / PROBES_FILE).exists()
    ids = [row[0] for row in record["val"]]
    titles = {row["Id"]: row["Title"] for row in read(shapes / "metadata.csv")}
    pictures, texts = [shapes / "images" / i.split("-")[0] / f"{i}.png" for i in ids], [titles[i] for i in ids]
    for by, given in (("picture", (pictures, None)), ("text", (None, texts)), ("both", (pictures, texts))):
        found = loaded.predict(*given)
        truth = np.array([[name in i.split("-")[:2] for name in found.names] for i in ids])
        assert average_precision_score(truth, found.probabilities) == pytest.approx(told[by]["adapted"]["map"][0])
        f1 = f1_score(truth, found.said, average="macro", zero_division=0)
        assert f1 == pytest.approx(told[by]["adapted"]["macro_f1"][0])


def test_means_over_labels_are_metrics_of_the_run_and_runs_are_compared_by_them(run, tmp_path):
    record = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    reached = record["labels"]["reached"]["both"]["adapted"]
    for metric, name in (("labels/map", "map"), ("labels/macro_f1", "macro_f1")):
        assert record["adapted"][metric] == pytest.approx(reached[name][0])
        assert record["intervals"][metric]["adapted"] == pytest.approx(reached[name][1:])
        assert np.nanmean(outcomes(Run(run), metric).adapted) == pytest.approx(reached[name][0])
    shutil.copytree(run, tmp_path / "again")
    found = compare_runs([str(run), str(tmp_path / "again")], runs_dir=tmp_path)
    assert found["metrics"]["labels/map"][run.name] == pytest.approx(reached["map"])
    assert found["differences"]["again"]["labels/map"] == [0.0, 0.0, 0.0]


def test_each_row_is_predicted_by_all_that_it_has_and_a_bad_one_has_its_reason(run, loaded, new, tmp_path):
    out = tmp_path / "said.csv"
    told = invoke(run, "--input", new, "--out", out)
    assert told.exit_code == 0, told.output
    assert "4 predictions in" in told.output and "2 by text, 1 by both, 1 by picture" in told.output
    assert "labels that this run does not know, and so never predicts: 'Dog'" in told.output
    out.write_text(loaded.predict_table(new, QUIET).csv(), encoding="utf-8")  # in fp32
    rows = read(out)
    assert [row["by"] for row in rows] == ["both", "text", "picture", "", "text"]
    assert [row["reason"] for row in rows][3].startswith("no picture named 'nothing'")
    picture, text = [new.parent / "images" / "whole.png"], ["a red cross"]
    for row, given in zip(rows, ((picture, text), (None, text), (picture, None)), strict=False):
        found = loaded.predict(*given)
        assert row["prediction"] == ",".join(found.labels()[0])
        shares = [float(row[f"p({name})"]) for name in found.names]
        np.testing.assert_allclose(shares, found.probabilities[0], atol=2e-6)
        said = {name for name, p, at in zip(found.names, shares, found.thresholds, strict=True) if p >= at}
        assert said == {*filter(None, row["prediction"].split(","))}


def test_one_input_that_is_asked_for_is_needed(loaded, new):
    for by, lines in (("picture", [2, 4]), ("text", [2, 3, 6]), ("both", [2])):
        found = loaded.predict_table(new, QUIET, by=by)
        assert [row.line for row in found.rows] == lines and {*found.by} == {by}
        assert len(found.bad) == 5 - len(lines)


def test_titles_alone_need_no_folder_of_pictures(loaded, tmp_path):
    file = tmp_path / "titles.csv"
    file.write_text("Id,Title\n1,a red cross\n", encoding="utf-8")
    assert loaded.predict_table(file, QUIET, by="text").by == ["text"]
    with pytest.raises(DataError, match="no such folder of pictures"):
        loaded.predict_table(file, QUIET)


def test_pictures_alone_need_no_title(loaded, new):
    new.write_text("Id\nwhole\nmute\n", encoding="utf-8")
    assert loaded.predict_table(new, QUIET, by="picture").by == ["picture"] * 2


def test_json_holds_lists_and_numbers(run, new, tmp_path):
    out, plain = tmp_path / "said.json", tmp_path / "said.csv"
    assert invoke(run, "-i", new, "--out", out, "--quiet").exit_code == 0
    assert invoke(run, "-i", new, "--out", plain, "--quiet").exit_code == 0
    for row, cells in zip(json.loads(out.read_text(encoding="utf-8")), read(plain), strict=True):
        assert row["Id"] == cells["Id"] and (row["reason"] or "") == cells["reason"]
        assert ",".join(row["prediction"] or []) == cells["prediction"]
        assert isinstance(row["p(red)"], float) or (row["prediction"] is None and row["reason"])


def test_parquet_is_read_as_it_was_written(run, new, tmp_path):
    out, plain = tmp_path / "said.parquet", tmp_path / "said.json"
    assert invoke(run, "-i", new, "--out", out, "--quiet").exit_code == 0
    assert invoke(run, "-i", new, "--out", plain, "--quiet").exit_code == 0
    frame, rows = pd.read_parquet(out), json.loads(plain.read_text(encoding="utf-8"))
    assert [None if said is None else list(said) for said in frame["prediction"]] == [row["prediction"] for row in rows]
    assert frame["p(red)"].dropna().tolist() == [row["p(red)"] for row in rows if row["p(red)"] is not None]


def test_files_that_cannot_be_written_are_refused_before_any_work(run, new, tmp_path, monkeypatch):
    told = invoke(run, "-i", new, "--out", tmp_path / "said.xlsx")
    assert told.exit_code == 2 and "ends in none of .csv, .json, .parquet" in told.output
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    told = invoke(run, "-i", new, "--out", tmp_path / "said.parquet")
    assert told.exit_code == 2 and "needs pyarrow" in told.output
    assert "pip install 'vectoruniverse[parquet]'" in " ".join(told.output.split())


def test_options_that_do_not_fit_are_refused(run, new):
    told = invoke(run, "-i", new, "--by", "sound")
    assert told.exit_code == 2 and "'sound' is none of picture, text, both, fused" in told.output


def test_without_a_fusion_none_can_be_asked_for(run, new):
    told = invoke(run, "-i", new, "--by", "fused")
    assert told.exit_code == 2 and "this run has no rules by a fusion" in told.output and "by both" in told.output


def test_a_trained_fusion_tells_rows_that_have_picture_and_text(shapes, new, tmp_path):
    data = {"root": str(shapes), "split": {"val_fraction": 0.25, "test_fraction": 0.25}}
    loss = {"name": "info_nce", "label_kl": {"weight": 1.0, "fusion": "gated_sum"}}
    fused = train_shapes(tmp_path, shapes, data=data, loss=loss)
    labels = json.loads((fused / "evaluation.json").read_text(encoding="utf-8"))["labels"]
    assert labels["by"] == "fused" and labels["reached"]["fused"].keys() == {"base", "unfused", "adapted"}
    loaded = load_run(fused, device="cpu", precision="fp32")
    whole, *others = loaded.predict_table(new, QUIET).by
    assert whole == "fused" and {*others} == {"picture", "text"}
    picture, text = [new.parent / "images" / "whole.png"], ["a red cross"]
    found = loaded.predict_table(new, QUIET, by="fused")
    assert found.probabilities[0] == pytest.approx(loaded.predict(picture, text).probabilities[0], abs=2e-6)
    assert loaded.predict_table(new, QUIET, by="both").probabilities[0] != pytest.approx(found.probabilities[0])
    (fused / "adapter" / "fusion.safetensors").unlink()
    with pytest.raises(DataError, match="fusion"):
        load_run(fused, device="cpu", precision="fp32").predict(picture, text)


def test_in_python_as_many_pictures_as_texts_are_needed(loaded):
    with pytest.raises(TypeError, match="pictures, texts, or as many of both"):
        loaded.predict()
    with pytest.raises(TypeError, match="as many of both"):
        loaded.predict([draw_shape("red", "cross", "left")], ["a", "b"])
    assert loaded.predict(texts=[]).probabilities.shape == (0, 8)


def test_texts_made_of_labels_predict_nothing(shapes, tmp_path):
    data = {"root": str(shapes), "text": "{Category}, {title}", "split": {"val_fraction": 0.5, "test_fraction": 0}}
    run = train_shapes(tmp_path, shapes, data=data)
    loaded = load_run(run, device="cpu", precision="fp32")
    assert list(read_record(run / "adapter" / LABELS_FILE, LabelsFile).models["adapted"]) == ["picture"]
    assert {*loaded.predict_table(shapes / "metadata.csv", QUIET).by} == {"picture"}
    with pytest.raises(ConfigError, match="made of the labels themselves"):
        loaded.predict(texts=["red"])


def test_a_run_without_labels_says_so_and_one_of_an_earlier_version_learns_them(run, shapes, new, tmp_path):
    import shutil

    earlier = tmp_path / "runs" / run.name
    shutil.copytree(run, earlier)
    (earlier / "adapter" / LABELS_FILE).unlink()
    told = invoke(earlier, "-i", new)
    assert told.exit_code == 2 and "has learned no labels" in told.output and "--split val learns them" in told.output
    told = CliRunner().invoke(app, ["eval", str(earlier), "--split", "val"])
    assert told.exit_code == 0 and "labels by picture and text: mAP" in told.output
    mine, theirs = (read_record(one / "adapter" / LABELS_FILE, LabelsFile) for one in (earlier, run))
    assert mine.names == theirs.names and mine.validation == theirs.validation
    assert mine.fitted == theirs.fitted
    assert invoke(earlier, "-i", new).exit_code == 0
