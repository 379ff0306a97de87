"""Whole runs of the text tasks, through the same functions and commands that a person uses."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertForPreTraining, BertModel
from typer.testing import CliRunner

from tests.models.text_models import save_encoder
from tests.tasks.meta import on_meta
from vectoruniverse import load_classifier
from vectoruniverse.cli import app
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.evaluation.runs import compare_runs
from vectoruniverse.experiment import resume, train
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.finished import evaluate_run, report_run
from vectoruniverse.tasks.sharing import sharing_key
from vectoruniverse.tasks.table import evaluated_base, setup
from vectoruniverse.terminal import Display
from vectoruniverse.training.interruption import InterruptedTraining
from vectoruniverse.training.observer import RunObserver

ROOT = Path(__file__).resolve().parents[1]
COLOURS, SHAPES, PLACES = ("red", "green", "blue"), ("circle", "square"), ("left", "right")
KOREAN = {"red": "빨간", "circle": "원", "left": "왼쪽", "blue": "파란"}
QUICK = {"epochs": 2, "batch_size": 8, "lr": 0.01, "precision": "fp32", "device": "cpu", "log_every": 1}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("models") / "bert", "bert", max_position_embeddings=64)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Sentences about shapes, their Korean halves and their colours."""
    file = tmp_path_factory.mktemp("texts") / "shapes.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["first", "second", "colour", "same"])
        for i, (colour, shape, place, number) in enumerate(
            itertools.product(COLOURS, SHAPES, PLACES, ("one", "two", "the", "a"))
        ):
            text = f"{number} {colour} {shape} on the {place}"
            other = " ".join(KOREAN.get(word, word) for word in text.split())
            writer.writerow([text, other, colour, i % 2])
    return file


@pytest.fixture
def experiment(bert, table, tmp_path):
    def write(task, **sections):
        data = {
            "text_pairs": {"file": str(table)},
            "sequence_classification": {"file": str(table), "text": "first", "label": "colour"},
            "pair_classification": {"file": str(table), "label": "same"},
        }
        base = {
            "name": task,
            "task": task,
            "model": str(bert),
            "data": data[task] | {"split": {"val_fraction": 0.25, "test_fraction": 0}},
            "adapter": {"method": "lora", "rank": 2},
            "train": QUICK,
            "eval": {"keep": "last", "report": False},
            "wandb": {"mode": "disabled"},
        }
        file = tmp_path / f"{task}.yaml"
        file.write_text(yaml.safe_dump(base | sections, allow_unicode=True), encoding="utf-8")
        return load_experiment(file)

    return write


def quiet():
    return Display(quiet=True)


