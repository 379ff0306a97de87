"""An offline run holds what a person expects of it, read back from wandb's own file."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.tracking.wandb_file import read_wandb
from vectoruniverse.tracking.contract import DataSet
from vectoruniverse.tracking.jsonl import JsonlTracker, read_metrics
from vectoruniverse.tracking.weights_and_biases import WandbSettings, WandbTracker

pytestmark = pytest.mark.usefixtures("lonely_wandb")

DATA = DataSet("my emoji", "f00d", 32)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "exp-20260101-0000-abcd"
    folder.mkdir()
    return folder


def tracker_of(run: Path, **arguments: object) -> WandbTracker:
    return WandbTracker(run, run.name, {}, pytest.fail, **arguments)


def test_config_names_axis_and_best_values_are_in_the_file(run: Path, capfd: pytest.CaptureFixture) -> None:
    settings = WandbSettings(project="planets", tags=["x", "y"], notes="n")
    best = {"val/*recall@*": "max", "val/recall@*": "max", "val/median_rank": "min"}
    tracker = WandbTracker(run, run.name, {"train": {"lr": 1e-3}}, pytest.fail, settings, best=best)
    for step, recall, rank in [(0, 0.1, 9.0), (10, 0.5, 3.0), (20, 0.3, 4.0)]:
        tracker.log(step, {"train/loss": recall})
        tracker.log(step, {"val/recall@5": recall, "val/median_rank": rank})
    tracker.summary({"best/epoch": 2})
    tracker.finish("failed")

    file = read_wandb(run)
    header = file.header()
    assert (header.run_id, header.project, list(header.tags), header.notes) == (run.name, "planets", ["x", "y"], "n")
    assert file.config()["train"] == {"lr": 1e-3}
    assert {(metric.glob_name or metric.name, metric.step_metric) for metric in file.of_kind("metric")} >= {
        ("*", "step"),
        ("val/recall@5", "step"),
        ("val/median_rank", "step"),
    }
    assert file.points("val/recall@5") == [(0, 0.1), (10, 0.5), (20, 0.3)]
    assert file.points("train/loss") == [(0, 0.1), (10, 0.5), (20, 0.3)]
    summary = file.summary()
    assert summary["val/recall@5"] == {"max": 0.5}
    assert summary["val/median_rank"] == {"min": 3.0}
    assert summary["train/loss"] == 0.3
    assert summary["best/epoch"] == 2
    assert file.of_kind("exit")[0].exit_code == 1
    assert file.of_kind("stats"), "system metrics"
    assert capfd.readouterr() == ("", "")


def test_figures_are_pictures_on_the_step_axis(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "drawn.png"
    Image.new("RGB", (20, 10), "red").save(path)
    tracker = tracker_of(run)
    tracker.log_figures(30, {"spectrum": path})
    tracker.finish("finished")
    file = read_wandb(run)
    ((step, figure),) = file.points("figures/spectrum")
    assert (step, figure["_type"], figure["width"], figure["height"]) == (30, "image-file", 20, 10)
    assert (file.folder / "files" / figure["path"]).read_bytes() == path.read_bytes()


@dataclass(frozen=True)
class Found:
    title: str
    picture: NDArray[np.uint8]
    cosine: float
    right: bool


@dataclass(frozen=True)
class Query:
    direction: str
    title: str
    picture: NDArray[np.uint8]
    rank: int
    among: int
    answers: tuple[Found, ...]


def plain_picture(value: int) -> NDArray[np.uint8]:
    return np.full((4, 4, 3), value, np.uint8)


def test_retrievals_are_tables_with_the_pictures_themselves(run: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    answers = (Found("a dog", plain_picture(1), 0.91, False), Found("=cat()", plain_picture(2), 0.5, True))
    tracker = tracker_of(run)
    tracker.log_retrievals(
        40,
        [
            Query("image_to_text", "<script>alert(1)</script>", noise, 2, 32, answers),
            Query("image_to_text", "=1+1", plain_picture(4), 1, 32, answers[:1]),
            Query("text_to_image", "line\nbreak \u202eback \x1b[31mred", plain_picture(5), 1, 32, answers),
        ],
    )
    tracker.finish("finished")
    file = read_wandb(run)

    def table(direction: str) -> list[dict[str, object]]:
        artifact = file.artifact(f"run-{run.name}-retrievals_{direction}")
        files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
        (name,) = [name for name in files if name.endswith(".table.json")]
        content = json.loads(files[name].read_text(encoding="utf-8"))
        rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
        for row in rows:
            for cell in [cell for cell in row.values() if isinstance(cell, dict)]:
                with Image.open(files[cell["path"]]) as picture:
                    cell["pixels"] = np.asarray(picture)
        return rows

    script, formula = table("image_to_text")
    assert np.array_equal(script["picture"]["pixels"], noise)
    assert (script["text"], script["rank"], script["among"]) == ("<script>alert(1)</script>", 2, 32)
    assert (script["answer 1"], script["answer 2"]) == ("· 0.91 a dog", "✓ 0.50 '=cat()")
    assert (formula["text"], formula["answer 2"]) == ("'=1+1", None)
    (back,) = table("text_to_image")
    assert back["text"] == "line break  back  [31mred"
    assert (back["answer 1"]["caption"], back["answer 1"]["pixels"][0, 0, 0]) == ("· 0.91 a dog", 1)
    assert [step for step, _ in file.points("retrievals_image_to_text")] == [40]


def test_the_adapter_is_an_artifact_made_from_the_data(run: Path, lonely_wandb: Path) -> None:
    adapter = run / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    (adapter / "adapter_model.safetensors").write_bytes(b"\0" * 4096)
    tracker = tracker_of(run)
    tracker.log_adapter(adapter, {"rank": 8, "metrics": {"recall@5": 0.5, "bad": math.nan}}, DATA)
    tracker.finish("finished")
    file = read_wandb(run)
    made = file.artifact(f"adapter-{run.name}")
    assert (made.type, sorted(made.aliases), made.use_after_commit) == ("model", ["best", "latest"], False)
    assert json.loads(made.metadata) == {"rank": 8, "metrics": {"recall@5": 0.5, "bad": "NaN"}}
    assert {Path(entry.local_path) for entry in made.manifest.contents} == set(adapter.iterdir())
    assert not [path for path in lonely_wandb.rglob("*") if path.is_file() and path.stat().st_size == 4096], "a copy"
    used = file.artifact("data-my-emoji")
    assert (used.type, used.use_after_commit) == ("dataset", True)
    assert json.loads(used.metadata) == {"fingerprint": "f00d", "rows": 32}


def test_the_same_data_is_the_same_version(run: Path) -> None:
    digests = []
    for data in (DATA, DATA, DataSet("my emoji", "beef", 32)):
        tracker = tracker_of(run)
        tracker.log_adapter(run, {}, data)
        tracker.finish("finished")
        file = read_wandb(run)
        digests.append(file.artifact("data-my-emoji").digest)
        file.folder.rename(run.parent / f"earlier-{len(digests)}")
    assert digests[0] == digests[1] != digests[2]


def test_what_cannot_be_stored_is_told_once_and_the_numbers_go_on(run: Path, tmp_path: Path) -> None:
    warnings: list[str] = []
    tracker = WandbTracker(run, run.name, {}, warnings.append)
    for step in (1, 2):
        tracker.log_figures(step, {"spectrum": tmp_path / "absent.png"})
        tracker.log(step, {"loss": 1.0})
    tracker.finish("finished")
    (warning,) = warnings
    assert "the figures" in warning
    assert read_wandb(run).points("loss") == [(1, 1.0), (2, 1.0)]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_told_but_no_source_no_token_and_no_argument_with_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run lies inside of a checkout with uncommitted changes, as runs/ does."""
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n", encoding="utf-8")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "code.py").write_text("password = 'UNCOMMITTED'\n", encoding="utf-8")
    git(tmp_path, "remote", "add", "origin", "https://ghp_REMOTETOKEN:x-oauth-basic@example.com/o/r.git")
    commit = git(tmp_path, "rev-parse", "HEAD")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vu", "--api-key=ARGUMENTKEY"])
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    environment = {"git": {"commit": commit, "changed": True}, "command": ["vu", "--api-key=***"]}
    tracker = tracker_of(run, environment=environment)
    tracker.log(1, {"loss": 1.0})
    tracker.finish("finished")
    file = read_wandb(run)
    assert file.header().git.commit == commit
    assert file.config()["environment"] == environment
    assert file.of_kind("stats"), "system metrics"
    content = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    for secret in (b"UNCOMMITTED", b"REMOTETOKEN", b"ARGUMENTKEY"):
        assert secret not in content, secret
    assert not list(run.rglob("*.patch"))


