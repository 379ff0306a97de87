"""Sweeps on a real Ray cluster of two nodes, on this machine."""

from __future__ import annotations

import json
import os
import signal
import sys
import tarfile
import threading
import time

import pytest

from vectoruniverse.errors import ConfigError
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.sweep import on_ray
from vectoruniverse.sweep.grid import Over, make_grid
from vectoruniverse.sweep.on_ray import OnRay, Resources
from vectoruniverse.sweep.runner import run_sweep
from vectoruniverse.terminal import Display

ray = pytest.importorskip("ray")

OWN = {"seconds", "step_seconds", "evaluation_seconds", "peak_memory_bytes", "run", "path", "timing", "compared_with"}
"""What differs between two calls of the same sweep."""


@pytest.fixture(scope="module")
def address():
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="module")
def engine(address):
    """One connection for all tests: its workers load libraries once."""
    with on(address) as connected:
        yield connected


def ranks(file, *values, runs, engine=None, rates=None):
    grid = make_grid(file, [], [Over("adapter.rank", values)], (0,), "auto", rates=rates)
    return run_sweep(grid, runs_dir=runs, out=None, display=Display(quiet=True), engine=engine)


def on(address):
    return OnRay(address, Resources(cpus=1), Display(quiet=True))


def facts(value):
    """A record without what differs between two calls."""
    if isinstance(value, dict):
        return {key: facts(one) for key, one in value.items() if key not in OWN}
    return [facts(one) for one in value] if isinstance(value, list) else value


def test_a_sweep_on_two_nodes_has_the_record_of_a_local_one(engine, config, tmp_path):
    file = config()
    local = ranks(file, 1, 2, runs=tmp_path / "local", rates="0.01,0.02").record
    there = ranks(file, 1, 2, runs=tmp_path / "there", engine=engine, rates="0.01,0.02").record
    again = ranks(file, 1, 2, 3, runs=tmp_path / "there", engine=engine, rates="0.01,0.02").record
    assert facts(there.model_dump()) == facts(local.model_dump())
    assert [cell.run for cell in again.cells[:2]] == [cell.run for cell in there.cells]
    assert again.cells[2].state == "finished" and again.timing.cells < there.timing.cells, "what was done is not again"
    assert not list((tmp_path / "there").glob(".s*"))


LONG = {"epochs": 12, "batch_size": 8, "lr": 0.003, "precision": "fp32", "device": "cpu", "log_every": 1}


def when_trained(runs, rank, epochs, do):
    """Call ``do`` with the run of a rank in a thread of its own, once it came so far."""

    def watch():
        for _ in range(2400):
            found = list(runs.glob(f"shapes-rank{rank}-*/metrics.jsonl"))
            if found and found[0].read_text().count('"epoch"') >= epochs:
                do(Run(found[0].parent))
                return
            time.sleep(0.025)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_a_killed_worker_s_cell_goes_on_from_its_checkpoint_and_ends_the_same(engine, config, tmp_path):
    file, runs = config(train=LONG), tmp_path / "there"
    local = ranks(file, 1, 2, runs=tmp_path / "local").record
    watch = when_trained(runs, 2, 3, lambda run: os.kill(run.read_state().pid, signal.SIGKILL))
    there = ranks(file, 1, 2, runs=runs, engine=engine).record
    watch.join()
    assert facts(there.model_dump()) == facts(local.model_dump())
    assert len(list_runs(runs)) == 2, "no cell began anew"
    assert Run(runs / there.cells[1].run).read_state().resumed is not None


@pytest.mark.slow
def test_a_worker_that_dies_whenever_it_is_started_costs_its_own_cell_only(engine, config, tmp_path, monkeypatch):
    file, runs = config(train=LONG), tmp_path / "runs"
    watch = when_trained(runs, 2, 1, lambda run: os.kill(run.read_state().pid, signal.SIGKILL))
    monkeypatch.setattr(engine, "_resources", Resources(cpus=1, retries=0))
    record = ranks(file, 1, 2, runs=runs, engine=engine).record
    watch.join()
    assert [cell.state for cell in record.cells] == ["finished", "failed"]
    assert "WorkerCrashedError" in record.cells[1].message
    whole = ranks(file, 1, 2, runs=runs).record
    assert [cell.state for cell in whole.cells] == ["finished", "finished"]
    assert len(list_runs(runs)) == 2, "this process goes on where the worker ended"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tarfile has had its filters from the start")
def test_a_run_that_is_sent_back_is_unpacked_by_a_python_without_filters_too(tmp_path, monkeypatch):
    sent = tmp_path / "worker" / "a-run"
    (sent / "checkpoints").mkdir(parents=True)
    (sent / "checkpoints" / "best").write_text("step-1", encoding="utf-8")
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    (tmp_path / "runs").mkdir()
    on_ray._unpack(on_ray._pack(sent), tmp_path / "runs", "a-run")
    assert [one.name for one in (tmp_path / "runs").iterdir()] == ["a-run"]
    assert (tmp_path / "runs" / "a-run" / "checkpoints" / "best").read_text(encoding="utf-8") == "step-1"


def test_workers_that_do_not_see_the_runs_folder_send_their_runs_back(engine, config, tmp_path, monkeypatch):
    apart = tmp_path / "seen by nobody"
    monkeypatch.setattr(on_ray, "_mark", lambda folder: apart)
    runs = tmp_path / "runs"
    runs.mkdir()
    record = ranks(config(), 1, 2, runs=runs, engine=engine).record
    again = ranks(config(), 1, 2, runs=runs, engine=engine).record
    assert [cell.state for cell in record.cells] == ["finished", "finished"]
    assert {one.run.name for one in list_runs(runs)} == {cell.run for cell in record.cells}
    assert facts(again.model_dump()) == facts(record.model_dump())
    assert not list(runs.glob(".sent-*"))


def test_a_cell_that_fails_tells_why_and_the_others_go_on(engine, config, tmp_path):
    file = config(train={**LONG, "epochs": 1, "lr": 1e30})
    grid = make_grid(file, [], [Over("train.lr", (0.01, 1e30))], (0,))
    found = run_sweep(grid, runs_dir=tmp_path / "runs", out=None, display=Display(quiet=True), engine=engine)
    states = {cell.values["train.lr"]: cell for cell in found.record.cells}
    assert states[0.01].state == "finished"
    assert states[1e30].state == "stopped" and "not finite" in states[1e30].message


@pytest.mark.slow
def test_ctrl_c_leaves_checkpoints_and_the_same_sweep_goes_on(engine, config, tmp_path):
    file, runs = config(train={**LONG, "epochs": 40}), tmp_path / "runs"
    watch = when_trained(runs, 1, 2, lambda run: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        ranks(file, 1, 2, 3, 4, runs=runs, engine=engine)
    watch.join()
    record = json.loads(next(runs.glob("shapes-sweep-*/sweep.json")).read_text())
    assert record["state"] == "interrupted"
    states = [cell["state"] for cell in record["cells"]]
    assert "interrupted" in states and "pending" in states
    begun = {one.run.name for one in list_runs(runs)}
    assert all(one.state == "interrupted" for one in list_runs(runs))
    whole = ranks(file, 1, 2, 3, 4, runs=runs, engine=engine).record
    assert {cell.state for cell in whole.cells} == {"finished"}
    assert begun < {cell.run for cell in whole.cells}


def test_without_a_cluster_at_the_address_or_without_ray_one_is_told_what_to_do(monkeypatch):
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"), on("127.0.0.1:1"):
        pass
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match="needs Ray"), on(None):
        pass
