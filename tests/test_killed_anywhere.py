"""A run that is killed at any of its file-system calls goes on to the same end, and leaves nothing half written."""

from __future__ import annotations

import os
from random import Random

import pytest

from tests.killing import count_calls, faults_of_a_kill, faults_of_random_kills, in_peace, tiny, works
from tests.models.models import save_clip
from vectoruniverse.experiment import train, train_or_go_on
from vectoruniverse.terminal import Display

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL and fork")

SAMPLE = 8
"""Kills tried here, evenly over the run and its end; scripts/kill_everywhere tries all."""


def test_killed_anywhere_a_run_goes_on_to_the_same_end(shapes, tmp_path):
    experiment = tiny(tmp_path, shapes, save_clip(tmp_path / "clip"))
    expected = train(experiment, runs_dir=tmp_path / "expected", display=Display(quiet=True)).run.path
    counted = tmp_path / "counted"
    calls = count_calls(lambda: train_or_go_on(experiment, runs_dir=counted, display=Display(quiet=True)), counted)
    assert calls > 40, "the calls are seen"
    sample = sorted({1 + round(i * (calls - 1) / (SAMPLE - 1)) for i in range(SAMPLE)})
    faults = {call: faults_of_a_kill(call, experiment, tmp_path / f"killed-{call}", expected) for call in sample}
    assert not {call: found for call, found in faults.items() if found}


def test_killed_at_random_runs_and_sweeps_go_on_by_the_same_command_to_the_same_end(shapes, tmp_path):
    moments = Random(20)
    for work in works(tmp_path, shapes, save_clip(tmp_path / "clip")):
        peace = in_peace(work, tmp_path / f"peace-{work.name}")
        where, faults = faults_of_random_kills(work, tmp_path / work.name, peace, moments)
        assert not faults, f"{work.name}, killed at {where}"