def test_a_harmless_command_keeps_its_metadata(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vu", "train", "--config", "x.yaml"])
    tracker_of(run, environment={"command": ["vu", "train", "--config", "x.yaml"]}).finish("finished")
    (told,) = [list(record.args) for record in read_wandb(run).of_kind("environment") if record.args]
    assert told == ["train", "--config", "x.yaml"]


def test_what_the_config_leaves_open_is_left_to_the_variables(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "from-variable")
    monkeypatch.setenv("WANDB_RUN_GROUP", "group-from-variable")
    monkeypatch.setenv("WANDB_TAGS", "tag-from-variable")
    tracker_of(run).finish("finished")
    header = read_wandb(run).header()
    assert (header.project, header.run_group) == ("from-variable", "group-from-variable")
    assert list(header.tags) == ["tag-from-variable"]


def test_a_resumed_offline_run_holds_the_whole_run_once(run: Path, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    parts = [(None, [(0, math.nan), (10, 0.2), (20, 0.3), (30, 0.4)]), (20, [(30, 0.4), (40, 0.5)])]
    for resume_step, points in parts:
        lines = JsonlTracker(metrics, resume_step)
        history = None if resume_step is None else read_metrics(metrics)
        tracker = tracker_of(run, history=history)
        for step, value in points:
            lines.log(step, {"loss": value})
            tracker.log(step, {"loss": value})
        lines.finish("interrupted")
        tracker.finish("interrupted")
        file = read_wandb(run)
        assert file.header().run_id == run.name
        assert not file.header().resume, "or it would be added to what the server has"
        if resume_step is None:
            file.folder.rename(file.folder.with_name(f"offline-run-20000101_000000-{run.name}"))
    (first, nothing), *rest = file.points("loss")
    assert (first, rest) == (0, [(10, 0.2), (20, 0.3), (30, 0.4), (40, 0.5)])
    assert nothing == "NaN" or math.isnan(nothing)
    assert "seconds" not in file.history()[0]


def test_a_run_ended_behind_our_back_gives_one_warning(run: Path) -> None:
    import wandb

    warnings: list[str] = []
    tracker = WandbTracker(run, "a", {}, warnings.append)
    wandb.teardown()
    for step in range(3):
        tracker.log(step, {"loss": 1.0})
    tracker.finish("finished")
    assert len(warnings) == 1
    assert wandb.run is None, "or the next run of this process would not go online"


def test_a_disabled_run_leaves_no_trace(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, variable in [(WandbSettings(mode="disabled"), "online"), (WandbSettings(), "disabled")]:
        monkeypatch.setenv("WANDB_MODE", variable)
        tracker = tracker_of(run, settings=settings)
        tracker.log(1, {"loss": 1.0})
        tracker.log_figures(1, {"x": run})
        tracker.log_adapter(run, {}, DATA)
        tracker.finish("finished")
    assert list(run.iterdir()) == []


DEPENDENT = """
import os, signal, subprocess, sys
from pathlib import Path
from vectoruniverse.tracking import weights_and_biases
from vectoruniverse.tracking.weights_and_biases import WandbSettings, WandbTracker

weights_and_biases._GRACE = 0.5
settings = WandbSettings(mode="offline", finish_timeout=0.5)
tracker = WandbTracker(Path(sys.argv[1]), "run", {}, print, settings)
tracker.log(0, {"a": 1.0})
children = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True)
(core,) = (int(line.split()[0]) for line in children.stdout.splitlines() if "wandb-core" in line)
os.kill(core, getattr(signal, sys.argv[2]))
for step in range(1, int(sys.argv[3])):
    tracker.log(step, {f"m{i}": 1.0 for i in range(40)})
tracker.finish("finished")
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ps")
@pytest.mark.parametrize(("number", "steps"), [("SIGKILL", 10), ("SIGSTOP", 400)])
def test_wandb_s_own_process_killed_or_stopped_holds_nothing_up_and_is_told_in_a_line(
    number: str, steps: int, run: Path
) -> None:
    """Stopped, it takes no more than some thousand rows, and never answers."""
    command = [sys.executable, "-c", DEPENDENT, str(run), number, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    warned, done_line = done.stdout.splitlines()
    assert done.stderr == "" and done_line == "done"
    assert "training goes on without it; upload what is there with: vu sync" in warned


ONE_AFTER_ANOTHER = """
import os, signal, subprocess, sys
from pathlib import Path
from vectoruniverse.tracking.weights_and_biases import WandbSettings, WandbTracker

def log(name):
    tracker = WandbTracker(Path(sys.argv[1]), name, {}, print, WandbSettings(mode="offline"))
    tracker.log(0, {"a": 1.0})
    tracker.finish("finished")

log("first")
children = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True)
(core,) = (int(line.split()[0]) for line in children.stdout.splitlines() if "wandb-core" in line)
os.kill(core, signal.SIGKILL)
os.waitpid(core, 0)
log("second")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ps")
@pytest.mark.parametrize("inherited", [False, True])
def test_a_run_is_logged_although_wandb_s_process_has_ended_before_it(inherited: bool, run: Path) -> None:
    """That of the run before, as among the cells of a sweep; or that of whoever started this process, as an agent."""
    gone = {"WANDB_SERVICE": f"3-1-unix-{run / 'socket'}"} if inherited else {}
    command = [sys.executable, "-c", ONE_AFTER_ANOTHER, str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=os.environ | gone)
    assert (done.stdout, done.stderr) == ("", "")
    assert [file.name for file in sorted(run.rglob("run-*.wandb"))] == ["run-first.wandb", "run-second.wandb"]
