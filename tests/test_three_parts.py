"""Three parts: training rows teach, validation rows pick, and test rows, which nothing has seen, are reported."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file
from typer.testing import CliRunner

from tests.models.models import save_clip
from tests.models.text_models import save_encoder
from vectoruniverse.cli import app
from vectoruniverse.data.views import to_input
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.experiment import resume, train
from vectoruniverse.report.run_verdict import verdict_of
from vectoruniverse.report.sweep.tables import value_table
from vectoruniverse.runs.folder import Run
from vectoruniverse.sweep.grid import make_grid, parse_over
from vectoruniverse.sweep.runner import run_sweep
from vectoruniverse.tasks.experiments import load_config_of, load_experiment
from vectoruniverse.tasks.finished import evaluate_base, evaluate_run, report_run
from vectoruniverse.tasks.image_text.task import ImageTextTask
from vectoruniverse.tasks.table import setup
from vectoruniverse.tasks.text_pairs.setup import evaluate_encoders
from vectoruniverse.terminal import Display
from vectoruniverse.tracking.jsonl import read_metrics
from vectoruniverse.training.loop import Trainer

QUICK = {"epochs": 2, "batch_size": 16, "lr": 0.01, "precision": "fp32", "device": "cpu", "log_every": 1}
THREE = {"val_fraction": 0.25, "test_fraction": 0.25}
COLOURS, SHAPES, PLACES = ("red", "green", "blue"), ("circle", "square"), ("left", "right")
TASKS = ["image_text", "text_pairs", "sequence_classification", "pair_classification", "masked_lm"]
BERT = {"scratch": "bert", "vocab_size": 80, "width": 32, "layers": 1, "heads": 2, "intermediate": 64}


def quiet():
    return Display(quiet=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    bert = save_encoder(folder / "bert", "bert", max_position_embeddings=64)
    return {"image_text": str(save_clip(folder / "clip")), "text": str(bert)}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """48 sentences about shapes in two wordings, with a colour and a class of two."""
    file = tmp_path_factory.mktemp("texts") / "shapes.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["first", "second", "colour", "same", "part"])
        for i, (colour, shape, place, number) in enumerate(
            itertools.product(COLOURS, SHAPES, PLACES, ("one", "two", "the", "a"))
        ):
            part = ("train", "train", "dev", "test")[i % 4] if i >= 16 else "train"
            text = f"{number} {colour} {shape} on the {place}"
            writer.writerow([text, f"the {place} under {number} {shape} {colour}", colour, i // 2 % 2, part])
    return file


@pytest.fixture
def experiment(models, shapes, table, tmp_path):
    """Write an experiment of a task, divided in three; keyword arguments replace whole sections."""

    def write(task, split=THREE, **sections):
        words, rng = (
            "the cat sat on a mat and dog ran to big red house where it was cold".split(),
            np.random.default_rng(0),
        )
        documents = [" ".join(" ".join(rng.choice(words, 6)).capitalize() + "." for _ in range(12)) for _ in range(24)]
        corpus = tmp_path / "corpus.txt"
        corpus.write_text("\n\n".join(documents), encoding="utf-8")
        data = {
            "image_text": {"root": str(shapes)},
            "text_pairs": {"file": str(table)},
            "sequence_classification": {"file": str(table), "text": "first", "label": "colour"},
            "pair_classification": {"file": str(table), "label": "same"},
            "masked_lm": {"source": str(corpus)},
        }[task]
        from_scratch = task == "masked_lm"
        config = {
            "name": task,
            "task": task,
            "model": BERT | {"max_text_tokens": 32} if from_scratch else models.get(task, models["text"]),
            "data": data | {"split": split},
            "adapter": {"method": "full"} if from_scratch else {"method": "lora", "rank": 2},
            "train": QUICK,
            "eval": {"report": False},
            "wandb": {"mode": "disabled"},
        }
        file = tmp_path / f"{task}.yaml"
        file.write_text(yaml.safe_dump(config | sections), encoding="utf-8")
        return load_experiment(file)

    return write


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.usefixtures("blank_figures")
def test_the_test_rows_are_reported_and_the_rows_that_picked_stand_beside_them_as_optimistic(
    experiment, tmp_path, task
):
    runs = tmp_path / "runs"
    outcome = train(experiment(task, eval={"report": True}), runs_dir=runs, display=quiet())
    run, record = outcome.run, outcome.run.read_evaluation()
    names = json.loads((run.path / "rows.json").read_text())
    parts = [{row[0] for row in names[part]} for part in ("train", "val", "test")]
    assert all(parts) and not any(a & b for a, b in itertools.combinations(parts, 2))
    assert (record.split, record.evaluated_on, record.selection.split) == ("test", "held-out", "val")
    assert record.adapted == dict(outcome.adapted) and record.selection.adapted != record.adapted
    # what picked the epoch is what the loop saw
    best = [line for line in read_metrics(run.metrics_file) if line.get("epoch") == outcome.epoch][-1]
    assert record.selection.adapted[record.monitor] == pytest.approx(best[f"val/{record.monitor}"])
    assert run.read_state().best == record.adapted[record.monitor]
    # each row's outcome is of the test rows: its mean is the metric
    rows = load_file(run.path / "per_query.safetensors")[f"adapted/{record.monitor}"]
    assert len(rows) == record.rows and np.nanmean(rows) == pytest.approx(record.adapted[record.monitor], abs=1e-6)
    # evaluated again, each part by its own name, the run says the same
    again, part = {}, {None: record.adapted, "test": record.adapted, "val": record.selection.adapted}
    for split, told in part.items():
        _, again[split] = evaluate_run(run.name, runs_dir=runs, split=split, display=quiet())
        assert again[split].adapted.metrics == pytest.approx(told, abs=1e-5)
    assert again[None].split == "test" and again[None].rows_are == "test rows"
    _, trained = evaluate_run(run.name, runs_dir=runs, split="train", display=quiet())
    assert trained.evaluated_on == "training"
    said = {
        split: verdict_of(run, found, monitor=record.monitor, has_space=False).answer.detail
        for split, found in again.items()
    }
    assert "On the validation rows, which picked the epoch" in said["test"] and "optimistic" in said["val"]
    page, card = (run.path / "report.html").read_text(), (run.path / "README.md").read_text()
    assert f"{record.selection.rows} validation rows. Chosen on" in page and "Test rows. " in page
    assert "Test rows, base and adapted model" in card and "evaluated once, at the end" in card
    report_run(run.name, runs_dir=runs, display=quiet())
    assert f"{record.selection.rows} validation rows. Chosen on" in (run.path / "report.html").read_text()


class Seal:
    """Watches every forward pass: what of the test rows goes into a model before training has ended."""

    def __init__(self, tokens, pictures):
        self.tokens, self.pictures = tokens, pictures
        self.opened, self.seen, self.early = False, 0, []

    def __call__(self, module, given):
        if isinstance(module, torch.nn.Embedding) and given[0].ndim == 2:
            found = [
                row for row in given[0].tolist() if any(wanted == tuple(row[: len(wanted)]) for wanted in self.tokens)
            ]
        elif isinstance(module, torch.nn.Conv2d):
            found = [True for picture in given[0] if any(torch.equal(picture.float(), one) for one in self.pictures)]
        else:
            return
        self.seen += len(found) * self.opened
        if found and not self.opened:
            self.early.append(found)


@pytest.mark.parametrize("task", ["image_text", "text_pairs", "sequence_classification", "pair_classification"])
def test_no_vector_of_a_test_row_is_made_before_the_last_stage(experiment, tmp_path, task, monkeypatch):
    """The tokens and pixels of test rows are looked for in whatever any layer of the model is given."""
    config = experiment(task)
    shared = setup(config).share(config, quiet())
    task_of = setup(config).prepare(config, shared)
    part = task_of.task.part("test")
    inputs = [part.tokens] if task == "image_text" else getattr(part, "inputs", None) or [part.first, part.second]
    pictures = []
    if task == "image_text":
        one = task_of.task
        squares = torch.from_numpy(part.pictures.take(np.arange(len(part))))
        pictures = list(to_input(squares, one.encoder.picture.size, one._pictures.mean, one._pictures.std).float())
    task_of.release()
    seal = Seal({tuple(tokens.ids[i].tolist()) for tokens in inputs for i in range(len(tokens))}, pictures)
    handle = torch.nn.modules.module.register_module_forward_pre_hook(seal)
    fit = Trainer.fit

    def opened(trainer):
        position = fit(trainer)
        seal.opened = True
        return position

    monkeypatch.setattr(Trainer, "fit", opened)
    try:
        train(config, runs_dir=tmp_path / "runs", display=quiet(), shared=shared)
    finally:
        handle.remove()
    assert not seal.early
    assert seal.seen >= 2 * len(part), "base and adapted model read them afterwards, so the watch was awake"


@pytest.mark.parametrize("task", TASKS)
def test_the_test_part_is_opened_once_for_each_model_after_the_loop(experiment, tmp_path, task, monkeypatch):
    config = experiment(task)
    shared = setup(config).share(config, quiet())
    prepared = setup(config).prepare(config, shared)
    prepared.release()
    kind, opened = type(prepared.task), []
    evaluate, loss = kind.evaluate, kind.loss
    monkeypatch.setattr(kind, "evaluate", lambda self, split="val": opened.append(split) or evaluate(self, split))
    monkeypatch.setattr(kind, "loss", lambda self, rows, epoch: opened.append("step") or loss(self, rows, epoch))
    train(config, runs_dir=tmp_path / "runs", display=quiet(), shared=shared)
    assert opened.count("test") == 2 and "test" not in opened[: len(opened) - opened[::-1].index("step")]
    assert opened[-2:] == ["test", "test"]


@pytest.mark.parametrize("task", ["image_text", "masked_lm"])
def test_a_run_that_only_helps_to_choose_leaves_the_test_rows_sealed(experiment, tmp_path, task, monkeypatch):
    config = experiment(task, eval={"report": False, "test": False})
    kind, opened = type(setup(config).prepare(config, setup(config).share(config, quiet())).task), []
    evaluate = kind.evaluate
    monkeypatch.setattr(kind, "evaluate", lambda self, split="val": opened.append(split) or evaluate(self, split))
    run = train(config, runs_dir=tmp_path / "runs", display=quiet()).run
    record = run.read_evaluation()
    assert set(opened) == {"val"} and (record.split, record.selection) == ("val", None)
    assert "sealed: eval.test is false" in (run.path / "README.md").read_text(encoding="utf-8")
    _, again = evaluate_run(run.name, runs_dir=tmp_path / "runs", split=None, display=quiet())
    assert again.split == "val"
    _, asked = evaluate_run(run.name, runs_dir=tmp_path / "runs", split="test", display=quiet())
    assert asked.split == "test", "whoever asks for them by name opens them"


def test_a_resumed_run_opens_the_test_rows_at_its_end_and_says_what_an_uninterrupted_one_does(
    experiment, tmp_path, monkeypatch
):
    config = experiment("image_text")
    whole = train(config, runs_dir=tmp_path / "whole", display=quiet())
    loss = ImageTextTask.loss

    def cut(self, rows, epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        return loss(self, rows, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(ImageTextTask, "loss", cut)
        with pytest.raises(KeyboardInterrupt):
            train(config, runs_dir=tmp_path / "cut", display=quiet())
    resumed = resume("latest", runs_dir=tmp_path / "cut", display=quiet())
    assert resumed is not None and resumed.comparison.split == "test"
    assert dict(resumed.adapted) == pytest.approx(dict(whole.adapted), abs=1e-6)
    assert resumed.selection.adapted.metrics == pytest.approx(whole.selection.adapted.metrics, abs=1e-6)


def as_an_earlier_version_left_it(run):
    """Take from a run with two parts what only this version writes."""
    settings = yaml.safe_load(run.config_file.read_text())
    assert settings["data"]["split"].pop("test_fraction") == 0
    run.config_file.write_text(yaml.safe_dump(settings))
    for name, keys in {
        "base.json": ["settings"],
        "rows.json": ["test"],
        "evaluation.json": ["selection", "picked"],
    }.items():
        record = json.loads((run.path / name).read_text())
        for key in keys:
            del record[key]
        (run.path / name).write_text(json.dumps(record))


@pytest.mark.parametrize("task", ["image_text", "masked_lm"])
def test_a_run_of_an_earlier_version_keeps_its_two_parts_and_says_so(experiment, tmp_path, task):
    runs = tmp_path / "runs"
    outcome = train(experiment(task, split={"val_fraction": 0.25, "test_fraction": 0}), runs_dir=runs, display=quiet())
    assert (outcome.comparison.split, outcome.selection) == ("val", None)
    as_an_earlier_version_left_it(outcome.run)
    run, comparison = evaluate_run("latest", runs_dir=runs, split=None, display=quiet())
    assert (comparison.split, comparison.rows) == ("val", outcome.comparison.rows)
    assert comparison.adapted.metrics == pytest.approx(dict(outcome.adapted), abs=1e-5)
    verdict = verdict_of(run, comparison, monitor=outcome.monitor, has_space=False)
    assert "no test rows are reported" in verdict.answer.detail and "optimistic" in verdict.answer.detail
    with pytest.raises(ConfigError, match="no test rows"):
        evaluate_run("latest", runs_dir=runs, split="test", display=quiet())
    (run.path / "per_query.safetensors").unlink()  # as if it had been cut off at its very end
    run.set_state("interrupted")
    resumed = resume("latest", runs_dir=runs, display=quiet())
    assert resumed.comparison.split == "val"
    assert dict(resumed.adapted) == pytest.approx(dict(outcome.adapted), abs=1e-6)


def test_where_no_epoch_beats_the_base_it_is_kept_and_that_is_said_of_the_test_rows(experiment, tmp_path, monkeypatch):
    evaluate = ImageTextTask.evaluate

    def graded(task, split="val"):
        found = evaluate(task, split)
        moved = any(float(p.detach().abs().max()) for name, p in task.trained().items() if "lora_B" in name)
        return replace(found, metrics={**found.metrics, "recall@5": 0.2 if moved else 0.3})

    monkeypatch.setattr(ImageTextTask, "evaluate", graded)
    outcome = train(experiment("image_text"), runs_dir=tmp_path / "runs", display=quiet())
    assert (outcome.epoch, outcome.comparison.split) == (0, "test")
    assert dict(outcome.adapted) == pytest.approx(dict(outcome.base), abs=1e-6)
    found = verdict_of(outcome.run, outcome.comparison, monitor="recall@5", has_space=False).answer
    assert found.headline == "No epoch beat the base, so the base is kept: the adapter is the untrained one"


def test_an_experiment_s_base_is_evaluated_on_the_test_rows_unless_another_part_is_named(experiment):
    config = experiment("text_pairs")
    split, found = evaluate_base(config, split=None, display=quiet())
    assert (split, found.rows) == ("test", 12)
    assert evaluate_base(config, split="val", display=quiet())[0] == "val"
    with pytest.raises(ConfigError, match="no test rows"):
        evaluate_base(experiment("text_pairs", split={"test_fraction": 0}), split="test", display=quiet())
    sealed = {"report": False, "test": False}
    assert evaluate_base(experiment("image_text", eval=sealed), split=None, display=quiet())[0] == "val"
    assert evaluate_encoders(experiment("text_pairs", eval=sealed), split=None, display=quiet())[0] == "val"


MARKS = ("Training", "train", "dev", "test")


@pytest.fixture
def marked(experiment, shapes, tmp_path):
    """Write an experiment whose table says in column ``part`` which row is in which part."""
    root = tmp_path / "marked"
    shutil.copytree(shapes, root)
    with (shapes / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    documents = tmp_path / "documents.csv"

    def write(task, marks=MARKS, **split):
        repeated = list(itertools.islice(itertools.cycle(marks), len(rows)))
        tables = {
            root / "metadata.csv": [[*header, "part"], *([*row, m] for row, m in zip(rows, repeated, strict=True))],
            documents: [["text", "part"], *([f"The cat sat on {i} mats. It ran.", m] for i, m in enumerate(repeated))],
        }
        for file, cells in tables.items():
            with file.open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows(cells)
        config = experiment(task, split={"column": "part", **split})
        place = {"image_text": {"root": str(root)}, "masked_lm": {"source": str(documents), "column": "text"}}
        return config.model_copy(update={"data": config.data.model_copy(update=place.get(task, {}))})

    return write


@pytest.mark.parametrize("task", TASKS)
def test_a_column_says_which_rows_are_which_and_all_three_are_used(marked, tmp_path, task):
    config, (train_rows, held_out) = marked(task), (16, 8) if task in ("image_text", "masked_lm") else (32, 8)
    outcome = train(config, runs_dir=tmp_path / "runs", display=quiet())
    rows = json.loads((outcome.run.path / "rows.json").read_text())
    assert [len(rows[part]) for part in ("train", "val", "test")] == [train_rows, held_out, held_out]
    assert rows["others"] == 0 and outcome.comparison.split == "test"
    assert "as column `part` says" in (outcome.run.path / "README.md").read_text()
    _, again = evaluate_run("latest", runs_dir=tmp_path / "runs", split=None, display=quiet())
    assert again.adapted.metrics == pytest.approx(dict(outcome.adapted), abs=1e-5)
    two = marked(task, test_fraction=0.0)
    counts = setup(two).share(two, quiet()).data.counts()
    assert counts == {"training": train_rows, "validation": held_out, "set aside": held_out}


@pytest.mark.parametrize("task", ["image_text", "masked_lm"])
def test_validation_rows_that_a_column_does_not_mark_are_drawn_from_its_training_rows(marked, task):
    only_test = marked(task, ("train", "train", "train", "test"))
    data = setup(only_test).share(only_test, quiet()).data
    assert [len(part) for part in data.split] == [20, 4, 8] and data.left_out == 0
    assert {data.rows[i].split for i in (*data.split.train, *data.split.val)} == {"train"}
    two = marked(task, ("train", "train", "train", "test"), test_fraction=0.0)
    assert [len(part) for part in setup(two).share(two, quiet()).data.split] == [24, 8, 0]
    one = marked(task, ("train",))
    with pytest.raises(DataError, match="marks no row as val or test"):
        setup(one).share(one, quiet())


def test_a_picture_or_a_document_that_a_column_puts_in_two_parts_is_told(marked, monkeypatch):
    told = []
    monkeypatch.setattr(Display, "warn", lambda self, words: told.append(words))
    config = marked("image_text", ("train", "dev"), group_by="Channel")
    setup(config).share(config, quiet())
    assert told == [
        "16 validation rows have a picture or Channel that a training row has too",
        "column part marks no test rows: the rows that pick the epoch are also reported",
    ]
    told.clear()
    config = marked("masked_lm")
    file = Path(config.data.source)
    file.write_text(file.read_text().replace("on 3 mats", "on 0 mats"), encoding="utf-8")
    setup(config).share(config, quiet())
    assert told == ["1 validation and test rows have a text that a training row has too"]


def test_a_split_column_that_is_not_there_is_told(marked, experiment):
    for task in ("image_text", "masked_lm"):
        config = marked(task, column="parts")
        with pytest.raises(ConfigError, match="there is no column 'parts'") as caught:
            setup(config).share(config, quiet())
        assert caught.value.key == "data.split.column" and "or null" in str(caught.value.remedy)
    config = experiment("masked_lm", split={"column": "part"})
    with pytest.raises(ConfigError, match=r"corpus\.txt is no table and has no columns") as caught:
        setup(config).share(config, quiet())
    assert caught.value.key == "data.split.column"


@pytest.mark.parametrize("task", TASKS)
def test_over_all_folds_each_row_is_a_test_row_once_and_what_belongs_together_stays_so(experiment, task):
    datas = []
    for fold in range(3):
        config = experiment(task, split={"folds": 3, "fold": fold})
        datas.append(setup(config).share(config, quiet()).data)
    rows = datas[0].named_rows()
    assert sorted(i for data in datas for i in data.split.test) == list(range(len(rows)))
    for fold, data in enumerate(datas):
        assert f"fold {fold + 1} of 3" in data.division()
        assert sorted(i for part in data.split for i in part) == list(range(len(rows)))
        assert len(data.split.test) == pytest.approx(len(rows) / 3, abs=1)
        groups = data.groups or [row.content for row in rows]
        assert len({group for part in data.split for group in {groups[i] for i in part}}) == sum(
            len({groups[i] for i in part}) for part in data.split
        )
    assert len({data.fingerprint() for data in datas}) == 3


def test_a_run_of_one_fold_says_which_and_is_the_same_when_it_is_read_again(experiment, tmp_path):
    runs = tmp_path / "runs"
    outcome = train(experiment("text_pairs", split={"folds": 3, "fold": 1}), runs_dir=runs, display=quiet())
    assert (outcome.comparison.split, outcome.comparison.rows) == ("test", 16)
    assert "seed 42, fold 2 of 3, rows that share any text together" in (outcome.run.path / "README.md").read_text()
    split = load_config_of(outcome.run).data.split
    assert (split.folds, split.fold, split.test_fraction) == (3, 1, 1 / 3)
    _, again = evaluate_run("latest", runs_dir=runs, split=None, display=quiet())
    assert again.adapted.metrics == pytest.approx(dict(outcome.adapted), abs=1e-5)


@pytest.mark.parametrize(
    ("task", "split", "said"),
    [
        ("image_text", {"folds": 3, "fold": 3}, "data.split.fold: must be below folds, 3, got 3"),
        ("masked_lm", {"fold": 1}, "data.split.fold: needs folds, the number of them, got 1"),
        ("image_text", {"folds": 5, "test_fraction": 0.15}, "data.split.test_fraction: 5 folds make it 0.2; remove it"),
        ("text_pairs", {"folds": 5, "test_fraction": 0}, "data.split.test_fraction: 5 folds make it 0.2; remove it"),
        ("image_text", {"folds": 2, "val_fraction": 0.5}, "val_fraction and one of 2 folds leave no training rows"),
        ("text_pairs", {"folds": 2, "val_fraction": 0}, "data.split.folds: need validation rows"),
        ("text_pairs", {"folds": 2, "column": "part"}, "data.split.folds: the column says which rows are the test"),
    ],
)
def test_folds_that_contradict_the_other_keys_are_refused(experiment, task, split, said):
    with pytest.raises(ConfigError) as caught:
        experiment(task, split=split)
    assert said in str(caught.value)


def test_the_command_line_names_the_rows(experiment, tmp_path):
    runs = tmp_path / "runs"
    train(experiment("image_text"), runs_dir=runs, display=quiet())

    def told(*words):
        return CliRunner().invoke(app, ["eval", "latest", "--runs-dir", str(runs), *words])

    tested, picked = told().stdout, told("--split", "val").stdout
    assert "8 test rows" in tested and "which picked the epoch" in tested
    assert "8 held-out rows" in picked and "These rows picked the epoch, so this is optimistic" in picked
    assert json.loads(told("--json", "--quiet").stdout)["split"] == "test"
    refused = told("--split", "dev")
    assert refused.exit_code == 2 and "none of test, val and train" in refused.stderr


def test_a_sweep_compares_its_cells_on_the_test_rows(experiment, tmp_path):
    experiment("image_text")
    grid = make_grid(str(tmp_path / "image_text.yaml"), ["train.epochs=1"], [parse_over("adapter.rank=1,2")], [0])
    record = run_sweep(grid, runs_dir=tmp_path / "runs", out=None, display=quiet()).record
    assert (record.state, record.data.split, record.data.rows, record.rows_are) == ("finished", "test", 8, "test")
    assert record.statistics.queries > 0


def test_a_sweep_that_leaves_the_test_rows_sealed_opens_them_nowhere(experiment, tmp_path, monkeypatch):
    experiment("image_text", eval={"report": False, "test": False})
    opened, evaluate = [], ImageTextTask.evaluate
    monkeypatch.setattr(ImageTextTask, "evaluate", lambda self, s="val": opened.append(s) or evaluate(self, s))
    grid = make_grid(str(tmp_path / "image_text.yaml"), [], [parse_over("adapter.rank=1,2")], [0], full=True)
    record = run_sweep(grid, runs_dir=tmp_path / "runs", out=None, display=quiet()).record
    assert set(opened) == {"val"} and (record.state, record.data.split) == ("finished", "val")
    assert [cut.minus_trained is not None for cut in record.adapters[0].truncated] == [True, True]
    assert record.rivals is not None, "rivals stand beside validation rows, too, where those are reported"
    assert record.statistics.chosen_on is None and all(value.val is None for value in record.statistics.values)


def test_validation_rows_choose_the_best_of_a_sweep_and_the_test_rows_only_tell_of_it(experiment, tmp_path):
    experiment("image_text")
    grid = make_grid(str(tmp_path / "image_text.yaml"), ["train.epochs=1"], [parse_over("adapter.rank=1,2,4")], [0, 1])
    outcome = run_sweep(grid, runs_dir=tmp_path / "runs", out=None, display=quiet())
    found, cells = outcome.record.statistics, outcome.record.cells
    metric = found.metric
    on_val = {}
    for cell in cells:
        selection = Run(tmp_path / "runs" / cell.run).read_evaluation().selection
        assert (selection.split, cell.val) == ("val", selection.adapted[metric])
        on_val.setdefault(cell.values["adapter.rank"], []).append(cell.val)
    means = {rank: np.mean(seeds) for rank, seeds in on_val.items()}
    assert {one.values["adapter.rank"]: one.val for one in found.values} == pytest.approx(means)
    assert found.best["adapter.rank"] == max(sorted(means), key=means.get) and found.chosen_on == "val"
    assert "other rows chose the best" in found.answer
    table = value_table(outcome.record)
    assert "on val, which chose" in table.columns


def test_shares_that_leave_nothing_to_train_or_a_test_that_nothing_was_picked_for_are_refused(experiment):
    split = experiment("text_pairs", split={"val_fraction": 0}).data.split
    assert (split.holds_out, split.test_fraction) == (False, 0.0)
    with pytest.raises(ConfigError, match="leave no training rows"):
        experiment("image_text", split={"val_fraction": 0.5, "test_fraction": 0.5})
    with pytest.raises(ConfigError, match="needs validation rows"):
        experiment("text_pairs", split={"val_fraction": 0, "test_fraction": 0.2})