METHODS = {
    "lora": {"method": "lora", "rank": 2},
    "prefix": {"method": "prefix", "prefix_length": 3},
    "full": {"method": "full"},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", ["text_pairs", "sequence_classification", "pair_classification"])
def test_every_task_trains_with_every_method_and_is_evaluated_again_to_the_same_numbers(
    experiment, tmp_path, task, method
):
    runs = tmp_path / "runs"
    config = experiment(task, adapter=METHODS[method], eval={"keep": "last"})
    outcome = train(config, runs_dir=runs, display=quiet())
    assert outcome.run.read_state().state == "finished"
    assert (outcome.run.path / "report.html").is_file()
    again, comparison = evaluate_run(outcome.run.name, runs_dir=runs, split="val", display=quiet())
    assert again.name == outcome.run.name
    assert comparison.adapted.metrics == pytest.approx(dict(outcome.adapted), abs=1e-6)
    assert comparison.base.metrics == pytest.approx(dict(outcome.base), abs=1e-6)
    assert dict(outcome.adapted) != dict(outcome.base), "something was learned"


@pytest.mark.parametrize("task", ["text_pairs", "sequence_classification", "pair_classification"])
def test_no_step_waits_for_a_number_of_the_device(experiment, task, monkeypatch):
    penalty = {} if task == "text_pairs" else {"loss": {"l2": 1e-3}}
    config = experiment(task, **penalty)
    learned = setup(config).prepare(config, setup(config).share(config, quiet())).task
    for module in learned.modules():
        if isinstance(module, BertModel):
            module.set_attn_implementation("sdpa")  # as on a GPU
    with on_meta(learned, monkeypatch):
        learned.loss(np.arange(8), 0).total.backward()
    assert all(p.grad.is_meta for p in learned.trained().values())


def test_a_run_that_may_not_be_written_into_is_evaluated(experiment, tmp_path, monkeypatch):
    run = train(experiment("text_pairs"), runs_dir=tmp_path / "runs", display=quiet()).run
    before = {file: file.stat().st_mtime_ns for file in run.path.rglob("*")}
    monkeypatch.setattr(Run, "lock", lambda *_, **__: pytest.fail("nothing is written"))
    for part in ("val", "train"):
        evaluate_run(run.name, runs_dir=tmp_path / "runs", split=part, display=quiet())
    assert {file: file.stat().st_mtime_ns for file in run.path.rglob("*")} == before


def test_what_is_shared_is_the_base_again_after_a_run(experiment, tmp_path):
    for task, method in itertools.product(["text_pairs", "sequence_classification"], METHODS):
        config = experiment(task, adapter=METHODS[method], eval={"report": False})
        shared = setup(config).share(config, quiet())
        before = dict(evaluated_base(config, shared, "val").metrics)
        train(config, runs_dir=tmp_path / "runs", display=quiet(), shared=shared)
        shared.evaluations.clear()
        assert evaluated_base(config, shared, "val").metrics == before


def test_the_note_on_pair_classification_is_reproduced(tmp_path):
    """Five rows, thirty epochs, two BERTs from random weights: predictions equal labels, the loss falls below 0.05."""
    file = ROOT / "data" / "question_answer.csv"
    config = load_experiment(
        "pair_classification.yaml", ["wandb.mode=disabled", "train.precision=fp32", f"data.file={file}"]
    )
    outcome = train(config, runs_dir=tmp_path, display=quiet())
    assert outcome.base["loss"] == pytest.approx(0.7, abs=0.15)
    assert outcome.adapted["loss"] < 0.05
    classifier = load_classifier(outcome.run.path, precision="fp32")
    said = classifier.predict_table(ROOT / "data" / "question_answer.csv", quiet())
    assert said.classes() == ["1", "1", "0", "0", "1"]


def test_predict_writes_a_table_of_classes_and_probabilities(experiment, table, tmp_path):
    runs = tmp_path / "runs"
    outcome = train(experiment("sequence_classification", train=QUICK | {"epochs": 6}), runs_dir=runs, display=quiet())
    told = CliRunner().invoke(app, ["predict", outcome.run.name, "--input", str(table), "--runs-dir", str(runs)])
    assert told.exit_code == 0, told.output
    rows = list(csv.DictReader(io.StringIO(told.stdout)))
    assert len(rows) == 48
    for row in rows:
        shares = {name: float(row[f"p({name})"]) for name in sorted(COLOURS)}
        assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)
        assert row["prediction"] == max(shares, key=lambda name: shares[name])
    texts = [row["first"] for row in rows]  # the column as the table calls it
    shares = load_classifier(outcome.run.path).predict(texts[:5])
    np.testing.assert_allclose(shares[:, 0], [float(row["p(blue)"]) for row in rows[:5]], atol=1e-5)
    out = tmp_path / "said.csv"
    told = CliRunner().invoke(
        app, ["predict", outcome.run.name, "-i", str(table), "--out", str(out), "--runs-dir", str(runs)]
    )
    assert told.exit_code == 0
    assert "48 predictions" in told.stdout
    assert len(out.read_text(encoding="utf-8").splitlines()) == 49


