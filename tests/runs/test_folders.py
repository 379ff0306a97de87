"""Run folders never collide, are never half written, and are found again whatever else lies beside them."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

import vectoruniverse
from vectoruniverse.errors import ConfigError, DataError, LockedError, ResourceError
from vectoruniverse.runs.durable import write_durably
from vectoruniverse.runs.environment import environment, without_secrets
from vectoruniverse.runs.files import read_record, record_text
from vectoruniverse.runs.folder import Run, create_run
from vectoruniverse.runs.listing import find_run, find_trained_run, list_runs
from vectoruniverse.runs.locks import lock_file
from vectoruniverse.runs.records import EvaluationRecord, RunState
from vectoruniverse.tasks.results import Earlier, best_earlier


def named_run(runs: Path, name: str, started: str) -> Run:
    run = Run(runs / name)
    run.path.mkdir(parents=True)
    run.write_text("state.json", json.dumps({"state": "finished", "started": started}) + "\n")
    return run


def evaluation(base: dict[str, float], adapted: dict[str, float], data: str = "") -> dict[str, object]:
    """What a run writes of its evaluation."""
    facts = {"split": "val", "rows": 8, "data": data, "monitor": "recall@5", "best_epoch": 1}
    return {**facts, "base": base, "adapted": adapted}


def test_a_run_is_named_after_its_experiment_and_the_time(tmp_path: Path) -> None:
    run = create_run(tmp_path / "a" / "runs", "clip_lora_r8")
    assert re.fullmatch(r"clip_lora_r8-\d{8}-\d{4}-[a-z0-9]{4}", run.name)
    assert run.experiment == "clip_lora_r8"
    assert (
        abs((datetime.now(UTC) - datetime.strptime(run.name[13:26] + "+0000", "%Y%m%d-%H%M%z")).total_seconds()) < 120
    )


def test_a_name_that_is_taken_is_never_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter("aaaa" + "aaaa" + "bbbb")
    monkeypatch.setattr("secrets.choice", lambda _: next(drawn))
    first, second = create_run(tmp_path, "x"), create_run(tmp_path, "x")
    assert (first.name[-4:], second.name[-4:]) == ("aaaa", "bbbb")


def test_a_runs_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    for runs in (tmp_path / "runs", tmp_path / "runs" / "below"):
        with pytest.raises(ConfigError, match="runs"):
            create_run(runs, "x")


def test_a_runs_folder_that_the_system_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="cannot make a run folder here: File name too long") as caught:
        create_run(tmp_path / ("x" * 300), "x")
    assert caught.value.remedy

    def refuse(path: Path, **_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    number = errno.EROFS
    with pytest.raises(ConfigError, match="Read-only file system"):
        create_run(tmp_path, "x")
    number = errno.ENOSPC
    with pytest.raises(ResourceError, match="disk is full"):
        create_run(tmp_path, "x")


def test_readers_never_meet_half_a_file(tmp_path: Path) -> None:
    run = create_run(tmp_path, "x")
    run.write_text("evaluation.json", json.dumps([0] * 5000) + "\n")
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            run.write_text("evaluation.json", json.dumps([number] * 5000) + "\n")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(100):
            values = json.loads(run.evaluation_file.read_text(encoding="utf-8"))
            assert len(values) == 5000
            assert len(set(values)) == 1
    finally:
        stop.set()
        writer.join()
    assert list(run.path.iterdir()) == [run.evaluation_file]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_and_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_durably(path, "earlier")
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda _, __, **options: opened(Path("/dev/full"), "wb", **options))
    with pytest.raises(ResourceError, match="disk is full") as caught:
        write_durably(path, "later")
    assert caught.value.exit_code == 5
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == "earlier"


def test_state_keeps_earlier_facts_over_a_resume(tmp_path: Path) -> None:
    run = create_run(tmp_path, "x")
    run.set_state("running")
    started = run.read_state().started
    run.set_state("interrupted", message="Ctrl-C", metric="recall@5", best=0.5, epoch=3)
    assert [(summary.state, summary.message) for summary in list_runs(tmp_path)] == [("interrupted", "Ctrl-C")]
    run.set_state("running")
    (summary,) = list_runs(tmp_path)
    assert (summary.state, summary.started, summary.ended, summary.message) == ("running", started, None, None)
    assert (summary.metric, summary.best, summary.epoch) == ("recall@5", 0.5, 3)
    assert run.read_state().pid == os.getpid()
    run.set_state("finished", best=0.75)
    assert list_runs(tmp_path)[0].best == 0.75
    assert list_runs(tmp_path)[0].ended is not None


def test_a_run_whose_process_is_gone_is_dead(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from vectoruniverse.runs.folder import Run; "
    code += "Run(Path(sys.argv[1])).set_state('running')"
    run = create_run(tmp_path, "x")
    subprocess.run([sys.executable, "-c", code, str(run.path)], check=True)
    assert [summary.state for summary in list_runs(tmp_path)] == ["dead"]
    run.note(host="elsewhere")
    assert [summary.state for summary in list_runs(tmp_path)] == ["running"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs the start time of a process")
def test_a_later_process_with_the_same_pid_does_not_revive_a_run(tmp_path: Path) -> None:
    run = create_run(tmp_path, "x")
    run.set_state("running")
    assert [summary.state for summary in list_runs(tmp_path)] == ["running"]
    run.note(process=1)
    assert [summary.state for summary in list_runs(tmp_path)] == ["dead"]


def test_the_list_is_in_order_of_start_and_passes_foreign_folders_over(tmp_path: Path) -> None:
    late = named_run(tmp_path, "x-20260101-0000-zzzz", "2026-01-01T00:00:09+00:00")
    early = named_run(tmp_path, "x-20260101-0000-aaaa", "2026-01-01T00:00:01+00:00")
    (tmp_path / "notes").mkdir()
    (tmp_path / "x-20260101-0000-file").touch()
    torn = tmp_path / "x-20260101-0000-torn"
    torn.mkdir()
    for content in (
        '{"state": "runn',
        "[]",
        '{"state": 3, "pid": "x", "best": "y", "epoch": [1]}',
        "[" * 100_000,
        "\x00",
    ):
        (torn / "state.json").write_text(content, encoding="utf-8")
        summaries = list_runs(tmp_path)
        assert [summary.run for summary in summaries] == [early, late, Run(torn)]
        assert (summaries[2].state, summaries[2].best, summaries[2].epoch) == ("unknown", None, None)
    for pid in (-1, 0, 10**30):
        (torn / "state.json").write_text(
            json.dumps({**Run(torn).read_state().model_dump(), "pid": pid}), encoding="utf-8"
        )
        assert len(list_runs(tmp_path)) == 3
    assert list_runs(tmp_path / "absent") == []


def test_an_odd_state_breaks_no_list(tmp_path: Path) -> None:
    odd = tmp_path / "x-20260101-0000-aaaa"
    odd.mkdir()
    for best in ("1" + "0" * 400, "NaN", "Infinity", "-1e999", "true", "[]"):
        odd.joinpath("state.json").write_text(f'{{"state": "finished", "best": {best}}}', encoding="utf-8")
        (summary,) = list_runs(tmp_path)
        assert (summary.state, summary.best) == ("finished", None)
    text = "한국어 \ud800\x1b[2J\u202eend"
    odd.joinpath("state.json").write_text(json.dumps({"state": text, "started": text, "metric": text, "message": text}))
    (summary,) = list_runs(tmp_path)
    for shown in (summary.state, summary.started, summary.metric, summary.message):
        assert shown == "한국어 \ufffd\ufffd[2J\ufffdend"
    summary.run.set_state("failed", message="no such picture: \udcff.png")
    assert summary.run.read_state().message == "no such picture: \udcff.png"
    assert summary.run.read_state().metric == text


def test_junk_beside_a_run_is_no_better_earlier_run(tmp_path: Path) -> None:
    def scored(name: str, score: str, state: str = '{"state": "finished"}') -> Run:
        run = Run(tmp_path / f"x-20260101-0000-{name}")
        run.path.mkdir()
        run.state_file.write_text(state, encoding="utf-8")
        text = json.dumps(evaluation({}, {"recall": 0.125}, data="d")).replace("0.125", score)
        run.evaluation_file.write_text(text, encoding="utf-8")
        return run

    mine = scored("mine", "0.9")
    for name, score in {"nnnn": "NaN", "aaaa": "0.25", "bbbb": "0.5", "iiii": "1e999", "huge": "1" + "0" * 400}.items():
        scored(name, score)
    scored("odds", "0.4", '{"state": "finished", "best": 1' + "0" * 400 + ', "message": "\\ud800"}')
    assert best_earlier(mine, "recall", "d") == Earlier("x-20260101-0000-bbbb", 0.5)


def test_a_run_is_found_by_path_name_prefix_experiment_and_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    first = named_run(runs, "clip-20260101-0000-aaaa", "2026-01-01T00:00:00+00:00")
    second = named_run(runs, "clip-20260102-0000-bbbb", "2026-01-02T00:00:00+00:00")
    other = named_run(runs, "text-20260103-0000-cccc", "2026-01-03T00:00:00+00:00")
    monkeypatch.chdir(tmp_path)
    assert find_run(runs, "runs/clip-20260101-0000-aaaa").path.samefile(first.path)
    assert find_run(runs, first.name) == first
    assert find_run(runs, "clip-20260101") == first
    assert find_run(runs, "text") == other
    assert find_run(runs, "clip") == second
    assert find_run(runs, "latest") == other


@pytest.mark.parametrize("reference", ["cli", "nothing", "", "..", "\x00", "a" * 5000, "[/]"])
def test_an_ambiguous_or_unknown_reference_lists_the_choices(tmp_path: Path, reference: str) -> None:
    named_run(tmp_path, "clip-20260101-0000-aaaa", "2026-01-01T00:00:00+00:00")
    named_run(tmp_path, "clip-20260102-0000-bbbb", "2026-01-02T00:00:00+00:00")
    with pytest.raises(ConfigError) as caught:
        find_run(tmp_path, reference)
    assert "clip-20260101-0000-aaaa, clip-20260102-0000-bbbb" in (caught.value.remedy or "")


def test_a_second_process_is_kept_off_until_the_first_dies(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from vectoruniverse.runs.folder import Run\n"
    code += "run = Run(Path(sys.argv[1]))\n"
    code += "with run.lock():\n    run.set_state('running'); print(1, flush=True); time.sleep(60)"
    run = create_run(tmp_path, "x")
    with subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(LockedError, match=f"process {holder.pid} on"), run.lock():
            pass
        holder.kill()
    with run.lock():
        run.set_state("running")
    with run.lock():
        pass


def test_the_build_of_torch_is_told_although_its_wheel_does_not_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel from PyPI is called 2.13.0, and says +cu130 only when it is loaded."""
    import torch

    monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
    assert environment().packages["torch"] == "2.13.0+cu130"


