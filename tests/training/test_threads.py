"""As many threads as processors are free; a run keeps those it began with."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from vectoruniverse.training import threads
from vectoruniverse.training.threads import Usage, choose_threads, processors, threads_beside, threads_of_run, usage


@pytest.mark.parametrize(
    ("there", "of", "busy", "count"),
    [(2, 2, 0.0, 2), (2, 2, 1.0, 1), (2, 2, 0.3, 2), (2, 2, 7.0, 1), (2, 64, 30.0, 2), (8, 8, 3.2, 5), (1, 1, 1.0, 1)],
)
def test_threads_are_those_that_others_leave(there, of, busy, count):
    assert threads_beside(there, of, busy) == count


@pytest.fixture
def two_processors(monkeypatch):
    """A machine of two processors, whose threads and variables are put back afterwards."""
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "_allowed", lambda: {0, 1})
    monkeypatch.setattr(threads, "_quotas", lambda: iter(()))
    yield monkeypatch
    torch.set_num_threads(before)


def loaded(monkeypatch, *, others: float, own: float) -> str | None:
    """What is said when others and this process have spent so many CPU seconds in ten seconds of loading."""
    found = iter([Usage(100.0, 50.0, 1.0), Usage(110.0, 50.0 + others + own, 1.0 + own)])
    monkeypatch.setattr(threads, "usage", lambda: next(found))
    threads.watch_others()
    return choose_threads()


def test_beside_a_busy_program_one_thread_computes_and_a_person_is_told(two_processors):
    said = loaded(two_processors, others=10.0, own=9.0)
    assert torch.get_num_threads() == 1
    assert said is not None and "1.0 of 2 processors busy: computing with 1 thread (OMP_NUM_THREADS=2" in said


def test_what_this_process_uses_itself_is_no_load(two_processors):
    assert loaded(two_processors, others=0.5, own=19.0) is None
    assert torch.get_num_threads() == 2


def test_a_number_that_somebody_gave_stays(two_processors):
    two_processors.setenv("OMP_NUM_THREADS", "2")
    before = torch.get_num_threads()
    assert loaded(two_processors, others=20.0, own=0.0) is None
    with threads_of_run(1):
        assert torch.get_num_threads() == before


def test_a_process_that_is_no_command_keeps_its_threads(two_processors):
    before = torch.get_num_threads()
    assert choose_threads() is None
    assert torch.get_num_threads() == before


def test_a_resumed_run_computes_with_the_threads_it_began_with(two_processors):
    torch.set_num_threads(2)
    with threads_of_run(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with threads_of_run(64):  # more than there are would only wait for each other
        assert torch.get_num_threads() == 2
    with threads_of_run(None):
        assert torch.get_num_threads() == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what processors do")
def test_a_busy_program_beside_this_one_is_seen():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        while (began := usage()) is None or busy.poll() is not None:
            pytest.fail("the system does not tell")
        threads.time.sleep(1.0)
        now = usage()
        assert now is not None
        others = now.everybody - began.everybody - (now.own - began.own)
        assert others > 0.3 * (now.at - began.at)
    finally:
        busy.kill()
        busy.wait()


def test_quotas_of_control_groups_count(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "_allowed", lambda: set(range(16)))
    monkeypatch.setattr(threads, "_CGROUP", tmp_path)
    assert processors() == 16
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert processors() == 16
    (tmp_path / "cpu.max").write_text("350000 100000\n")
    assert processors() == 3
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("200000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert processors() == 2
    assert os.cpu_count()