def test_predict_tells_what_is_wrong(experiment, table, tmp_path):
    runs = tmp_path / "runs"
    pairs = train(experiment("text_pairs"), runs_dir=runs, display=quiet())
    with pytest.raises(ConfigError, match="no classes to predict"):
        load_classifier(pairs.run.path)
    outcome = train(experiment("sequence_classification"), runs_dir=runs, display=quiet())
    other = tmp_path / "other.csv"
    other.write_text("title\nx\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="first"):
        load_classifier(outcome.run.path).predict_table(other, quiet())
    with pytest.raises(TypeError, match="1 sequence of texts"):
        load_classifier(outcome.run.path).predict(["a"], ["b"])


def test_three_methods_are_compared_with_intervals_of_accuracy_and_f1(experiment, tmp_path):
    runs = tmp_path / "runs"
    made = [
        train(experiment("sequence_classification", name=method, adapter=adapter), runs_dir=runs, display=quiet())
        for method, adapter in METHODS.items()
    ]
    told = CliRunner().invoke(app, ["compare", *(one.run.name for one in made), "--runs-dir", str(runs), "--json"])
    assert told.exit_code == 0, told.output
    record = json.loads(told.stdout)
    for metric in ("accuracy", "macro_f1"):
        for one in made:
            value, low, high = record["metrics"][metric][one.run.name]
            assert low <= value <= high
        for one in made[1:]:
            estimate, low, high = record["differences"][one.run.name][metric]
            assert estimate == pytest.approx(one.adapted[metric] - made[0].adapted[metric], abs=1e-6)
            assert low <= estimate <= high
    parameters = [run["trained_parameters"] for run in record["runs"]]
    assert parameters[2] > parameters[0] > 0 and parameters[1] > 0
    assert all(run["peak_memory_bytes"] > 0 for run in record["runs"])


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_text_run_goes_on_to_the_same_bits(experiment, tmp_path, monkeypatch, method):
    config = experiment("sequence_classification", adapter=METHODS[method])
    whole = train(config, runs_dir=tmp_path / "whole", display=quiet())
    with monkeypatch.context() as patched:
        steps = itertools.count(1)
        patched.setattr(RunObserver, "interrupted", lambda observer: next(steps) >= 3)
        with pytest.raises(InterruptedTraining):
            train(config, runs_dir=tmp_path / "parts", display=quiet())
    outcome = resume("latest", runs_dir=tmp_path / "parts", display=quiet())
    assert outcome is not None
    files = sorted(path.relative_to(whole.run.adapter) for path in whole.run.adapter.rglob("*.safetensors"))
    assert files
    for file in files:
        expected, found = load_file(whole.run.adapter / file), load_file(outcome.run.adapter / file)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected), file


def test_encoders_are_compared_on_one_table(experiment, bert, table, tmp_path):
    file = tmp_path / "pairs.yaml"
    config = experiment("text_pairs").model_dump(mode="json")
    config["beside"] = [{"model": str(bert), "pooling": "cls"}, {"model": str(bert), "random_weights": True}]
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    page = tmp_path / "page" / "encoders.html"
    told = CliRunner().invoke(app, ["eval", "--config", str(file), "--out", str(page), "--json"])
    assert told.exit_code == 0, told.output
    record = json.loads(told.stdout)
    assert set(record["encoders"]) == {"bert", "bert, cls", "bert, random weights"}
    for found in record["encoders"].values():
        assert {"pair_cosine_clipped", "row_uniformity", "column_uniformity", "recall@1", "effective_rank"} <= set(
            found
        )
        assert found["uniformity_chance"] == pytest.approx(1 / record["rows"])
    assert "bert, cls" in page.read_text(encoding="utf-8")


