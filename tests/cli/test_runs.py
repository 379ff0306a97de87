"""The command line as a person meets it: its output and its exit code."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from tests.models.models import save_clip
from tests.processes import NO_READER, start
from vectoruniverse.cli import app
from vectoruniverse.cli.shell import print_json, seconds_of, tells_errors
from vectoruniverse.errors import ConfigError
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.training.checkpoint import pointed
from vectoruniverse.training.observer import RunObserver

CHECKOUT = Path(__file__).resolve().parents[2]


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
        "data": {"root": str(shapes), "split": {"val_fraction": 0.25, "test_fraction": 0}},
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

    evaluated = vu("eval", name, "--json", cwd=tmp_path)
    record = json.loads(evaluated.stdout)
    assert record["rows"] == 8
    assert record["adapted"]["recall@5"] == pytest.approx(outcome["adapted"]["recall@5"])

    listed = json.loads(vu("runs", "--json", cwd=tmp_path).stdout)
    assert [(run["run"], run["state"]) for run in listed] == [(name, "finished")]
    table = vu("runs", cwd=tmp_path).stdout
    assert name in table and "finished" in table

    base = json.loads(vu("eval", "-c", str(config), "--json", cwd=tmp_path).stdout)
    without_rules = {name: value for name, value in record["base"].items() if not name.startswith("labels/")}
    assert base["base"] == pytest.approx(without_rules)
    reached = [
        {name: one["reached"] for name, one in told["rivals"]["models"].items() if name != "adapted"}
        for told in (outcome, record, base)
    ]
    assert reached[0] == reached[1] == reached[2] and "CCA" in reached[0]
    assert record["rivals"] == outcome["rivals"]

    again = vu("train", "--resume", "latest", cwd=tmp_path)
    assert again.returncode == 0 and "already finished" in again.stdout
    again = vu("train", "--resume", "latest", "--json", cwd=tmp_path)
    assert json.loads(again.stdout) == {"run": outcome["run"], "state": "finished"}
    again = vu("train", "--resume", "latest", "--quiet", cwd=tmp_path)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")

    (tmp_path / "runs" / name / "config.yaml").unlink()
    incomplete = vu("eval", name, cwd=tmp_path)
    assert incomplete.returncode == 2
    assert "incomplete" in incomplete.stderr and "did you mean" not in incomplete.stderr


def test_without_a_terminal_progress_is_plain_lines_and_tables_are_readable(config, tmp_path):
    child = start("train", "-c", str(config), folder=tmp_path / "said", cwd=tmp_path)
    assert child.wait() == 0
    stdout, stderr = child.out.read_text(), child.err.read_text()
    assert "\x1b" not in stdout + stderr
    assert "epoch 1: recall@5" in stderr
    assert "adapted layers" in stderr and "vision_model" in stderr
    assert "image → text recall@5" in stdout
    silent = vu("train", "-c", str(config), "-q", "--json", "--force", cwd=tmp_path)
    assert silent.stderr == "" and "adapted" in json.loads(silent.stdout)
    silent = vu("train", "-c", str(config), "--quiet", "--new", cwd=tmp_path)
    assert (silent.returncode, silent.stdout, silent.stderr) == (0, "", "")


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
        (["eval", "latest", "--split", "dev"], 2, "none of test, val and train"),
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
    rows = json.loads(plan.stdout)["rows"]
    assert sum(rows.values()) == 1990 and rows["set aside"] == 0
    assert {rows["validation"], rows["test"]} <= {298, 299}, "15 % each"


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
    again = vu("data", "check", str(broken), "--csv", str(tmp_path / "faults.csv"))
    assert again.returncode == 3 and (tmp_path / "faults.csv").read_text().count("red-circle-left") == 2
    findings = json.loads(vu("data", "check", str(broken), "--json").stdout)["findings"]
    assert any(f["line"] == 2 and f["row_id"] == "red-circle-left" for f in findings)


def test_data_check_of_an_experiment_measures_texts_in_its_own_tokens(config):
    long = "'data.text=\"{title} " + "word " * 20 + "\"'"
    done = vu("data", "check", "--config", str(config), "--set", long.strip("'"))
    assert done.returncode == 0, done.stderr
    assert "long" in done.stdout and "32" in done.stdout


def test_data_stats_describes_what_can_be_used_however_much_cannot(shapes, tmp_path):
    root = tmp_path / "half"
    shutil.copytree(shapes, root)
    for picture in (root / "images").rglob("*-left.png"):
        picture.unlink()
    assert vu("data", "check", str(root)).returncode == 3
    done = vu("data", "stats", str(root))
    assert done.returncode == 0 and "16 rows cannot be used" in done.stdout
    numbers = json.loads(vu("data", "stats", str(root), "--json").stdout)
    assert (numbers["rows"], numbers["unusable"]) == (16, 16)


def test_data_stats_counts_labels_and_draws_them(shapes, tmp_path):
    done = vu("data", "stats", str(shapes), "--out", str(tmp_path / "stats"))
    assert done.returncode == 0
    assert "circle" in done.stdout
    lines = [line.replace("│", " ").split() for line in done.stdout.splitlines() if line]
    parts = {line[0]: line[1:] for line in lines}
    assert parts["training"] == ["22", "22", "8"] and parts["validation"][:2] == parts["test"][:2] == ["5", "5"]
    assert sum(map(int, parts["red"][1:])) == int(parts["red"][0]) == 8
    assert {path.name for path in (tmp_path / "stats").iterdir()} >= {"labels.png", "title_lengths.svg"}
    numbers = json.loads(vu("data", "stats", str(shapes), "--json").stdout)
    assert numbers["rows"] == 32 and numbers["label_counts"]["red"] == 8


def test_data_check_measures_pictures_by_the_size_that_the_model_reads(config, shapes):
    def tiny(*arguments: str) -> tuple[int, str]:
        done = vu("data", "check", *arguments, "--json")
        return json.loads(done.stdout)["counts"].get("tiny_picture", 0), done.stderr

    assert tiny("--config", str(config))[0] == 0  # 48 pixels, of which the model reads 32
    assert tiny(str(shapes))[0] == 32
    count, said = tiny("--config", str(config), "--set", "model=nobody/nothing")
    assert count == 32 and "as if the model read 224 pixels" in said


def test_a_table_that_cannot_be_written_is_told_before_the_check(shapes, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere" / "faults.csv"):
        done = vu("data", "check", str(shapes), "--csv", str(path))
        assert (done.returncode, done.stdout) == (2, "")
        assert "--csv: cannot be written" in done.stderr and len(done.stderr.splitlines()) == 1
    done = vu("data", "check", str(shapes), "--csv", "/dev/full")
    assert done.returncode == 5 and "No space left" in done.stderr


def test_run_names_are_whole_in_a_pipe_and_in_a_narrow_terminal(tmp_path):
    name = f"{'long' * 15}-20260101-1200-abcd"
    (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / name / "state.json").write_text(json.dumps({"state": "failed", "message": "no " * 100}))
    for environment in ({"COLUMNS": "40"}, {"COLUMNS": "40", "FORCE_COLOR": "1"}):
        result = CliRunner(env=environment).invoke(app, ["runs", "--runs-dir", str(tmp_path / "runs")])
        assert name in result.stdout
    assert "no " * 99 in vu("runs", "--runs-dir", str(tmp_path / "runs")).stdout


def test_json_is_strict_whatever_the_numbers(capsys):
    print_json({"a": [float("nan"), (float("inf"), -float("inf"))], "b": 1.5, "é": None})
    printed = capsys.readouterr().out
    assert printed.isascii()
    strict = json.loads(printed, parse_constant=pytest.fail)
    assert strict == {"a": ["NaN", ["Infinity", "-Infinity"]], "b": 1.5, "é": None}


CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 138}


@pytest.mark.parametrize(("number", "code"), CODES.items())
def test_a_signal_ends_any_command_with_its_exit_code_and_in_a_line(number, code, capsys):
    @tells_errors
    def command() -> None:
        signal.raise_signal(number)

    before = signal.getsignal(number)
    with pytest.raises(typer.Exit) as left:
        command()
    assert left.value.exit_code == code
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3h30m", 12_600), ("90m", 5400), ("1d", 86_400), (" 45S", 45), ("600", 600), ("1d1s", 86_401)],
)
def test_a_time_is_read_in_units_or_seconds(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-5", "3x", "30m3h", "1.5h", "h", "9" * 5000 + "d", "5 m"])
def test_what_is_no_time_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match="--max-time") as refused:
        seconds_of(text)
    assert "3h30m" in refused.value.remedy


def test_a_training_stops_by_itself_before_its_time_is_over_and_goes_on(config, tmp_path, monkeypatch):
    command = ["train", "-c", config, "--max-time", "1h30m", "--runs-dir", str(tmp_path / "runs"), "-q"]
    on_step, left = RunObserver.on_step, []

    def time_is_up(observer, step, values):
        on_step(observer, step, values)
        if not left:
            left.append(signal.getitimer(signal.ITIMER_REAL)[0])
            signal.setitimer(signal.ITIMER_REAL, 1e-6)
            time.sleep(0.01)

    monkeypatch.setattr(RunObserver, "on_step", time_is_up)
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 138 and "stopped at step 1" in said.stderr
    assert 4800 < left[0] < 5370, "half a minute is left to leave in"
    (run,) = list_runs(tmp_path / "runs")
    assert run.state == "interrupted" and pointed(run.run.checkpoints, "last").name == "step-00000001"
    assert CliRunner().invoke(app, command).exit_code == 0
    assert [one.state for one in list_runs(tmp_path / "runs")] == ["finished"]


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of bash, whose exit code is that of the first command in a pipe that fails."""
    line = f"set -o pipefail; {command.replace('vu ', f'{sys.executable} -m vectoruniverse.cli ', 1)}"
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_results_whose_reader_went_away_or_whose_disk_is_full_end_in_an_exit_code(shapes, tmp_path):
    gone = start("data", "stats", str(shapes), folder=tmp_path / "gone", out=NO_READER)
    assert (gone.wait(), gone.err.read_text()) == (141, "")
    full = start("data", "stats", str(shapes), folder=tmp_path / "full", out=Path("/dev/full"))
    assert full.wait() == 5
    assert full.err.read_text() == "vu: output: cannot be written: No space left on device\n"


