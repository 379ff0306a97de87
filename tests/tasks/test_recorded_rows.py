"""Which rows a run is evaluated on: those that it promised, by name, whatever has become of its data since."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.cli.test_runs import vu
from tests.models.models import save_clip
from tests.models.text_models import save_encoder
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.table import setup
from vectoruniverse.terminal import Display


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def begun(clip, shapes, tmp_path_factory):
    """A folder with pictures, an experiment on them, and a run of it."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(shapes, folder / "pictures")
    settings = {
        "name": "shapes",
        "task": "image_text",
        "model": str(clip),
        "data": {"root": "pictures", "split": {"val_fraction": 0.25, "test_fraction": 0}},
        "adapter": {"method": "lora", "rank": 2},
        "train": {"epochs": 1, "batch_size": 12, "lr": 0.01, "device": "cpu", "precision": "fp32"},
        "eval": {"report": False},
        "wandb": {"mode": "disabled"},
    }
    (folder / "shapes.yaml").write_text(yaml.safe_dump(settings))
    with contextlib.chdir(folder):
        trained(folder / "shapes.yaml", "--runs-dir", "runs")
    return folder


@pytest.fixture
def folder(begun, tmp_path):
    """A copy of it that may be changed, in which the run finds its data beside it."""
    return Path(shutil.copytree(begun, tmp_path / "copy"))


@pytest.fixture
def pictures(folder):
    return folder / "pictures"


@pytest.fixture
def run(folder):
    (found,) = (folder / "runs").glob("[!.]*")
    return found


def rewrite(file: Path, change) -> None:
    """Change the rows of a table; ``change`` takes and gives lists of cells, the header left out."""
    with file.open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *change(rows)])


def trained(config: Path, *options: str) -> Path:
    """The folder of a new run."""
    done = vu("train", "-c", str(config), "--quiet", "--json", *options)
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["run"])


def test_runs_on_rows_with_other_labels_are_not_set_off_against_each_other(folder, run, pictures):
    first = run
    rewrite(pictures / "metadata.csv", lambda rows: [[*row[:3], row[3].split(",")[1]] for row in rows])
    second = trained(folder / "shapes.yaml")
    record = json.loads(vu("compare", str(first), str(second), "--json").stdout)
    assert record["runs"][0]["data"] != record["runs"][1]["data"]
    assert not record["differences"] and "other data" in record["no_differences"][second.name]


def noted(run: Path, side: str = "val") -> list[str]:
    """Ids of the rows that a run noted."""
    return [row[0] for row in json.loads((run / "rows.json").read_text())[side]]


