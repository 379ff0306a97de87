"""scripts/benchmark compares equal work, and tells what it measured."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.machinery
import importlib.util
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def script_of(name: str) -> ModuleType:
    """A script as a module."""
    loader = importlib.machinery.SourceFileLoader(name, str(SCRIPTS / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    sys.modules[name] = module  # where its records look for their types
    loader.exec_module(module)
    return module


pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setenv("VU_BENCHMARK_CLOCK", "wall")

    def module(name: str) -> ModuleType:
        return importlib.import_module(f"bench.{name}")

    return module


@pytest.fixture
def material(bench, tmp_path):
    return bench("material").make(tmp_path / "made", "tiny-clip", 6)


def test_a_part_runs_from_the_command_line_and_tells_what_it_measured(tmp_path):
    command = [sys.executable, str(SCRIPTS / "benchmark"), "--parts", "recall", "--recall-rows", "256", "--rounds", "1"]
    command += ["--clock", "cpu"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "told.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "| 256 x 256 | bare product |" in done.stdout and "avx" in done.stdout
    told = json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))
    assert [len(one["rounds"]) for one in told["measured"]] == [1] * 5
    assert all(value >= 0 for one in told["measured"] for round_ in one["rounds"] for value in round_.values())


def test_what_was_measured_before_an_interruption_is_not_measured_again(bench, monkeypatch, tmp_path):
    rounds = bench("rounds")
    cases = [rounds.Case("p", "g", name, {"folder": "new"}) for name in ("we", "they")]
    measured, kept = [], []
    monkeypatch.setattr(rounds, "measure", lambda case: measured.append(case.name) or {"seconds": float(len(measured))})
    before = [
        {"case": {**dataclasses.asdict(cases[0]), "settings": {"folder": "old"}}, "rounds": [{"seconds": 9.0}]},
        {"case": dataclasses.asdict(cases[1]), "rounds": []},
    ]
    found = rounds.run_rounds(cases, 2, lambda _: kept.append(1), before)
    assert measured == ["they", "we", "they"] and len(kept) == 3
    assert [one.rounds for one in found] == [[{"seconds": 9.0}, {"seconds": 2.0}], [{"seconds": 1.0}, {"seconds": 3.0}]]


def test_a_benchmark_does_not_go_on_with_what_another_machine_measured(bench, tmp_path):
    script = script_of("benchmark")
    here = {"processor": "P", "flags": "avx2", "load before": "3.0"}
    assert script.told_before(None, here) == {} == script.told_before(tmp_path / "told.json", here)
    (tmp_path / "told.json").write_text(json.dumps({"machine": {**here, "load before": "0.1"}, "checks": {"p": 1}}))
    assert script.told_before(tmp_path / "told.json", here)["checks"] == {"p": 1}
    with pytest.raises(SystemExit, match=r"told.json was measured with flags: avx2, and here it is amx_bf16"):
        script.told_before(tmp_path / "told.json", {**here, "flags": "amx_bf16"})


def test_contestants_of_training_compute_the_same_loss_and_gradient_of_the_same_rows(bench, material):
    training = bench("training")
    found = training.same_work(material, 4)
    assert all(math.isfinite(found[name]["loss"]) for name in training.CONTESTANTS)
    need = {name.removeprefix("vectoruniverse, "): flops for name, flops in found["gflop_per_pair"].items()}
    whole = need.pop("vectoruniverse")
    assert 0.8 < whole / gflop_of_a_pair(material) < 1.2
    assert list(need) == [*training.LESS]
    assert need["patch dropout 0.5"] < 0.8 * need["patch dropout 0.25"] < 0.8 * whole
    assert need["upper third, trunk kept"] < 0.7 * need["upper third"] < 0.7 * whole


def gflop_of_a_pair(material) -> float:
    """Forward and input gradients of tiny-clip by hand: 12·d² weights a block, and L² scores."""
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(material.model)
    titles = [title for _, title in material.rows()[:4]]
    longest = max(map(len, AutoTokenizer.from_pretrained(material.model)(titles).input_ids))
    patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2 + 1
    flop = 0
    for tower, tokens in ((config.vision_config, patches), (config.text_config, longest)):
        width = tower.hidden_size
        linear, attention = 2 * tokens * 12 * width**2, 4 * tokens**2 * width
        flop += tower.num_hidden_layers * (2 * linear + 3 * attention)
    return flop / 1e9


def test_contestants_that_compute_something_else_are_refused(bench):
    training = bench("training")
    same = {"loss": 2.0, "gradient": 3.0}
    found = {name: dict(same) for name in training.CONTESTANTS}
    training.refuse_different(found)
    for what in same:
        for wrong in (same[what] * 1.001, math.nan):
            last = {**same, what: wrong}
            with pytest.raises(SystemExit, match=f"sentence-transformers.*another {what}"):
                training.refuse_different({**found, training.CONTESTANTS[-1]: last})


def test_every_contestant_trains_and_its_adapter_moves(bench, material):
    training = bench("training")
    for name in (*training.CONTESTANTS, *(f"vectoruniverse, {less}" for less in training.LESS)):
        contestant = training.build(name, material, 3, "fp32")
        before = [one.detach().clone() for one in contestant.trained()]
        assert len(contestant.epochs(2)) == 2
        moved = [not torch.equal(old, new) for old, new in zip(before, contestant.trained(), strict=True)]
        assert all(moved), name


def test_the_original_notes_loop_computes_the_linear_loss_and_trains(bench, material):
    found = bench("views").same_loss()
    assert found["vectoruniverse"] == pytest.approx(found["the original notes' loop"], rel=1e-5)
    loop = bench("notes_loop").NotesLoop(material, 3, "fp32")
    assert len(loop.epochs(1)) == 1


def test_memory_of_a_step_is_told_for_each_way_of_passing_a_batch(bench, tmp_path, monkeypatch):
    memory, rounds = bench("memory"), bench("rounds")
    monkeypatch.setattr(memory, "MOST_AT_ONCE", 24)
    cases = memory.cases(argparse.Namespace(work=tmp_path, memory_rows=[24, 32]), {})
    whole, again, micro = memory.WAYS
    assert [(case.settings["batch"], case.name) for case in cases] == [
        (24, whole),
        (24, again),
        (24, micro),
        (32, micro),
    ]
    found = {case.name: memory.measure(case) for case in cases[:2]}
    assert all(one["memory"] >= 0.0 for one in found.values()), "so few pairs take less than the allocator's noise"
    assert "24 pairs" in memory.page([rounds.Measured(cases[0], [found[whole]])], {})


def test_vectors_are_those_of_sentence_transformers(bench, material):
    paths, titles = map(list, zip(*material.rows(), strict=True))
    assert min(bench("embedding").same_vectors(material, paths, titles).values()) > 0.9999


def test_losses_of_64_rows_are_timed_and_drawn(bench):
    losses, rounds = bench("losses"), bench("rounds")
    cases = [rounds.Case("losses", "N", name, {"rows": 64}) for name in losses.LOSSES if name != losses.NOTES]
    found = [rounds.Measured(case, [losses.measure(case)]) for case in cases]
    assert all(one.median("ms") > 0 for one in found)
    views = losses.unit_rows(64)
    assert float(losses.LOSSES["info_nce"](views).detach()) == pytest.approx(
        float(losses.LOSSES[losses.PEER](views).detach()), rel=1e-5
    )
    assert losses.figure(found).startswith(b"<?xml")


def test_ratios_are_of_one_round_and_the_first_of_a_group_is_one(bench):
    rounds = bench("rounds")

    def measured(group: str, name: str, *seconds: float):
        return rounds.Measured(rounds.Case("p", group, name, {}), [{"seconds": one} for one in seconds])

    # the machine was ten times slower in the second round
    told = rounds.table(
        [measured("a", "we", 1, 10, 1), measured("a", "they", 2, 30, 2), measured("b", "we", 4, 4, 4)],
        [rounds.Column("s", "seconds")],
    )
    assert told.splitlines()[2:] == [
        "| a | we | 1.0 | 1 |",
        "| a | they | 2.0 | 2.00 (2.00–3.00) |",
        "| b | we | 4.0 | 1 |",
    ]


def test_what_needs_more_memory_than_is_free_is_left_out(bench, monkeypatch):
    losses, rounds = bench("losses"), bench("rounds")

    def greedy(views):
        return torch.empty(2**50, dtype=torch.uint8).sum() if len(views["I"]) > 2 else views["I"].sum()

    monkeypatch.setitem(losses.LOSSES, "greedy", greedy)
    assert losses.measure(rounds.Case("losses", "N", "greedy", {"rows": 4})) == {}


def test_without_a_gpu_its_check_says_so_and_ends_with_2(bench, monkeypatch, capsys):
    script = script_of("check_gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["check_gpu"])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "no GPU is reached" in said and "CUDA" in said and "--device cpu" in said


def test_a_check_tells_tests_and_figures_and_what_was_cut_off_in_one_file(bench, monkeypatch, tmp_path, capsys):
    script = script_of("check_gpu")
    junit = (
        '<testsuites><testsuite><testcase classname="tests.t" name="good"/>'
        '<testcase classname="tests.t" name="bad"><failure message="1 != 2"/></testcase>'
        '<testcase classname="tests.t" name="old"><skipped message="only emulates bf16"/></testcase>'
        "</testsuite></testsuites>"
    )
    case = {"part": "training", "group": "fp32, batch 4", "name": "vectoruniverse", "settings": {}}
    told = {"machine": {}, "checks": {}, "measured": [{"case": case, "rounds": [{"pairs": 12.5, "share": 0.75}]}]}

    def run(command, until):
        for argument, following in itertools.pairwise([*command, ""]):
            if argument.startswith("--junit-xml="):
                Path(argument.partition("=")[2]).write_text(junit)
                return 1
            if argument == "--json":
                Path(following).write_text(json.dumps(told))
        return None  # the time was up

    monkeypatch.setattr(script, "run", run)
    monkeypatch.setattr(sys, "argv", ["check_gpu", "--device", "cpu", "--out", str(tmp_path / "card.json")])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 1
    found = script.GpuCheck.model_validate_json((tmp_path / "card.json").read_text(encoding="utf-8"))
    assert found.tests == {"passed": 1, "failed": 1, "skipped": 1} and not found.complete and not found.is_well
    assert found.troubles == {"tests.t.bad": "failed: 1 != 2", "tests.t.old": "skipped: only emulates bf16"}
    assert found.benchmarks[0]["measured"] == told["measured"] and found.environment.packages["torch"]
    said = capsys.readouterr().out
    assert "vectoruniverse: 12.5 pairs/s, 75% of the peak" in said and "not all was measured in time" in said
    good = found.model_copy(update={"complete": True, "tests": {"passed": 1, "failed": 0, "skipped": 0}})
    assert good.is_well


def test_tests_that_did_not_come_to_their_end_have_failed(bench, tmp_path):
    counts, troubles = script_of("check_gpu").tests_told(tmp_path / "none.xml")
    assert counts["failed"] == 1 and troubles


@pytest.mark.parametrize("capability", [(7, 0), (9, 0)])
def test_a_card_is_measured_in_a_format_that_it_has_and_by_arguments_that_the_benchmark_knows(
    bench, monkeypatch, capability
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    check, benchmark = script_of("check_gpu"), script_of("benchmark")
    for options in (*check.benchmarks("cuda"), *check.benchmarks("cpu")):
        monkeypatch.setattr(sys, "argv", ["benchmark", *options])
        told = benchmark.arguments()
        if told.device == "cuda" and "training" in told.parts:
            assert ("bf16" in told.formats) == (capability == (9, 0)) and ("fp16" in told.formats) == (
                capability == (7, 0)
            )


def test_updates_under_several_settings_are_timed_in_turns(bench, shapes, tmp_path, capsys):
    script = script_of("benchmark_settings")
    upper = ["adapter.vision_layers_to_transform=[3]", "adapter.text_layers_to_transform=[2]"]
    place = [f"data.root={shapes}", f"data.cache_dir={tmp_path}", "data.include={}", "forgetting=null"]
    turns = ("views.pool=null", "views.pool=2", "train.activation_checkpointing=true")
    common = [*place, *upper, "train.precision=fp32", "train.device=cpu"]
    script.measure({turn: script.load_experiment("quickstart.yaml", [*common, turn]) for turn in turns}, 4, 2)
    told = capsys.readouterr().out
    for turn in turns:
        assert f"{turn}: first update" in told
    assert told.count("times as fast as the first") == len(turns)


def test_processes_of_one_run_are_measured_together_and_one_that_fails_ends_the_benchmark(bench, tmp_path):
    together = bench("processes").together
    place = "os.environ['RANK'] + os.environ['WORLD_SIZE'] + os.environ['OMP_NUM_THREADS']"
    write = f"import os, pathlib; pathlib.Path({str(tmp_path)!r}, {place}).touch()"
    together([sys.executable, "-c", write], 3, 1)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["031", "131", "231"]
    with pytest.raises(SystemExit, match="no rows"):
        together([sys.executable, "-c", "import os, sys; os.environ['RANK'] == '1' and sys.exit('no rows')"], 2, 1)


def test_the_guide_shows_what_scripts_capacity_prints(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["capacity"])
    script_of("capacity").main()
    guide = SCRIPTS.parent / "vectoruniverse" / "guide" / "capacity.md"
    assert capsys.readouterr().out in guide.read_text(encoding="utf-8"), "scripts/capacity prints something else"


def test_messages_of_the_linear_loss_are_those_that_processes_send():
    capacity = script_of("capacity")
    sums = capacity.messages(256, 2, 0, "linear") / 4  # an all-reduce of 2·E numbers between two processes moves 2·E
    assert sums == 2 * capacity.WIDTH
    assert capacity.messages(256, 1, 1e6, "info_nce") == 0
    assert capacity.memory(4096, 1, 64) < capacity.memory(4096, 1, None) / 10