def test_the_environment_is_json_and_tells_versions_and_commit(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert environment(tmp_path).git is None
    git("init")
    (tmp_path / "file").touch()
    git("add", "file")
    git("commit", "-m", "m")
    told = json.loads(record_text(environment(tmp_path)))
    assert told["git"] == {"commit": git("rev-parse", "HEAD"), "changed": False}
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))
    import torch

    assert told["packages"]["torch"] == torch.__version__
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert environment(tmp_path).git == {"commit": git("rev-parse", "HEAD"), "changed": True}


def test_secrets_stay_out_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "0123456789abcdef" * 2 + "01234567"
    monkeypatch.setenv("WANDB_API_KEY", secret)
    monkeypatch.setattr(
        sys, "argv", ["vu", "--api-key", secret, f"--token={secret}", f"x={secret}", f"u://me:{secret}@h"]
    )
    assert secret not in record_text(environment(tmp_path))


def test_ordinary_arguments_are_kept() -> None:
    arguments = [
        "vu",
        "train",
        "--config",
        "configs/clip_lora_r8_on_a_very_long_name_2026_of_mine.yaml",
        "--set",
        "train.lr=7e-7",
    ]
    assert without_secrets(arguments) == arguments
    assert without_secrets(["--password", "p", "--set", "wandb.api_key=p", "hf_abcdefgh1"]) == [
        "--password",
        "***",
        "--set",
        "wandb.api_key=***",
        "***",
    ]