def evaluated(run: Path, *options: str) -> dict:
    """What ``vu eval`` finds."""
    done = vu("eval", str(run), "--json", "--quiet", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def without(*ids: str):
    return lambda rows: [row for row in rows if row[0] not in ids]


def test_rows_that_are_new_are_never_evaluated_as_held_out(run, pictures):
    before = json.loads((run / "evaluation.json").read_text())

    def doubled(rows):
        for row in rows:
            picture = pictures / "images" / row[1] / f"{row[0]}.png"
            image = Image.open(picture).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
            image.save(picture.with_name(f"{row[0]}-again.png"))
        return [*rows, *([f"{row[0]}-again", row[1], f"{row[2]}, turned", row[3]] for row in rows)]

    rewrite(pictures / "metadata.csv", doubled)
    done = vu("eval", str(run))
    assert "8 held-out rows" in done.stdout and "32 rows are new" in done.stderr
    again = evaluated(run)
    assert again["rows"] == 8 and again["rows_gone"] == 0
    assert again["adapted"] == pytest.approx(before["adapted"], abs=1e-5)
    assert again["base"] == pytest.approx(before["base"], abs=1e-5)


def test_rows_that_are_gone_are_told_and_the_others_evaluated(run, pictures):
    first, second, *_ = noted(run)
    rewrite(pictures / "metadata.csv", without(first, second))
    done = vu("eval", str(run))
    assert f"2 of 8 held-out rows of this run are gone since it began ({first}, {second}); 6 are left" in done.stderr
    record = evaluated(run)
    assert (record["rows"], record["rows_gone"], record["evaluated_on"]) == (6, 2, "held-out")
    assert vu("report", str(run)).returncode == 0
    assert "2 held-out rows that were evaluated when the run ended" in (run / "report.html").read_text()


def test_where_most_rows_are_gone_nothing_is_evaluated_and_the_report_stays(run, pictures):
    (run / "report.html").write_text("the report")
    rewrite(pictures / "metadata.csv", without(*noted(run)[:5]))
    for command in ("eval", "report"):
        done = vu(command, str(run))
        assert done.returncode == 3 and "5 of 8 held-out rows of this run are not there" in done.stderr
    assert (run / "report.html").read_text() == "the report"


@pytest.mark.parametrize("what", ["title", "label", "picture"])
def test_a_held_out_row_with_another_truth_is_refused_a_training_row_is_not(run, pictures, what):

    def change(identity):
        def changed(rows):
            for row in rows:
                if row[0] == identity and what == "picture":
                    Image.new("RGB", (48, 48), "black").save(pictures / "images" / row[1] / f"{identity}.png")
                elif row[0] == identity:
                    row[{"title": 2, "label": 3}[what]] = "pink"
            return rows

        return changed

    rewrite(pictures / "metadata.csv", change(noted(run, "train")[3]))
    assert evaluated(run)["rows"] == 8
    identity = noted(run)[2]
    rewrite(pictures / "metadata.csv", change(identity))
    done = vu("eval", str(run))
    assert done.returncode == 3
    assert (
        f"1 of 8 held-out rows of this run have another picture, text or label than they had: {identity}" in done.stderr
    )


def test_a_table_in_another_encoding_or_without_its_groups_holds_the_same_rows(run, pictures, tmp_path):
    before, table = evaluated(run), pictures / "metadata.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("Channel", "Kanal"), encoding="utf-16")
    assert "data.encoding to utf-16" in vu("eval", str(run)).stderr
    again = evaluated(run, "--set", "data.encoding=utf-16", "--set", "data.split.group_by=null")
    assert (again["evaluated_on"], again["rows"]) == ("held-out", before["rows"])
    assert again["adapted"] == pytest.approx(before["adapted"], abs=1e-5)
    table.write_text("".join(table.read_text(encoding="utf-16").splitlines(keepends=True)[:2]), encoding="utf-8")
    done = vu("eval", str(run), "--data", str(pictures))
    assert done.returncode == 3 and "1 row can be evaluated" in done.stderr and "val_fraction" not in done.stderr


def test_rows_that_were_renamed_or_reordered_are_the_same_rows(run, pictures):
    """As the captions of one picture are, which are numbered in the order of the file."""
    renamed = dict.fromkeys(noted(run)[:3])

    def change(rows):
        for row in rows:
            if row[0] in renamed:
                folder = pictures / "images" / row[1]
                (folder / f"{row[0]}.png").rename(folder / f"new-{row[0]}.png")
                row[0] = f"new-{row[0]}"
        return rows[::-1]

    rewrite(pictures / "metadata.csv", change)
    assert evaluated(run)["rows"] == 8


def test_a_run_that_noted_no_rows_is_held_to_its_fingerprint(folder, run, pictures, monkeypatch):
    monkeypatch.chdir(folder)
    (run / "rows.json").unlink()
    assert evaluated(run)["rows"] == 8
    experiment = load_experiment(run / "config.yaml")
    data = setup(experiment).share(experiment, Display(quiet=True)).data
    (run / "data.sha256").write_text(data.earlier_fingerprint())  # without labels, as an earlier version wrote it
    assert evaluated(run)["rows"] == 8
    rewrite(pictures / "metadata.csv", without(data.named_rows()[0].id))
    done = vu("eval", str(run))
    assert done.returncode == 3 and "did not note its rows" in done.stderr and "--data" in done.stderr
    done = vu("eval", str(run), "--data", str(pictures))
    assert done.returncode == 0 and "may have learned from some of these" in done.stderr


def test_a_damaged_list_of_rows_is_told(run):
    (run / "rows.json").write_text("[]")
    done = vu("eval", str(run))
    assert done.returncode == 3 and "rows.json" in done.stderr


def test_other_data_is_evaluated_on_purpose_and_called_so(run, pictures, tmp_path):
    kept = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    other = Path(shutil.copytree(pictures, tmp_path / "other"))
    learned = noted(run, "train")
    rewrite(other / "metadata.csv", without(*noted(run), *learned[4:]))  # four rows that the run learned from ...
    for i in range(6):  # ... and six that it never saw
        Image.new("RGB", (48, 48), (30 * i, 100, 200)).save(other / "images" / f"plain-{i}.png")
    rewrite(
        other / "metadata.csv", lambda rows: [*rows, *([f"plain-{i}", "", f"plain {i}", "plain"] for i in range(6))]
    )
    for options in (["--data", str(other)], ["--set", f"data.root={other}"]):
        done = vu("eval", str(run), *options)
        assert "10 rows of other data" in done.stdout
        assert "the run learned from 4 of these 10 rows" in done.stderr
        record = evaluated(run, *options)
        assert (record["split"], record["evaluated_on"], record["rows"]) == ("all", "other", 10)
        assert (record["source"], record["rows_trained_on"]) == (str(other), 4)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == kept
    assert vu("eval", str(run), "--data", str(other), "--split", "train").returncode == 2
    assert vu("eval", str(run), "--set", "train.lr=1").returncode == 2
    assert evaluated(run, "--set", "data.max_bad_share=0.5")["evaluated_on"] == "held-out"


def test_a_run_finds_its_data_where_it_was_and_after_both_were_moved(run, pictures, tmp_path):
    record = json.loads((run / "rows.json").read_text())
    assert Path(record["place"]).is_absolute() and record["beside"] == "../../pictures"
    alone = tmp_path / "alone" / run.name
    shutil.copytree(run, alone)  # away from its data, which is where the run began still
    done = vu("eval", str(alone))
    assert done.returncode == 0 and f"data in {record['place']}" in done.stderr
    (alone / "rows.json").write_text(json.dumps(record | {"place": "/nowhere"}))
    done = vu("eval", str(alone))
    assert done.returncode == 3 and "/nowhere" in done.stderr and "data.root" in done.stderr


def test_a_relative_place_may_be_beside_the_experiment_file(folder, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert load_experiment(folder / "shapes.yaml").data.root == str(folder / "pictures")
    Path("pictures").mkdir()
    assert load_experiment(folder / "shapes.yaml").data.root == "pictures", "the working directory goes first"


TEXTS = {
    "text_pairs": {"data": {"first": "first", "second": "second"}},
    "sequence_classification": {"data": {"text": "first", "label": "class"}},
    "pair_classification": {"data": {"label": "class"}},
    "masked_lm": {"data": {"column": "first"}, "adapter": {"method": "full"}},
}
SCRATCH = {"scratch": "bert", "vocab_size": 80, "width": 32, "layers": 1, "heads": 2, "intermediate": 64}
NUMBERS, THINGS = (
    ("one", "two", "three", "four", "five", "six", "seven"),
    ("red book", "blue lamp", "old house", "tree"),
)


def sentences(verb: str) -> list[list[str]]:
    return [
        [f"{number} {thing} {verb}. It is {number}.", f"{thing} {verb}: {number}", "ab"[i % 2]]
        for i, (number, thing) in enumerate(itertools.product(NUMBERS, THINGS))
    ]


def write_sentences(file: Path, rows: list[list[str]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("first", "second", "class"), *rows])
    return file


@pytest.mark.parametrize("task", TEXTS)
@pytest.mark.parametrize("scratch", [False, True])
def test_text_runs_are_evaluated_on_the_rows_that_they_held_out(task, scratch, tmp_path):
    """Rows are added before, in and after the table, then some are lost; models from scratch keep their vocabulary."""
    if scratch == (task != "masked_lm"):
        model, adapter = SCRATCH | {"max_text_tokens": 32}, {"method": "full"}
    else:
        model = str(save_encoder(tmp_path / "bert", "bert", max_position_embeddings=64))
        adapter = TEXTS[task].get("adapter", {"method": "lora", "rank": 2})
    rows = sentences("stands")
    table = write_sentences(tmp_path / "table.csv", rows)
    place = "source" if task == "masked_lm" else "file"
    settings = {
        "name": "texts",
        "task": task,
        "model": model,
        "data": {**TEXTS[task]["data"], place: str(table), "split": {"val_fraction": 0.25, "test_fraction": 0}},
        "adapter": adapter,
        "train": {"epochs": 1, "batch_size": 8, "lr": 0.01, "precision": "fp32", "device": "cpu"},
        "eval": {"report": False},
        "wandb": {"mode": "disabled"},
    }
    file = tmp_path / "texts.yaml"
    file.write_text(yaml.safe_dump(settings))
    run = trained(file)
    promised = json.loads((run / "evaluation.json").read_text())
    val = len(noted(run))
    write_sentences(table, [*sentences("falls"), *rows[::-1], ["a new one. It is new.", "new", "z"]])
    again = evaluated(run)
    assert (again["rows"], again["evaluated_on"]) == (promised["rows"], "held-out")
    for model_name in ("base", "adapted"):
        assert again[model_name] == pytest.approx(promised[model_name], abs=1e-5)

    record = json.loads((run / "rows.json").read_text())
    lost = record["val"][0]
    kept = [
        row
        for row in rows
        if not lost[3].startswith(repr(row[0])[:20]) and not lost[3].endswith(f":{rows.index(row) + 2}")
    ]
    assert len(kept) == len(rows) - 1
    write_sentences(table, kept)
    done = vu("eval", str(run))
    assert done.returncode == 0, done.stderr
    assert f"1 of {val} held-out rows of this run are gone" in done.stderr

    other = write_sentences(tmp_path / "other.csv", [*sentences("falls"), *rows])
    found = evaluated(run, "--data", str(other))
    assert (found["evaluated_on"], found["rows_trained_on"]) == ("other", len(record["train"]))
    if task.endswith("classification"):
        swapped = [[*row[:2], "ab"[row[2] == "a"]] if row not in kept else row for row in rows]
        write_sentences(table, swapped)
        done = vu("eval", str(run))
        assert done.returncode == 3 and f"1 of {val} held-out rows of this run have another" in done.stderr
        write_sentences(other, [["a new one. It is new.", "new", "z"], *rows])
        done = vu("eval", str(run), "--data", str(other))
        assert done.returncode == 3 and "'z' is none of a, b" in done.stderr


def test_rows_that_were_learned_from_are_called_so_and_never_better(tmp_path):
    table = write_sentences(tmp_path / "table.csv", sentences("stands"))
    settings = {
        "name": "texts",
        "task": "text_pairs",
        "model": str(save_encoder(tmp_path / "bert", "bert", max_position_embeddings=64)),
        "data": {"file": str(table), "split": {"val_fraction": 0}},
        "adapter": {"method": "full"},
        "train": {"epochs": 6, "batch_size": 14, "lr": 0.01, "precision": "fp32", "device": "cpu"},
        "wandb": {"mode": "disabled"},
    }
    file = tmp_path / "texts.yaml"
    file.write_text(yaml.safe_dump(settings))
    done = vu("train", "-c", str(file))
    assert done.returncode == 0 and "training rows, best epoch" in done.stdout and "held-out" not in done.stdout
    assert "28 training and 0 validation rows" in done.stderr
    (run,) = (tmp_path / "runs").glob("[!.]*")
    record = json.loads((run / "evaluation.json").read_text())
    low = record["intervals"]["recall@5"]["difference"][1]
    assert low > 0 and record["evaluated_on"] == "training", "it would be called better"
    page, card = ((run / name).read_text() for name in ("report.html", "README.md"))
    assert "Training rows: recall@5 went from" in page and "Better:" not in page
    assert "Training rows, base and adapted model" in card
    for text in (page, card):
        assert "eld-out rows" not in text.replace("28 training and 0 held-out rows", "")
    assert "28 training rows" in vu("eval", str(run)).stdout
    assert "28 training pairs" in vu("eval", "-c", str(file)).stdout
    done = vu("sweep", "-c", str(file), "--over", "train.lr=0.01", "-q")
    assert ": 28 training rows, seeds" in done.stdout and "which says nothing of others" in done.stdout
    (folder,) = (tmp_path / "runs").glob("texts-sweep-*")
    assert json.loads((folder / "sweep.json").read_text())["data"]["evaluated_on"] == "training"
    assert "held-out" not in done.stdout + (folder / "report.html").read_text()