def test_columns_of_the_note_work(bert, tmp_path):
    file = tmp_path / "questions.csv"
    rows = [
        f"빨간 원 {n},파란 원 {n}" for n in ("one", "two", "left", "right", "a", "the", "on", "square", "red", "blue")
    ]
    rows += [row.replace("원", "circle") for row in rows]
    file.write_text("\n".join(["질문_1,질문_2", *rows]), encoding="utf-8-sig")
    config = {
        "name": "questions",
        "task": "text_pairs",
        "model": str(bert),
        "data": {"file": str(file), "first": "질문_1", "second": "질문_2"},
        "train": QUICK,
    }
    yaml_file = tmp_path / "questions.yaml"
    yaml_file.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    told = CliRunner().invoke(app, ["eval", "--config", str(yaml_file), "--quiet"])
    assert told.exit_code == 0, told.output
    assert "recall@5" in told.stdout


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"text": "missing"}, "missing"),
        ({"label": "nothing"}, "nothing"),
        ({"text": "colour", "label": "colour"}, "colour"),
    ],
)
def test_wrong_columns_are_named(experiment, table, tmp_path, data, said):
    config = experiment("sequence_classification", data={"file": str(table), "text": "first", "label": "colour"} | data)
    with pytest.raises(ConfigError, match=said):
        train(config, runs_dir=tmp_path / "runs", display=quiet())


def test_one_class_only_and_an_empty_label_are_refused(experiment, tmp_path):
    file = tmp_path / "one.csv"
    file.write_text("first,colour\n" + "".join(f"text {i},red\n" for i in range(9)), encoding="utf-8")
    config = experiment("sequence_classification", data={"file": str(file), "text": "first", "label": "colour"})
    with pytest.raises(DataError, match="class"):
        train(config, runs_dir=tmp_path / "runs", display=quiet())


def test_over_long_texts_are_counted_and_told(experiment, tmp_path):
    file = tmp_path / "long.csv"
    texts = ["red " * 100, *(f"{colour} {place}" for colour in COLOURS for place in (*PLACES, *SHAPES))]
    file.write_text("first,second\n" + "".join(f"{text},blue {i}\n" for i, text in enumerate(texts)), encoding="utf-8")
    stream = io.StringIO()
    config = experiment("text_pairs", data={"file": str(file), "split": {"val_fraction": 0.25, "test_fraction": 0}})
    train(config, runs_dir=tmp_path / "runs", display=Display(Console(file=stream, width=200)))
    assert "1 of 13 first texts are longer than 64 tokens" in stream.getvalue()


def test_bert_is_pretrained_on_documents(tmp_path):
    config = pretraining(tmp_path, tensorboard=True)
    outcome = train(config, runs_dir=tmp_path / "runs", display=quiet())
    assert outcome.adapted["mlm_loss"] < outcome.base["mlm_loss"]
    assert outcome.base["mlm_loss"] == pytest.approx(np.log(80), rel=0.25)
    assert {"nsp_loss", "nsp_accuracy", "perplexity", "unigram_entropy"} <= set(outcome.adapted)
    assert list((outcome.run.path / "tensorboard").glob("events.*"))
    model = BertForPreTraining.from_pretrained(outcome.run.adapter)
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(outcome.run.adapter))
    _, comparison = evaluate_run(outcome.run.name, runs_dir=tmp_path / "runs", split="val", display=quiet())
    assert comparison.adapted.metrics["mlm_loss"] == pytest.approx(outcome.adapted["mlm_loss"], abs=1e-5)


def test_the_learning_rate_of_text_tasks_can_be_swept(experiment, tmp_path):
    config = tmp_path / "sequence_classification.yaml"
    experiment("sequence_classification")
    told = CliRunner().invoke(
        app,
        ["sweep-rank", "-c", str(config), "--ranks", "1,2", "--runs-dir", str(tmp_path / "runs"), "--quiet"],
    )
    assert told.exit_code == 0, told.output
    (folder,) = (tmp_path / "runs").glob("*-sweep-*")
    record = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert [cell["state"] for cell in record["cells"]] == ["finished", "finished"]
    assert record["metric"] == "accuracy"


