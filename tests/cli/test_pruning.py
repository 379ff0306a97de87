"""`vu runs` with its filters, show, tag and prune: what goes, what stays, and that nothing else is touched."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cli.test_runs import vu
from vectoruniverse.errors import ConfigError, DataError, LockedError
from vectoruniverse.runs.base_record import BaseRecord
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.runs.removing import remove_run
from vectoruniverse.runs.tags import tag, tags_held, tags_of
from vectoruniverse.unattended.schedule import Place, make_schedule


@pytest.fixture
def runs(tmp_path):
    """Six runs of two experiments, earliest first, with best values 0.1, 0.9, 0.2, …"""
    folder = tmp_path / "runs"
    for number, (experiment, best) in enumerate([("one", 0.1), ("one", 0.9), ("one", 0.2), ("one", 0.3), ("two", 0.5)]):
        run = Run(folder / f"{experiment}-2026010{number + 1}-0000-aaa{number}")
        (run.checkpoints / "step-1").mkdir(parents=True)
        (run.checkpoints / "step-1" / "manifest.json").write_text("{}")
        run.config_file.write_text("name: x\n")
        run.set_state("finished", metric="recall@5", best=best, started=f"2026-01-0{number + 1}T00:00:00+00:00")
    return folder


def names(folder):
    return [one.run.name[-4:] for one in list_runs(folder)]


def prune(runs, *arguments):
    done = vu("runs", "prune", "--runs-dir", str(runs), *arguments, cwd=runs.parent)
    assert done.returncode == 0, done.stderr
    return done


def test_runs_go_but_for_the_best_the_newest_and_tagged_ones_and_only_with_yes(runs):
    before = sorted(str(path) for path in runs.rglob("*"))
    told = prune(runs, "--keep-last", "1")
    assert "would go" in told.stdout and sorted(str(path) for path in runs.rglob("*")) == before
    assert (
        vu("runs", "tag", "one-20260103-0000-aaa2", "paper", "--runs-dir", str(runs), cwd=runs.parent).returncode == 0
    )
    told = prune(runs, "--keep-last", "1", "--yes")
    assert "tagged paper" in told.stdout and "the best of its experiment" in told.stdout
    assert names(runs) == ["aaa1", "aaa2", "aaa3", "aaa4"]
    assert [path.name for path in runs.glob(".*")] == [".tags.lock"]


def test_filters_choose_what_may_go(runs):
    list_runs(runs)[0].run.set_state("failed")
    prune(runs, "--keep-last", "0", "--state", "failed", "--yes")
    assert names(runs) == ["aaa1", "aaa2", "aaa3", "aaa4"]
    prune(runs, "--keep-last", "0", "--older-than", "350d", "--yes")
    prune(runs, "--keep-last", "0", "--experiment", "two", "--yes")
    assert len(names(runs)) == 4, "too young, and the best of its experiment"


def test_checkpoints_alone_go_where_all_else_stays(runs):
    prune(runs, "--keep-last", "1", "--checkpoints-only", "--yes")
    assert [one.run.checkpoints.is_dir() for one in list_runs(runs)] == [False, False, False, True, True]
    assert len(names(runs)) == 5


def test_a_run_at_work_and_one_with_a_damaged_tag_stay(runs):
    first, _, third, *_ = (one.run for one in list_runs(runs))
    (third.path / "tags.json").write_text("{")
    with first.lock():
        told = prune(runs, "--keep-last", "1", "--yes")
    assert "works on this run" in told.stderr and "tags.json is damaged" in told.stdout
    assert names(runs) == ["aaa0", "aaa1", "aaa2", "aaa3", "aaa4"]


def test_options_before_the_command_are_refused_and_nothing_goes(runs):
    for options in (("--experiment", "two"), ("--runs-dir", str(runs))):
        done = vu("runs", *options, "prune", "--keep-last", "0", "--yes", cwd=runs.parent)
        assert done.returncode == 2 and "behind vu runs prune" in done.stderr and len(names(runs)) == 5


def test_while_a_sweep_s_record_is_damaged_nothing_goes(runs):
    (runs / "one-sweep").mkdir()
    (runs / "one-sweep" / "sweep.json").write_text("{")
    told = prune(runs, "--keep-last", "0", "--yes")
    assert "one-sweep/sweep.json cannot be read" in told.stdout and len(names(runs)) == 5


def test_a_run_that_cannot_go_does_not_keep_the_others(runs, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    first = list_runs(runs)[0].run
    (first.checkpoints / "step-1" / "manifest.json").unlink()
    (first.checkpoints / "step-1").rmdir()
    first.checkpoints.rmdir()
    first.checkpoints.symlink_to(tmp_path / "elsewhere")
    done = vu("runs", "prune", "--keep-last", "0", "--yes", "--runs-dir", str(runs), cwd=runs.parent)
    assert done.returncode == 2 and "is a link" in done.stderr and "2 of 5 runs" in done.stdout
    assert names(runs) == ["aaa0", "aaa1", "aaa4"] and (tmp_path / "elsewhere").is_dir()


def test_links_and_strange_folders_are_left_alone(runs, tmp_path):
    elsewhere = tmp_path / "one-20260101-0000-bbbb"
    elsewhere.mkdir()
    (elsewhere / "state.json").write_text('{"state": "finished"}')
    (runs / elsewhere.name).symlink_to(elsewhere)
    prune(runs, "--keep-last", "0", "--yes")
    assert (elsewhere / "state.json").is_file() and (runs / elsewhere.name).is_symlink()
    with pytest.raises(ConfigError, match="is a link"):
        remove_run(Run(runs / elsewhere.name))
    (tmp_path / "notes").mkdir()
    with pytest.raises(ConfigError, match="not a run's folder"):
        remove_run(Run(tmp_path / "notes"))
    assert (tmp_path / "notes").is_dir()


def scheduled(runs, tmp_path, name="one"):
    """The record of a schedule that trains an experiment here every night."""
    file = tmp_path / f"{name}.yaml"
    file.write_text("name: x\ntask: image_text\nmodel: tiny-clip\ndata:\n  root: pictures\n")
    made = make_schedule(
        str(file), [f"name={name}"], at="0 3 * * *", command="train", name=None, runs_dir=runs, ping=None
    )
    Place.default().write(made)
    return Place.default().record(made.name)


def test_the_newest_run_of_what_is_scheduled_stays_whatever_is_asked(runs, tmp_path):
    scheduled(tmp_path / "others", tmp_path, "two")
    record = scheduled(runs, tmp_path)
    told = prune(runs, "--keep-last", "0")
    assert told.stdout.count("is scheduled") == 1 and "2 of 5 runs" in told.stdout
    for damage in ("{", record.read_text().replace("one.yaml", "none.yaml")):
        record.write_text(damage)
        told = prune(runs, "--keep-last", "0")
        assert "a schedule cannot be read" in told.stdout and "2 of 5 runs" in told.stdout
    record.unlink()
    prune(runs, "--keep-last", "0", "--yes")
    assert names(runs) == ["aaa1", "aaa4"]


def test_a_run_that_is_tagged_after_it_was_chosen_stays(runs, monkeypatch):
    tag(list_runs(runs)[0].run, "paper")
    monkeypatch.setattr("vectoruniverse.unattended.pruning.tags_of", lambda run: [])
    for more in ((), ("--checkpoints-only",)):
        told = prune(runs, "--keep-last", "0", "--yes", *more)
        assert "was tagged paper meanwhile" in told.stderr
    assert names(runs) == ["aaa0", "aaa1", "aaa4"] and list_runs(runs)[0].run.checkpoints.is_dir()


def test_whoever_tags_a_run_that_is_being_removed_brings_nothing_back(runs, tmp_path):
    run = list_runs(runs)[0].run
    with ThreadPoolExecutor(1) as pool:
        with tags_held(run):
            tagging = pool.submit(tag, run, "late")
            time.sleep(0.2)
            run.path.rename(tmp_path / "gone")
        with pytest.raises(DataError, match="there no more"):
            tagging.result(timeout=10)
    assert not run.path.exists()


def test_a_base_is_needed_also_where_the_settings_cannot_be_read(runs):
    first, _, third, *_ = (one.run for one in list_runs(runs))
    third.write_record("base.json", BaseRecord(model=str(first.adapter)))
    assert "needed by a sweep or another run" in prune(runs, "--keep-last", "0").stdout


def test_killed_while_a_run_is_removed_nothing_counts_as_a_run(runs, monkeypatch):
    run = list_runs(runs)[0].run
    if not (child := os.fork()):
        monkeypatch.setattr("shutil.rmtree", lambda path: os.kill(os.getpid(), signal.SIGKILL))
        remove_run(run)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert "aaa0" not in names(runs)
    with pytest.raises(DataError, match="there no more"), run.lock():
        pass


def test_tags_are_listed_filtered_and_taken_away(runs):
    place = ("--runs-dir", str(runs))
    for words in (("tag", "one", "paper"), ("tag", "one", "good")):
        assert vu("runs", *words, *place, cwd=runs.parent).returncode == 0
    listed = json.loads(vu("runs", *place, "--tag", "paper", "--json", cwd=runs.parent).stdout)
    assert [one["run"][-4:] for one in listed] == ["aaa3"] and listed[0]["tags"] == ["good", "paper"]
    assert vu("runs", "tag", "one", "paper", "--remove", *place, cwd=runs.parent).returncode == 0
    assert tags_of(list_runs(runs)[3].run) == ["good"]
    for words, says in ((("tag", "one", "a/b"), "letters"), (("tag", "one", "none", "--remove"), "has no tag")):
        done = vu("runs", *words, *place, cwd=runs.parent)
        assert done.returncode == 2 and says in done.stderr


def test_lists_are_filtered_by_experiment_state_and_date(runs):
    def listed(*arguments):
        told = vu("runs", "--runs-dir", str(runs), "--json", *arguments, cwd=runs.parent)
        return [one["run"][-4:] for one in json.loads(told.stdout)]

    assert listed("--experiment", "two") == ["aaa4"] and listed("--state", "failed") == []
    assert listed("--since", "2026-01-03") == ["aaa2", "aaa3", "aaa4"] and listed("--since", "8500h") == listed()
    assert listed("--until", "2026-01-03") == ["aaa0", "aaa1", "aaa2"], "a date counts to its end"
    assert listed("--until", "2026-01-02T23:00") == ["aaa0", "aaa1"] and listed("--until", "1h") == listed()
    assert listed("--since", "2026-01-02", "--until", "2026-01-02") == ["aaa1"]
    list_runs(runs)[0].run.note(started="whenever")
    assert "aaa0" not in listed("--until", "2030-01-01"), "nobody knows when it began"
    for option in ("--since", "--until"):
        done = vu("runs", option, "soon", cwd=runs.parent)
        assert done.returncode == 2 and option in done.stderr


def test_a_state_that_there_is_none_of_is_refused_with_those_that_there_are(runs):
    for command in (("runs",), ("runs", "prune")):
        done = vu(*command, "--state", "done", "--runs-dir", str(runs), cwd=runs.parent)
        assert done.returncode == 2 and "finished" in done.stderr and "dead" in done.stderr


def test_what_a_run_is_is_shown_even_where_its_files_are_damaged(runs):
    done = vu("runs", "show", "two", "--runs-dir", str(runs), "--json", cwd=runs.parent)
    facts = json.loads(done.stdout)
    assert facts["state"] == "finished" and facts["config"] and any("checkpoints" in one for one in facts["disk"])
    assert facts["verdict"] == []


def test_the_verdict_of_a_run_is_shown(runs):
    bounds = {"base": [0.4, 0.6], "adapted": [0.6, 0.8], "difference": [0.2, 0.1, 0.3]}
    record = {"split": "test", "rows": 50, "data": "abc", "monitor": "recall@5", "best_epoch": 2, "has_space": False}
    record |= {"base": {"recall@5": 0.5}, "adapted": {"recall@5": 0.7}, "intervals": {"recall@5": bounds}}
    run = list_runs(runs)[-1].run
    for damaged in ([0.2], [0.2, 0.1, 0.3, 0.4]):
        run.write_text("evaluation.json", json.dumps({**record, "intervals": {"recall@5": {"difference": damaged}}}))
        assert vu("runs", "show", "two", "--runs-dir", str(runs), cwd=runs.parent).returncode == 0
    run.write_text("evaluation.json", json.dumps(record))
    told = vu("runs", "show", "two", "--runs-dir", str(runs), cwd=runs.parent).stdout
    assert "verdict       Better: recall@5 went from 50.0 % to 70.0 %. Change +20.0 points, 95 % interval" in told
    assert "disk          checkpoints 0.0 MiB\n" in told and "all 0.0 MiB" in told


def test_a_locked_run_says_who_holds_it(runs):
    run = list_runs(runs)[0].run
    with run.lock(), pytest.raises(LockedError, match="works on this run"):
        remove_run(run)
