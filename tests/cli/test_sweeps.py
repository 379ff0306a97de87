"""`vu sweep` and `vu sweep-rank` as a person meets them: output and exit codes."""

from __future__ import annotations

import json

import pytest

from tests.cli.test_runs import vu
from tests.sweep.conftest import clip, config  # noqa: F401  (fixtures)
from vectoruniverse.errors import ResourceError
from vectoruniverse.training.loop import Trainer


@pytest.mark.usefixtures("blank_figures")  # drawn in test_reports.py
def test_sweep_rank_prints_the_answer_and_where_it_is(config, tmp_path):  # noqa: F811
    file = config(forgetting={"include": {"Category": ["yellow"]}}, eval={"report": True})
    done = vu("sweep-rank", "-c", file, "--ranks", "1,2", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rank 1" in done.stdout and "rank 2" in done.stdout and "behind the best" in done.stdout
    assert "intervals over" in done.stdout and "outside training steps" in done.stdout
    assert "keeps most of both" in done.stdout
    (folder,) = (tmp_path / "runs").glob("shapes-sweep-*")
    assert f"report in {folder / 'report.html'}" in done.stdout.splitlines()
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")
    record = json.loads((folder / "sweep.json").read_text())
    assert record["statistics"]["answer"] in done.stdout.replace("\n", " ")
    listed = json.loads(vu("runs", "--json", cwd=tmp_path).stdout)
    assert sorted(run["run"] for run in listed) == sorted(c["run"] for c in [*record["cells"], *record["beside"]])
    assert [cell["values"] for cell in record["beside"]] == [{"adapter.rank_pattern": "as rank 1"}]

    again = vu("sweep-rank", "-c", file, "--ranks", "1,2", "-q", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["cells"] == record["cells"]
    same = vu("sweep", "-c", file, "--over", "adapter.rank=1,2", "--out", "elsewhere", "-q", "--json", cwd=tmp_path)
    assert json.loads(same.stdout)["alpha"] is None
    assert (tmp_path / "elsewhere" / "sweep.csv").is_file()


def test_a_failed_cell_gives_exit_code_1_and_the_rest(config, tmp_path):  # noqa: F811
    over = "adapter.text_targets=[q_proj],[nothing]"
    done = vu("sweep", "-c", config(), "--over", over, "-q", "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert "failed" in done.stderr and "nothing" in done.stderr
    assert sorted(cell["state"] for cell in json.loads(done.stdout)["cells"]) == ["failed", "finished"]


def test_a_cell_that_diverged_is_told_and_left_until_it_is_forced(config, tmp_path):  # noqa: F811
    file = config(adapter={"method": "full"})
    command = ("sweep", "-c", file, "--set", "train.clip_grad_norm=null", "--over", "train.lr=1e30,0.001")

    def again(*more):
        done = vu(*command, *more, cwd=tmp_path)
        assert done.returncode == 4 and "stopped: " in done.stderr and "once more with --force" in done.stderr
        record = json.loads(next(tmp_path.rglob("sweep.json")).read_text())
        return done.stdout, [cell["run"] for cell in record["cells"]]

    _, (steady, diverged) = again("-q")
    said, same = again()
    assert same == [steady, diverged] and "has already finished" in said and len(said.splitlines()) == 1
    _, forced = again("-q", "--force")
    assert forced[0] == steady and forced[1] != diverged
    assert again("-q")[1] == forced and len(list((tmp_path / "runs").glob("*/state.json"))) == 3


@pytest.mark.usefixtures("blank_figures")
def test_full_fine_tuning_that_fails_is_told_in_terminal_page_and_json(config, tmp_path, monkeypatch):  # noqa: F811
    fit = Trainer.fit

    def failing(trainer):
        if trainer.experiment.adapter.method == "full":
            raise ResourceError("the GPU is full")
        return fit(trainer)

    monkeypatch.setattr(Trainer, "fit", failing)
    command = ("sweep-rank", "-c", config(eval={"report": True}), "--ranks", "1,2", "--lrs", "fixed", "--full", "-q")
    done = vu(*command, "--no-pattern", cwd=tmp_path)
    assert done.returncode == 1 and "rank 2" in done.stdout
    assert "shapes-methodfull-seed0 failed: the GPU is full" in done.stderr
    (folder,) = (tmp_path / "runs").glob("shapes-sweep-*")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "2 of 3 cells are done (the sweep failed)" in page
    assert "method full, seed 0 failed: the GPU is full" in page
    told = json.loads(vu(*command, "--no-pattern", "--json", cwd=tmp_path).stdout)
    assert told["state"] == "failed" and [cell["state"] for cell in told["cells"]] == ["finished"] * 2
    assert [(cell["state"], cell["message"]) for cell in told["beside"]] == [("failed", "the GPU is full")]
    monkeypatch.setattr(Trainer, "fit", fit)
    done = vu(*command, "--no-pattern", cwd=tmp_path)
    assert done.returncode == 0 and "Full fine-tuning, beside" in done.stdout
    assert "failed" not in (folder / "report.html").read_text(encoding="utf-8")
    again = vu(*(word for word in command if word not in ("-q", "--quiet")), "--no-pattern", cwd=tmp_path)
    assert again.returncode == 0 and len(again.stdout.splitlines()) == 1
    assert f"{folder.name} has already finished: " in again.stdout and "--force" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("sweep-rank", "--ranks", "1,two"), "--ranks"),
        (("sweep-rank", "--ranks", "0"), "adapter.rank"),
        (("sweep-rank", "--alpha", "some"), "proportional:K"),
        (("sweep-rank", "--seeds", "0,0"), "given twice"),
        (("sweep-rank", "--lrs", "fast"), "no list of learning rates"),
        (("sweep", "--over", "train.lr"), "KEY=VALUE"),
    ],
)
def test_mistakes_are_told_in_two_lines_before_anything_is_made(arguments, says, config, tmp_path):  # noqa: F811
    done = vu(*arguments, "-c", config(), cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr and len(done.stderr.splitlines()) <= 3
    assert not (tmp_path / "runs").exists()


def test_a_part_of_the_cells_is_listed_and_the_whole_command_answers(config, tmp_path):  # noqa: F811
    command = ("sweep-rank", "-c", config(), "--ranks", "1,2", "--lrs", "fixed", "--no-pattern", "-q")
    parts = [vu(*command, "--part", f"{number}/2", cwd=tmp_path) for number in (0, 1)]
    assert [part.returncode for part in parts] == [0, 0] and "finished" in parts[0].stdout
    assert "behind the best" not in parts[1].stdout
    whole = vu(*command, cwd=tmp_path)
    assert whole.returncode == 0 and "behind the best" in whole.stdout
    assert len(json.loads(vu("runs", "--json", cwd=tmp_path).stdout)) == 2


@pytest.mark.slow  # a cluster for itself; tests/sweep/test_ray.py shares one
def test_a_sweep_on_ray_prints_the_same_answer_as_a_local_one(config, tmp_path):  # noqa: F811
    pytest.importorskip("ray")
    command = ("sweep-rank", "-c", config(), "--ranks", "1,2", "--lrs", "fixed", "--no-pattern")
    there = vu(*command, "--engine", "ray", "--cpus-per-cell", "1", "--runs-dir", "there", cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    here = vu(*command, "--runs-dir", "here", cwd=tmp_path)
    assert "finished on" in there.stderr and "Traceback" not in there.stderr

    def answer(text):
        """Without times and places."""
        return [
            line for line in text.splitlines() if not any(own in line for own in ("│", " s, ", "in there", "in here"))
        ]

    assert "behind the best" in there.stdout and answer(there.stdout) == answer(here.stdout)