def test_runs_are_a_pandas_table(tmp_path):
    first, second = create_run(tmp_path, "one"), create_run(tmp_path, "two")
    first.set_state("running", metric="recall@5")
    first.set_state("finished", best=0.75, epoch=3)
    first.write_text("evaluation.json", json.dumps(evaluation({"recall@5": 0.5}, {"recall@5": 0.75})) + "\n")
    (second.path / "state.json").write_text("{damaged")
    table = vectoruniverse.runs_table(tmp_path).sort_index()
    assert list(table.index) == sorted([first.name, second.name])
    assert table.loc[first.name, ["experiment", "state", "best", "epoch"]].tolist() == ["one", "finished", 0.75, 3]
    assert table.loc[first.name, "adapted/recall@5"] - table.loc[first.name, "base/recall@5"] == 0.25
    assert str(table["started"].dtype).startswith("datetime64") and str(table["started"].dt.tz) == "UTC"
    assert table.loc[second.name, "state"] == "unknown"


def test_no_runs_are_an_empty_table(tmp_path):
    assert vectoruniverse.runs_table(tmp_path / "none").empty


def test_the_latest_is_the_latest_that_the_command_can_use(tmp_path: Path) -> None:
    """A run that failed a minute ago is not what `vu eval latest` means, and a finished one cannot be resumed."""
    stopped = named_run(tmp_path, "clip-20260101-0000-aaaa", "2026-01-01T00:00:00+00:00")
    done = named_run(tmp_path, "clip-20260102-0000-bbbb", "2026-01-02T00:00:00+00:00")
    failed = named_run(tmp_path, "clip-20260103-0000-cccc", "2026-01-03T00:00:00+00:00")
    diverged = named_run(tmp_path, "clip-20260104-0000-dddd", "2026-01-04T00:00:00+00:00")
    unread = named_run(tmp_path, "clip-20260105-0000-eeee", "2026-01-05T00:00:00+00:00")
    for run, state in ((stopped, "interrupted"), (failed, "failed"), (diverged, "stopped"), (unread, "failed")):
        run.set_state(state)
    stopped.config_file.touch()
    done.adapter.mkdir()
    (diverged.checkpoints / "step-00000001").mkdir(parents=True)
    (diverged.checkpoints / "step-00000001" / "manifest.json").touch()
    for reference in ("latest", "clip"):
        assert find_trained_run(tmp_path, reference) == done
        assert find_run(tmp_path, reference, among="resumable") == stopped, "the failed one has no config"
        assert find_run(tmp_path, reference) == diverged, "the newest has no checkpoint"
    with pytest.raises(ConfigError, match="no adapter yet"):
        find_trained_run(tmp_path, failed.name)
    stopped.set_state("finished")
    assert find_run(tmp_path, "latest", among="resumable") == diverged, "nothing can be resumed; the latest is told of"