def test_report_is_written_again(experiment, tmp_path):
    config = experiment("sequence_classification", eval={"keep": "last"})
    outcome = train(config, runs_dir=tmp_path / "runs", display=quiet())
    first = (outcome.run.path / "report.html").read_text(encoding="utf-8")
    (outcome.run.path / "report.html").unlink()
    page = report_run(outcome.run.name, runs_dir=tmp_path / "runs", display=quiet())
    text = page.read_text(encoding="utf-8")
    assert "Which class is taken for which" in text
    assert "collapsed" not in text, "a classifier's vectors may be narrow"
    assert len(text) > 0.8 * len(first)


def test_finished_runs_are_not_run_again(experiment, tmp_path):
    outcome = train(experiment("text_pairs"), runs_dir=tmp_path / "runs", display=quiet())
    assert resume(outcome.run.name, runs_dir=tmp_path / "runs", display=quiet()) is None
    (summary,) = list_runs(tmp_path / "runs")
    assert summary.state == "finished"
    assert isinstance(summary.run, Run)
    assert load_file(outcome.run.adapter / "adapter_model.safetensors")


def test_each_seed_of_a_sweep_starts_from_a_head_of_its_own(experiment, tmp_path):
    """A cell gives what a run alone gives, from epoch 0 on: an untrained head is drawn from the seed."""
    experiment("sequence_classification")
    config = tmp_path / "sequence_classification.yaml"
    told = CliRunner().invoke(
        app,
        [
            "sweep-rank",
            "-c",
            str(config),
            "--ranks",
            "2",
            "--seeds",
            "0,1",
            "--lrs",
            "fixed",
            "--runs-dir",
            str(tmp_path / "swept"),
            "-q",
        ],
    )
    assert told.exit_code == 0, told.output
    for seed in (0, 1):
        (cell,) = (tmp_path / "swept").glob(f"*seed{seed}*")
        alone = train(load_experiment(config, [f"seed={seed}"]), runs_dir=tmp_path / "alone", display=quiet())
        record = Run(cell).read_evaluation()
        assert record.base == dict(alone.base)
        assert record.adapted == dict(alone.adapted)


@pytest.mark.parametrize("task", ["text_pairs", "sequence_classification"])
def test_runs_share_only_what_is_the_same_for_them(experiment, task):
    """A prefix leaves texts fewer positions, so its length decides where they are cut."""
    lora, short, long = (
        sharing_key(experiment(task, adapter=adapter))
        for adapter in (METHODS["lora"], METHODS["prefix"], METHODS["prefix"] | {"prefix_length": 9})
    )
    assert len({lora, short, long}) == 3
    same = sharing_key(experiment(task, adapter=METHODS["lora"] | {"rank": 4}))
    assert same == lora
    first, second = (sharing_key(experiment(task, seed=seed)) for seed in (0, 1))
    assert (first == second) == (task == "text_pairs"), "a head is drawn from the seed, a checkpoint is not"


def test_a_report_written_again_names_the_base_and_not_where_the_run_lies(experiment, bert, tmp_path):
    for task in ("text_pairs", "sequence_classification"):
        config = experiment(task, adapter=METHODS["full"])
        outcome = train(config, runs_dir=tmp_path / "runs", display=quiet())
        page = report_run(outcome.run.name, runs_dir=tmp_path / "runs", display=quiet())
        assert f"{bert}, mean pooling" in page.read_text(encoding="utf-8")


