"""The command line as a person meets it: its output and its exit code."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.encoders.models import save_clip
from vectoruniverse.cli import app

CHECKOUT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def vu(*arguments: str, cwd: Path | None = None) -> Done:
    """The command in this process, which spares each call the seconds of importing torch."""
    with contextlib.chdir(cwd or Path.cwd()):
        result = CliRunner(env={"COLUMNS": "120"}).invoke(app, list(arguments), prog_name="vu")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def config(shapes, clip, tmp_path):
    settings = {
        "name": "shapes",
        "task": "image_text",
        "model": str(clip),
        "data": {"root": str(shapes), "split": {"val_fraction": 0.25}},
        "adapter": {"method": "lora", "rank": 2},
        "train": {"epochs": 1, "batch_size": 12, "lr": 0.01, "device": "cpu"},
        "eval": {"report": False},
        "wandb": {"mode": "disabled"},
    }
    file = tmp_path / "shapes.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def test_help_answers_without_torch(tmp_path):
    code = (
        "import sys; from vectoruniverse.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'pandas', 'wandb', 'pydantic', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "train" in done.stdout and "eval" in done.stdout


def test_train_eval_and_runs_tell_one_story(config, tmp_path):
    trained = vu("train", "-c", str(config), "--json", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    outcome = json.loads(trained.stdout)
    name = Path(outcome["run"]).name
    assert (tmp_path / "runs" / name).is_dir()

    judged = vu("eval", name, "--json", cwd=tmp_path)
    record = json.loads(judged.stdout)
    assert record["rows"] == 8
    assert record["adapted"]["recall@5"] == pytest.approx(outcome["adapted"]["recall@5"])

    listed = json.loads(vu("runs", "--json", cwd=tmp_path).stdout)
    assert [(run["run"], run["state"]) for run in listed] == [(name, "finished")]
    table = vu("runs", cwd=tmp_path).stdout
    assert name in table and "finished" in table

    base = json.loads(vu("eval", "-c", str(config), "--json", cwd=tmp_path).stdout)
    assert base["base"] == pytest.approx(record["base"])

    again = vu("train", "--resume", "latest", cwd=tmp_path)
    assert again.returncode == 0 and "already finished" in again.stdout


def test_without_a_terminal_progress_is_plain_lines_and_tables_are_readable(config, tmp_path):
    command = [sys.executable, "-m", "vectoruniverse.cli", "train", "-c", str(config)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert "epoch 1: recall@5" in done.stderr
    assert "image → text recall@5" in done.stdout
    silent = vu("train", "-c", str(config), "-q", "--json", cwd=tmp_path)
    assert silent.stderr == ""


def test_dry_run_prints_the_plan(config, tmp_path):
    done = vu("train", "-c", str(config), "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "training rows" in done.stdout and "vision_model" in done.stdout
    assert not (tmp_path / "runs").exists()
    plan = json.loads(vu("train", "-c", str(config), "--dry-run", "--json", cwd=tmp_path).stdout)
    assert plan["rows"]["training"] == 24


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["train"], 2, "--config FILE or --resume RUN"),
        (["train", "-c", "nothing.yaml"], 2, "nothing.yaml"),
        (["train", "-c", "{config}", "--set", "train.epoch=3"], 2, "did you mean train.epochs?"),
        (["train", "-c", "{config}", "--set", "train.lr=fast"], 2, "train.lr"),
        (["train", "-c", "{config}", "--set", "model=nobody/nothing"], 2, "cannot load 'nobody/nothing'"),
        (["train", "-c", "{config}", "--set", "data.root=/nowhere"], 3, "/nowhere"),
        (["train", "-c", "{config}", "--set", "data.columns.title=Titel"], 3, "Titel"),
        (["train", "--resume", "latest"], 2, "no run"),
        (["train", "--resume", "latest", "--dry-run"], 2, "do not go with it"),
        (["eval", "nothing"], 2, "nothing"),
        (["eval"], 2, "RUN or --config FILE"),
        (["eval", "latest", "--set", "seed=1"], 2, "--set goes with --config"),
        (["data", "check"], 2, "a folder or --config FILE"),
        (["data", "check", "/nowhere"], 3, "/nowhere"),
        (["eval", "latest", "--split", "test"], 2, "neither val nor train"),
        (["config", "check", "nothing.yaml"], 2, "nothing.yaml"),
    ],
)
def test_mistakes_are_told_in_a_line_or_two_and_never_with_a_traceback(arguments, code, says, config, tmp_path):
    done = vu(*(a.format(config=config) for a in arguments), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4
    assert done.stdout == ""


def test_config_check_prints_what_loads_again(config, tmp_path):
    done = vu("config", "check", str(config), "--set", "train.lr=7e-7")
    assert done.returncode == 0
    copy = tmp_path / "copy.yaml"
    copy.write_text(done.stdout)
    assert vu("config", "check", str(copy)).stdout == done.stdout
    assert "lr: 7.0e-07" in done.stdout


def test_config_schema_is_the_committed_one():
    printed = json.loads(vu("config", "schema").stdout)
    assert printed == json.loads((CHECKOUT / "configs" / "experiment.schema.json").read_text())


def test_data_demo_builds_what_quickstart_reads(tmp_path):
    done = vu("data", "demo", "--out", str(tmp_path / "openmoji"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "CC BY-SA 4.0" in done.stdout
    plan = vu(
        "train", "-c", str(CHECKOUT / "configs" / "quickstart.yaml"), "--dry-run", "--json",
        "--set", f"data.root={tmp_path / 'openmoji'}", cwd=tmp_path,
    )  # fmt: skip
    assert plan.returncode == 0, plan.stderr
    assert json.loads(plan.stdout)["rows"] == {"training": 1592, "validation": 398, "set aside": 0}


def test_data_check_names_what_is_wrong_and_its_exit_code_says_how_much(shapes, tmp_path):
    clean = vu("data", "check", str(shapes))
    assert clean.returncode == 0, clean.stderr
    assert "32 usable rows" in clean.stdout

    broken = tmp_path / "broken"
    shutil.copytree(shapes, broken)
    (broken / "images" / "red" / "red-circle-left.png").write_bytes(b"")
    done = vu("data", "check", str(broken), "--csv", str(tmp_path / "faults.csv"))
    assert done.returncode == 3
    assert "red-circle-left" in (tmp_path / "faults.csv").read_text()
    findings = json.loads(vu("data", "check", str(broken), "--json").stdout)["findings"]
    assert any(f["line"] == 2 and f["row_id"] == "red-circle-left" for f in findings)


def test_data_check_of_an_experiment_measures_texts_in_its_own_tokens(config):
    long = "'data.text=\"{title} " + "word " * 20 + "\"'"
    done = vu("data", "check", "--config", str(config), "--set", long.strip("'"))
    assert done.returncode == 0, done.stderr
    assert "long" in done.stdout and "32" in done.stdout


def test_data_stats_counts_labels_and_draws_them(shapes, tmp_path):
    done = vu("data", "stats", str(shapes), "--out", str(tmp_path / "stats"))
    assert done.returncode == 0
    assert "circle" in done.stdout
    assert {path.name for path in (tmp_path / "stats").iterdir()} >= {"labels.png", "title_lengths.svg"}
    numbers = json.loads(vu("data", "stats", str(shapes), "--json").stdout)
    assert numbers["rows"] == 32 and numbers["label_counts"]["red"] == 8


def test_a_reader_that_goes_away_is_no_error(config):
    done = subprocess.run(
        f"{sys.executable} -m vectoruniverse.cli config check {config} | head -1",
        shell=True, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("name:") and "Traceback" not in done.stderr
