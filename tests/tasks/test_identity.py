"""A run holds to the base that it was trained on, to its data, and to the time that it took."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest
import yaml

from tests.models.models import save_clip
from vectoruniverse.api import load_run
from vectoruniverse.config.loading import dump_experiment
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.experiment import resume, train
from vectoruniverse.export.exporter import export_run
from vectoruniverse.models.source import ModelSource
from vectoruniverse.runs.base_record import BASE_FILE
from vectoruniverse.runs.folder import create_run
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.finished import evaluate_run, report_run
from vectoruniverse.tasks.identity import describe_base, run_experiment
from vectoruniverse.terminal import Display


@pytest.fixture(scope="module")
def write(shapes, tmp_path_factory):
    """Write an experiment file over the shapes and a CLIP of its own; keyword arguments replace sections."""
    folder = tmp_path_factory.mktemp("identity")
    save_clip(folder / "clip")

    def experiment(**sections):
        base = {
            "name": "shapes",
            "task": "image_text",
            "model": str(folder / "clip"),
            "data": {"root": str(shapes), "split": {"val_fraction": 0.25, "test_fraction": 0}},
            "adapter": {"method": "lora", "rank": 2},
            "train": {"epochs": 1, "batch_size": 12, "lr": 0.01, "precision": "fp32", "device": "cpu"},
            "eval": {"report": False},
            "wandb": {"mode": "disabled"},
        }
        file = folder / "shapes.yaml"
        file.write_text(yaml.safe_dump(base | sections), encoding="utf-8")
        return load_experiment(file)

    return experiment


def quiet():
    return Display(quiet=True)


@pytest.fixture(scope="module")
def outcome(write, tmp_path_factory):
    return train(write(), runs_dir=tmp_path_factory.mktemp("runs"), display=quiet())


@pytest.fixture
def run(outcome, tmp_path):
    """A copy of the run whose base is a copy too, so that a test may meddle with both."""
    folder = tmp_path / outcome.run.name
    shutil.copytree(outcome.run.path, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    shutil.copytree(config["model"], tmp_path / "base")
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"model": str(tmp_path / "base")}))
    return type(outcome.run)(folder)


def add_a_word(base):
    """Another tokenizer, as a careless script might leave it: the weights stay as they are."""
    file = base / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 5}))


@pytest.mark.parametrize("use", ["evaluate", "report", "resume", "load", "start from it"])
def test_whoever_reads_a_run_is_told_that_its_base_is_another_one(use, run, write, tmp_path):
    add_a_word(tmp_path / "base")
    if use == "resume":
        run.set_state("interrupted")
    uses = {
        "evaluate": lambda: evaluate_run(str(run.path), runs_dir=tmp_path, split="val", display=quiet()),
        "report": lambda: report_run(str(run.path), runs_dir=tmp_path, display=quiet()),
        "resume": lambda: resume(str(run.path), runs_dir=tmp_path, display=quiet()),
        "load": lambda: load_run(run.path, device="cpu"),
        "start from it": lambda: train(
            write(model=str(tmp_path / "base"), adapter={"method": "lora", "init_from": str(run.adapter)}),
            runs_dir=tmp_path / "new",
            display=quiet(),
        ),
    }
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json differs") as error:
        uses[use]()
    assert error.value.remedy
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("use", ["evaluate", "report", "resume", "load", "export"])
def test_whoever_reads_a_run_is_told_that_its_settings_were_edited(use, run, tmp_path):
    config = yaml.safe_load(run.config_file.read_text())
    config["adapter"]["rank"] = 7
    run.config_file.write_text(yaml.safe_dump(config))
    if use == "resume":
        run.set_state("interrupted")
    uses = {
        "evaluate": lambda: evaluate_run(str(run.path), runs_dir=tmp_path, split="val", display=quiet()),
        "report": lambda: report_run(str(run.path), runs_dir=tmp_path, display=quiet()),
        "resume": lambda: resume(str(run.path), runs_dir=tmp_path, display=quiet()),
        "load": lambda: load_run(run.path, device="cpu"),
        "export": lambda: export_run(str(run.path), "peft", out=tmp_path / "out"),
    }
    with pytest.raises(ConfigError, match=r"config\.yaml: was edited after the run was made") as error:
        uses[use]()
    assert error.value.remedy


def test_what_a_run_is_called_shows_and_where_its_data_is_may_be_edited(run, tmp_path):
    config = yaml.safe_load(run.config_file.read_text())
    config["name"], config["wandb"]["mode"], config["eval"]["report"] = "renamed", "offline", True
    config["data"]["root"] = str(tmp_path)
    run.config_file.write_text("# sorted\n" + yaml.safe_dump(config, sort_keys=True))
    assert run_experiment(run).name == "renamed"
    assert run_experiment(run, ["adapter.rank=7"]).adapter.rank == 7, "asked for on purpose"


def test_the_same_base_in_another_place_is_the_same_base(run, tmp_path, outcome):
    _, again = evaluate_run(str(run.path), runs_dir=tmp_path, split="val", display=quiet())
    assert again.adapted.metrics == pytest.approx(dict(outcome.adapted))


def test_a_run_from_before_its_base_was_recorded_still_opens(run, tmp_path):
    (run.path / BASE_FILE).unlink()
    add_a_word(tmp_path / "base")
    assert run_experiment(run).name == "shapes"


def test_a_name_on_the_hub_is_loaded_at_the_recorded_commit(write, tmp_path, monkeypatch):
    """`main` has moved since: the run's own commit is asked for, not the newest."""
    commits = {"main": "b" * 40}
    monkeypatch.setattr(
        "vectoruniverse.tasks.identity.open_source",
        lambda name, revision, **_: ModelSource(name, name, tmp_path, commits["main"]),
    )
    experiment = write(model="somebody/some-clip")
    files = {"config.yaml": dump_experiment(experiment), BASE_FILE: json.dumps(describe_base(experiment).model_dump())}
    made = create_run(tmp_path, "shapes", files)
    commits["main"] = "c" * 40
    assert run_experiment(made).revision == "b" * 40
    assert experiment.revision is None