def test_training_outlives_the_reader_of_its_log(config, tmp_path):
    log = tmp_path / "log"
    os.mkfifo(log)
    child = start("train", "-c", str(config), "--json", folder=tmp_path / "said", cwd=tmp_path, err=log)
    with log.open() as reader:
        assert reader.readline()
    assert child.wait() == 0
    run = Path(json.loads(child.out.read_text())["run"])
    assert json.loads((tmp_path / run / "state.json").read_text())["state"] == "finished"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_output_of_few_characters_gets_what_it_can_hold(encoding, tmp_path):
    run = tmp_path / "runs" / "shapes-20260101-1200-abcd"
    run.mkdir(parents=True)
    (run / "state.json").write_text(json.dumps({"state": "failed", "message": "image → text"}))
    for folder in (run.parent, tmp_path / "→"):
        done = shell(f"vu runs --runs-dir {folder}", PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        assert "image" in done.stdout or "no runs in" in done.stdout


def test_words_that_differ_stay_different_where_output_cannot_hold_them(tmp_path):
    for name, message in (("one", "긍정 →"), ("two", "부정 →")):
        run = tmp_path / "runs" / f"{name}-20260101-1200-abcd"
        run.mkdir(parents=True)
        (run / "state.json").write_text(json.dumps({"state": "failed", "message": message}))
    done = shell(f"vu runs --runs-dir {tmp_path / 'runs'}", PYTHONIOENCODING="cp1252", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert r"\uae0d\uc815 \u2192" in done.stdout and r"\ubd80\uc815 \u2192" in done.stdout


def test_a_reader_that_goes_away_is_no_error(config):
    done = subprocess.run(
        f"{sys.executable} -m vectoruniverse.cli config check {config} | head -1",
        shell=True, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("name:") and "Traceback" not in done.stderr


def test_a_fault_of_the_program_ends_in_a_line_that_says_so():
    code = (
        "import sys, vectoruniverse.config.document as document\n"
        "from vectoruniverse.cli import main\n"
        "document.json_schema = lambda tasks: {}[0]\n"
        "sys.argv = ['vu', 'config', 'schema']\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    *before, last = done.stderr.splitlines()
    assert "KeyError: 0" in before
    assert last.startswith("vu: this is a fault of the program, not yours; please report it") and "/issues" in last


def test_version_and_help_answer_everywhere_and_load_nothing():
    told = vu("--version")
    assert told.returncode == 0 and told.stdout.startswith("vectoruniverse 0.") and ", torch 2." in told.stdout
    for command in ((), ("train",), ("data",), ("data", "check"), ("config", "schema"), ("sweep-rank",)):
        short = vu(*command, "-h")
        assert short.returncode == 0 and "Usage: vu" in short.stdout
        assert short.stdout == vu(*command, "--help").stdout


def test_a_dry_run_tells_the_time_that_training_takes_and_a_schedule_that_does_not_fit(config, tmp_path):
    given = ("--set", "train.schedule.name=cosine_restarts", "--set", "train.epochs=15")
    done = vu("train", "-c", str(config), "--dry-run", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning: train.schedule: warm-up of 17 in a period of 70 steps does not fit the 30 steps" in done.stderr
    plan = json.loads(vu("train", "-c", str(config), "--dry-run", "--json", *given, cwd=tmp_path).stdout)
    assert plan["seconds"] == pytest.approx(30 * plan["seconds_per_step"])
    assert "thread" in plan["compute"]