def test_the_folder_that_one_stands_in_is_a_run_with_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = named_run(tmp_path, "clip-20260101-0000-aaaa", "2026-01-01T00:00:00+00:00")
    (run.path / "figures").mkdir()
    monkeypatch.chdir(run.path / "figures")
    assert find_run(tmp_path, "..").name == run.name
    monkeypatch.chdir(run.path)
    assert find_run(tmp_path, ".").name == run.name
    assert find_run(tmp_path, ".").experiment == "clip"


def test_messages_name_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(ConfigError, match="no run or sweep is called 'nope'"):
        find_trained_run(tmp_path, "nope", kind="run or sweep")
    with pytest.raises(ConfigError, match="notes' is no folder of a run"):
        find_run(tmp_path, str(tmp_path / "notes"))


def test_a_run_folder_is_there_with_its_files_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"config.yaml": "name: x\n", "data.sha256": "0\n"}
    run = create_run(tmp_path, "x", files)
    assert {path.name: path.read_text() for path in run.path.iterdir()} == files

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ConfigError, match="cannot make a run folder"):
        create_run(tmp_path, "x", files)
    assert list(tmp_path.iterdir()) == [run.path]


def test_only_folders_that_nobody_is_making_are_cleared_away(tmp_path: Path) -> None:
    """One process was killed while it made a run folder; another is making one at this moment."""
    dead, living = tmp_path / ".x-1.run.tmp", tmp_path / ".x-2.run.tmp"
    for folder in (dead, living):
        folder.mkdir()
        (folder / "config.yaml").touch()
    with lock_file(living / ".lock"):
        create_run(tmp_path, "x")
    assert living.is_dir()
    assert not dead.exists()