def test_every_file_that_is_loaded_counts_and_no_other(write, tmp_path):
    folder = tmp_path / "sentences"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "elsewhere").mkdir()
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "../other"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    for name in ("config.json", "vocab.txt", "README.md", "1_Pooling/config.json", "elsewhere/config.json"):
        (folder / name).write_text(name)
    files = describe_base(write(model=str(folder))).files
    assert sorted(files) == ["1_Pooling/config.json", "config.json", "modules.json", "vocab.txt"]


def test_a_run_counts_the_time_of_all_its_processes(run, tmp_path):
    run.set_state("interrupted", seconds=1000.0, step_seconds=900.0, evaluation_seconds=50.0)
    finished = resume(str(run.path), runs_dir=tmp_path, display=quiet())
    state = run.read_state()
    assert finished is not None
    assert 1000.0 < finished.seconds < 1600.0
    assert state.state == "finished"
    assert state.seconds == finished.seconds
    assert (state.step_seconds, state.evaluation_seconds) == (900.0, 50.0), "nothing was left to train"
    assert finished.step_seconds == 0.0
    assert f"{finished.seconds:.0f} s on" in (run.path / "README.md").read_text()


@pytest.mark.parametrize("name", ["state.json", "metrics.jsonl", ".lock", "data.sha256", "config.yaml", BASE_FILE])
@pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
def test_what_is_no_file_is_told_or_replaced_when_a_run_goes_on(name, kind, run, tmp_path):
    """A FIFO would wait for ever, and a link leads to a file that is not the run's."""
    run.set_state("interrupted")
    place, elsewhere = run.path / name, tmp_path / "elsewhere"
    elsewhere.write_bytes(place.read_bytes() if place.exists() else b"")
    before = elsewhere.read_bytes()
    place.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        (place / "inside").mkdir(parents=True)
    else:
        place.symlink_to(elsewhere)
    if name == "state.json" and kind != "folder":  # a damaged state does not stop a run, and is written anew
        assert resume(str(run.path), runs_dir=tmp_path, display=quiet()) is not None
    else:
        with pytest.raises((ConfigError, DataError), match=re.escape(name)) as error:
            resume(str(run.path), runs_dir=tmp_path, display=quiet())
        assert error.value.remedy
    assert elsewhere.read_bytes() == before