def pretraining(tmp_path, **sections):
    words = "the cat sat on a mat and dog ran to big red house where it was so very cold that nobody came".split()
    rng = np.random.default_rng(0)
    documents = [" ".join(" ".join(rng.choice(words, 6)).capitalize() + "." for _ in range(20)) for _ in range(40)]
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(documents), encoding="utf-8")
    sizes = {"vocab_size": 80, "width": 32, "layers": 1, "heads": 2, "intermediate": 64, "max_text_tokens": 32}
    config = {
        "name": "tiny_bert",
        "task": "masked_lm",
        "model": {"scratch": "bert", **sizes},
        "data": {"source": str(corpus), "split": {"val_fraction": 0.2, "test_fraction": 0}},
        "adapter": {"method": "full"},
        "train": QUICK | {"epochs": 3},
        "wandb": {"mode": "disabled"},
    }
    file = tmp_path / "tiny_bert.yaml"
    file.write_text(yaml.safe_dump(config | sections), encoding="utf-8")
    return load_experiment(file)


def test_pretraining_runs_are_compared_row_by_row(tmp_path):
    runs = [
        train(
            pretraining(tmp_path, name=f"rate{i}", train=QUICK | {"lr": lr}),
            runs_dir=tmp_path / "runs",
            display=quiet(),
        )
        for i, lr in enumerate((0.001, 0.01))
    ]
    record = compare_runs([one.run.name for one in runs], runs_dir=tmp_path / "runs")
    assert not record["no_differences"]
    estimate, low, high = record["differences"][runs[1].run.name]["mlm_loss"]
    assert estimate == pytest.approx(runs[1].adapted["mlm_loss"] - runs[0].adapted["mlm_loss"], abs=1e-5)
    assert low <= estimate <= high
    rows = load_file(runs[0].run.path / "per_query.safetensors")
    assert len(rows["drawn"]) == len(rows["adapted/mlm_loss"]) == runs[0].run.read_evaluation().rows > 8


def test_rows_of_a_document_are_drawn_together(tmp_path):
    outcome = train(pretraining(tmp_path), runs_dir=tmp_path / "runs", display=quiet())
    drawn = load_file(outcome.run.path / "per_query.safetensors")["drawn"]
    assert len(set(drawn.tolist())) == 8 < len(drawn), "a fifth of 40 documents, of several rows each"
    record = outcome.run.read_evaluation()
    assert record.intervals_drawn_by == "document" and record.rows == len(drawn)
    stream = io.StringIO()
    told = Display(Console(file=stream, width=200))
    name, corpus = outcome.run.name, str(tmp_path / "corpus.txt")
    evaluate_run(name, runs_dir=tmp_path / "runs", split="val", display=told, place=corpus)
    assert "the run learned from 32 of these 40 rows" in stream.getvalue(), "documents of documents"


def test_pretraining_goes_on_with_lora_from_a_saved_bert(tmp_path):
    first = train(pretraining(tmp_path), runs_dir=tmp_path / "runs", display=quiet())
    config = pretraining(
        tmp_path,
        name="lora",
        model=str(first.run.adapter),
        adapter={"method": "lora", "rank": 2},
        eval={"keep": "last"},
    )
    outcome = train(config, runs_dir=tmp_path / "runs", display=quiet())
    assert outcome.base["mlm_loss"] == pytest.approx(first.adapted["mlm_loss"], rel=0.05)
    assert outcome.adapted["mlm_loss"] != outcome.base["mlm_loss"]
    _, again = evaluate_run(outcome.run.name, runs_dir=tmp_path / "runs", split="val", display=quiet())
    assert again.adapted.metrics["mlm_loss"] == pytest.approx(outcome.adapted["mlm_loss"], abs=1e-5)


@pytest.mark.parametrize("together", [["second"], ["colour"]])
def test_which_texts_hold_rows_together_is_told_by_role(experiment, table, tmp_path, together):
    data = {"file": str(table), "split": {"val_fraction": 0.25, "test_fraction": 0, "together": together}}
    if together == ["colour"]:
        with pytest.raises(ConfigError, match="together"):
            experiment("text_pairs", data=data)
        return
    train(experiment("text_pairs", data=data), runs_dir=tmp_path / "runs", display=quiet())