def test_who_takes_a_run_up_clears_away_what_was_half_written(tmp_path: Path) -> None:
    run = create_run(tmp_path, "x")
    run.adapter.mkdir()
    for path in (run.path / ".state.json.0123abcd.tmp", run.adapter / ".README.md.0123abcd.tmp"):
        path.touch()
    (run.path / ".metrics.jsonl.tmp").touch()
    (run.path / "notes.tmp").touch()
    with run.lock():
        assert sorted(path.name for path in run.path.iterdir()) == [".lock", "adapter", "notes.tmp"]
    assert list(run.adapter.iterdir()) == []


@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "circle"])
def test_a_state_or_evaluation_that_is_no_file_is_unknown_and_waits_for_nobody(tmp_path: Path, kind: str) -> None:
    run = Run(tmp_path / "x-20260101-0000-aaaa")
    run.path.mkdir()
    for place in (run.state_file, run.evaluation_file):
        if kind == "fifo":
            os.mkfifo(place)
        elif kind == "folder":
            place.mkdir()
        else:
            place.symlink_to(place if kind == "circle" else "/etc/hostname")
    (summary,) = list_runs(tmp_path)
    assert (summary.state, summary.best) == ("unknown", None)
    assert run.read_evaluation() is None


def test_a_state_with_a_nan_goes_on_without_it(tmp_path: Path) -> None:
    run = create_run(tmp_path, "x")
    run.state_file.write_text('{"state": "running", "best": NaN, "seconds": -Infinity, "own": NaN, "kept": 1.5}')
    run.set_state("interrupted")
    told = json.loads(run.state_file.read_text(), parse_constant=pytest.fail)
    assert (told["best"], told["seconds"], told["kept"], "own" in told) == (None, None, 1.5, False)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = create_run(tmp_path, "x")
    record = EvaluationRecord.model_validate(evaluation({"recall@5": 0.5}, {"recall@5": 1 / 3}) | {"added later": [1]})
    run.write_record("evaluation.json", record)
    assert run.read_evaluation() == record
    run.set_state("running", metric="recall@5", best=0.1 + 0.2)
    assert RunState.model_validate(json.loads(run.state_file.read_text())) == run.read_state()


def test_one_door_names_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "evaluation.json"
    for content, said in (
        ("[1]", "not a JSON object"),
        ("{", "not JSON"),
        (json.dumps(evaluation({}, {}) | {"rows": "many"}), "rows: is not what was written"),
        (" " * 2000, "longer than 1,000 bytes"),
    ):
        file.write_text(content)
        with pytest.raises(DataError, match=said) as caught:
            read_record(file, EvaluationRecord, limit=1000)
        assert str(caught.value).startswith(str(file))
        assert caught.value.remedy
    with pytest.raises(DataError, match="is missing"):
        read_record(tmp_path / "absent.json", EvaluationRecord)


def test_programs_look_where_vu_runs_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named_run(tmp_path / "elsewhere", "clip-20260101-0000-aaaa", "2026-01-01T00:00:00+00:00")
    monkeypatch.setenv("VU_RUNS", str(tmp_path / "elsewhere"))
    for load in (vectoruniverse.load_run, vectoruniverse.load_classifier):
        with pytest.raises(ConfigError, match="clip-20260101-0000-aaaa has no adapter yet"):
            load("latest")
    assert list(vectoruniverse.runs_table().index) == ["clip-20260101-0000-aaaa"]
