"""Whole sweeps on a small folder of real pictures."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import threading
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import start
from vectoruniverse import experiment
from vectoruniverse.errors import ConfigError, DataError, LockedError
from vectoruniverse.experiment import train
from vectoruniverse.metrics.intervals import difference_interval
from vectoruniverse.metrics.sweeps import summarise_sweep
from vectoruniverse.report.sweep.record import read_sweep
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.runs.outcomes import outcomes
from vectoruniverse.sweep.grid import Over, make_grid, parse_over
from vectoruniverse.sweep.runner import run_sweep
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.finished import evaluate_run
from vectoruniverse.terminal import Display


def quiet():
    return Display(quiet=True)


def ranks(file, *values, seeds=(0,), runs, out=None, overrides=(), **options):
    grid = make_grid(file, overrides, [Over("adapter.rank", values)], seeds, "auto")
    return run_sweep(grid, runs_dir=runs, out=out, display=quiet(), **options)


def weights(run):
    return load_file(next((run.path / "adapter").glob("*model.safetensors")))


@pytest.mark.parametrize(
    ("sections", "over"),
    [
        ({}, "adapter.rank=1,3"),
        ({"adapter": {"method": "lora", "train_projections": True, "train_logit_scale": True}}, "adapter.rank=1,3"),
        (
            {"adapter": {"method": "full", "train_logit_scale": True}, "loss": {"name": "info_nce"}},
            "train.lr=0.02,0.01",
        ),
    ],
    ids=["lora", "lora and projections", "full"],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_cell_of_a_sweep_is_the_same_run_as_alone_bit_for_bit(sections, over, precision, config, tmp_path):
    file, settings = config(**sections), [f"train.precision={precision}"]
    grid = make_grid(file, settings, [parse_over(over)], (0,))
    record = run_sweep(grid, runs_dir=tmp_path / "runs", out=None, display=quiet()).record
    last = record.cells[-1] if "rank" in over else record.cells[0]
    values = [f"{key}={value}" for key, value in last.values.items()]
    alone = train(
        load_experiment(file, [*settings, *values, "eval.report=false"]), runs_dir=tmp_path / "alone", display=quiet()
    )
    inside = Run(tmp_path / "runs" / last.run)
    assert inside.read_evaluation().adapted == dict(alone.adapted)
    assert inside.read_evaluation().base == dict(alone.base)
    ours, theirs = weights(inside), weights(alone.run)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    lines = [
        [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "train/pairs_per_second")} for line in text]
        for text in (r.metrics_file.read_text().splitlines() for r in (inside, alone.run))
    ]
    assert lines[0] == lines[1]


def test_a_sweep_tells_everything_about_its_cells(config, tmp_path, monkeypatch):
    file, write = config(forgetting={"include": {"Category": ["yellow"]}, "scales": [0.0, 0.5, 1.0]}), Run._write_state

    def written(run, earlier, facts):
        assert earlier.state != "finished", "nobody would clear away what a kill leaves of a finished run's file"
        write(run, earlier, facts)

    monkeypatch.setattr(Run, "_write_state", written)
    found = ranks(file, 1, 2, seeds=(0, 1), runs=tmp_path / "runs")
    record = json.loads(found.folder.record_file.read_text())
    assert read_sweep(found.folder.record_file) == found.record
    assert record["state"] == "finished" and record["seeds"] == [0, 1] and record["over"] == {"adapter.rank": [1, 2]}
    assert record["alpha"] == "proportional:1"
    assert [(c["values"]["adapter.rank"], c["seed"], c["state"]) for c in record["cells"]] == [
        (1, 0, "finished"), (2, 0, "finished"), (1, 1, "finished"), (2, 1, "finished")
    ]  # fmt: skip
    cell = record["cells"][1]
    assert cell["trained_parameters"] == 2 * 2 * 4 * 2 * (32 + 32)  # towers, layers, targets, rank, in + out
    assert (cell["rank"], cell["alpha"], cell["scale"]) == (2, 2.0, 1.0)
    assert [point["epoch"] for point in cell["curve"]] == [0, 1, 2]
    assert cell["seconds"] >= cell["step_seconds"] > 0
    assert cell["peak_memory_bytes"] is None or cell["peak_memory_bytes"] > 2**20
    assert cell["curve"][0]["value"] == record["base"]["metrics"]["recall@5"]
    assert set(cell["adapter"]) == {"vision_model", "text_model"}
    assert sum(cell["spectrum"]) == pytest.approx(1, abs=1e-3)
    assert (found.folder.path / cell["path"]).resolve() == (tmp_path / "runs" / cell["run"]).resolve()
    _, evaluated = evaluate_run(cell["run"], runs_dir=tmp_path / "runs", split="val", display=quiet())
    assert dict(evaluated.adapted.metrics) == pytest.approx(cell["metrics"], abs=1e-5)
    timing = record["timing"]
    assert timing["cells"] == 4
    assert timing["outside_steps"] == pytest.approx(1 - timing["step_seconds"] / timing["seconds"], abs=1e-3)

    _check_statistics(record, tmp_path / "runs")
    _check_adapters(record, tmp_path / "runs")
    ledger = record["forgetting"]
    assert (ledger["old_rows"], ledger["new_rows"]) == (8, record["data"]["rows"])
    assert [point["scale"] for point in ledger["curve"]] == [0.0, 0.5, 1.0]
    chosen = next(c for c in record["cells"] if c["run"] == ledger["run"])
    assert (chosen["values"], chosen["seed"]) == (record["statistics"]["smallest_not_worse"], 0)
    assert ledger["curve"][0]["new"][0] == pytest.approx(record["base"]["metrics"]["recall@5"])
    assert ledger["curve"][-1]["new"][0] == pytest.approx(chosen["metrics"]["recall@5"])

    rows = list(csv.DictReader(found.folder.table_file.read_text().splitlines()))
    assert [row["run"] for row in rows] == [c["run"] for c in record["cells"]]
    assert float(rows[1]["recall@5"]) == cell["metrics"]["recall@5"]


def _check_statistics(record, runs):
    by_cell = {
        (c["values"]["adapter.rank"], c["seed"]): outcomes(Run(runs / c["run"]), "recall@5") for c in record["cells"]
    }
    one = next(iter(by_cell.values()))
    summary = summarise_sweep(
        {key: o.adapted for key, o in by_cell.items()}, one.base, seed=0, groups=one.drawn, share=True
    )
    told = record["statistics"]
    assert [v["mean"] for v in told["values"]] == [[v.mean.estimate, v.mean.low, v.mean.high] for v in summary.values]
    assert told["best"] == {"adapter.rank": summary.best.value}
    for key, found in by_cell.items():
        cell = next(c for c in record["cells"] if (c["values"]["adapter.rank"], c["seed"]) == key)
        assert found.adapted.mean() == pytest.approx(cell["metrics"]["recall@5"])
        assert found.base.mean() == pytest.approx(record["base"]["metrics"]["recall@5"])
    assert "rank" in told["answer"]


def _check_adapters(record, runs):
    assert [(a["rank"], a["seed"]) for a in record["adapters"]] == [(2, 0), (2, 1)]
    first = record["adapters"][0]
    path, layer = next(iter(first["layers"].items()))
    state = weights(Run(runs / first["run"]))
    a, b = (state[f"base_model.model.{path}.lora_{x}.weight"].double() for x in "AB")
    expected = torch.linalg.svdvals(b @ a)[:2]
    assert layer["singular_values"] == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-9)
    full = next(cut for cut in first["truncated"] if cut["rank"] == 2)
    whole = next(c for c in record["cells"] if c["run"] == first["run"])
    assert full["recall@5"][0] == pytest.approx(whole["metrics"]["recall@5"]), "cut to its own rank it is itself"
    assert full["minus_trained"] == pytest.approx([0, 0, 0])


def test_the_same_command_again_trains_nothing_and_more_values_only_the_new(config, tmp_path):
    file, runs = config(), tmp_path / "runs"
    first = ranks(file, 1, 2, runs=runs)
    names = [cell.run for cell in first.record.cells]
    stamps = {run.run.name: run.run.state_file.stat().st_mtime_ns for run in list_runs(runs)}
    again = ranks(file, 1, 2, runs=runs)
    assert again.record.cells == first.record.cells
    assert again.record.timing == first.record.timing, "it is of the last call that trained"
    more = ranks(file, 4, 2, seeds=(0, 1), runs=runs)
    assert more.folder.path == first.folder.path
    assert [(c.values["adapter.rank"], c.seed) for c in more.record.cells] == [
        (1, 0), (2, 0), (4, 0), (2, 1), (4, 1)
    ]  # fmt: skip
    assert more.record.timing.cells == 3
    assert more.record.over == {"adapter.rank": [1, 2, 4]}
    now = {run.run.name: run.run.state_file.stat().st_mtime_ns for run in list_runs(runs)}
    assert {name: now[name] for name in names} == stamps
    assert len(now) == 5
    shutil.rmtree(more.folder.path)
    assert ranks(file, 1, 2, runs=runs).record.cells == first.record.cells, "the runs themselves are recognised"


def test_a_cell_that_fails_is_told_and_the_others_go_on(config, tmp_path):
    grid = make_grid(config(), [], [parse_over("adapter.vision_targets=[q_projj],[v_proj],[q_proj]")], (0,))
    found = run_sweep(grid, runs_dir=tmp_path / "runs", out=None, display=quiet())
    states = {c.values["adapter.vision_targets"][0]: c.state for c in found.record.cells}
    assert states == {"q_projj": "failed", "v_proj": "finished", "q_proj": "finished"}
    assert found.record.state == "failed"
    (failed,) = found.record.failed
    assert "q_projj" in failed.message and failed.run
    statistics = found.record.statistics
    assert statistics.ordered is False and statistics.smallest_not_worse is None
    assert "comes first" in statistics.answer
    alone = train(grid.cells[-1].experiment, runs_dir=tmp_path / "alone", display=quiet())
    last = next(c for c in found.record.cells if c.values["adapter.vision_targets"] == ["q_proj"])
    assert last.metrics == dict(alone.adapted), "the failure left nothing on the base"


def test_a_cell_that_diverges_leaves_the_base_as_it_was_for_the_next(config, tmp_path):
    file = config(adapter={"method": "full"})
    grid = make_grid(file, ["train.clip_grad_norm=null"], [parse_over("train.lr=1e30,0.001")], (0,))
    found = run_sweep(grid, runs_dir=tmp_path / "runs", out=None, display=quiet())
    by_rate = {c.values["train.lr"]: c for c in found.record.cells}
    assert by_rate[1e30].state == "stopped"
    alone = train(grid.cells[-1].experiment, runs_dir=tmp_path / "alone", display=quiet())
    assert by_rate[0.001].metrics == dict(alone.adapted)
    assert found.record.state == "stopped"
    more = make_grid(file, ["train.clip_grad_norm=null"], [parse_over("train.lr=1e30,0.001,0.002")], (0,))
    before = {run.run.name for run in list_runs(tmp_path / "runs")}
    wider = run_sweep(more, runs_dir=tmp_path / "runs", out=None, display=quiet())
    now = {c.values["train.lr"]: c.run for c in wider.record.cells}
    assert {run.run.name for run in list_runs(tmp_path / "runs")} - before == {now[0.002]}
    assert now[1e30] == by_rate[1e30].run, "it diverged, and would again"


def test_cells_on_different_texts_share_what_they_can_and_are_not_compared(config, tmp_path):
    grid = make_grid(config(), [], [parse_over('data.text="{title}","{labels}: {title}"')], (0, 1))
    found = run_sweep(grid, runs_dir=tmp_path / "runs", out=None, display=quiet())
    assert {c.state for c in found.record.cells} == {"finished"}
    assert len({c.data for c in found.record.cells}) == 2
    assert found.record.statistics.model_dump().keys() == {"reason"} and found.record.base is None


def test_a_killed_sweep_goes_on_from_the_last_checkpoint_and_ends_the_same(config, tmp_path):
    train_config = {"epochs": 9, "batch_size": 8, "lr": 0.003, "precision": "fp32", "device": "cpu", "log_every": 1}
    file = config(train=train_config)
    whole = ranks(file, 1, 2, runs=tmp_path / "whole")
    fixed = ("--lrs", "fixed", "--no-pattern")
    command = ("sweep-rank", "-c", file, "--ranks", "1,2", "-q", *fixed, "--runs-dir", str(tmp_path / "cut"))

    def start_and_end(number, rank, epochs):
        child = start(*command, folder=tmp_path / "said")
        for _ in range(6000):
            found = list((tmp_path / "cut").glob(f"shapes-rank{rank}-*/metrics.jsonl"))
            if found and found[0].read_text().count('"epoch"') >= epochs:
                break
            time.sleep(0.025)
        else:
            child.send_signal(signal.SIGKILL)
            pytest.fail("the cell did not come so far in 150 seconds")
        child.send_signal(number)
        return child.wait(), child.err.read_text()

    assert start_and_end(signal.SIGKILL, 1, 3)[0] == -signal.SIGKILL
    code, said = start_and_end(signal.SIGTERM, 2, 3)
    assert code == 143 and "run the same command again" in said
    (folder,) = (tmp_path / "cut").glob("shapes-sweep-*")
    record = json.loads((folder / "sweep.json").read_text())
    assert record["state"] == "interrupted"
    assert [c["state"] for c in record["cells"]] == ["finished", "interrupted"]

    resumed = ranks(file, 1, 2, runs=tmp_path / "cut")
    assert len(list_runs(tmp_path / "cut")) == 2
    assert [c.metrics for c in resumed.record.cells] == [c.metrics for c in whole.record.cells]
    assert [c.curve for c in resumed.record.cells] == [c.curve for c in whole.record.cells]


def test_a_sweep_belongs_to_one_process_and_a_folder_to_one_sweep(config, tmp_path):
    file, out = config(train={"epochs": 0, "device": "cpu"}), tmp_path / "out"
    found = ranks(file, 1, runs=tmp_path / "runs", out=out)
    assert found.folder.record_file == out / "sweep.json"
    with found.folder.lock(), pytest.raises(LockedError, match="another process"):
        ranks(file, 1, 2, runs=tmp_path / "runs", out=out)
    with pytest.raises(ConfigError, match="is not the record of"):
        ranks(file, 1, runs=tmp_path / "runs", out=out, overrides=["train.lr=0.5"])
    (out / "sweep.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="is not the record of"):
        ranks(file, 1, runs=tmp_path / "runs", out=out)


def test_a_run_is_not_resumed_on_other_data(config, shapes, tmp_path):
    copy = tmp_path / "shapes"
    shutil.copytree(shapes, copy)
    data = {"root": str(copy), "split": {"val_fraction": 0.3, "test_fraction": 0}}
    first = ranks(config(data=data), 1, runs=tmp_path / "runs")
    table = copy / "metadata.csv"
    table.write_text(table.read_text().replace("a red circle", "one red circle"))
    second = ranks(config(data=data), 1, runs=tmp_path / "runs")
    assert second.folder.path != first.folder.path
    assert second.record.cells[0].run != first.record.cells[0].run


def test_paired_differences_of_cut_adapters_are_those_of_the_rows(config, tmp_path):
    found = ranks(config(), 1, 2, runs=tmp_path / "runs")
    cut = found.record.adapters[0].truncated[0]
    trained = outcomes(Run(tmp_path / "runs" / found.record.cells[0].run), "recall@5")
    estimate = cut.score("recall@5") - trained.adapted.mean()
    assert cut.minus_trained.estimate == pytest.approx(estimate)
    same = difference_interval(trained.adapted, trained.adapted)
    assert (same.low, same.high) == (0, 0)


class Listening(Display):
    """A display that calls somebody when a line holds some words."""

    def __init__(self, words, do):
        super().__init__(quiet=True)
        self._words, self._do = words, do

    def say(self, text):
        if self._words in text:
            self._do()


def test_a_cell_that_another_process_trains_is_waited_for_and_taken_over(config, tmp_path):
    """The other cells come first; what the other process leaves is gone on with, not trained twice."""
    file, runs = config(), tmp_path / "runs"
    grid = make_grid(file, (), [Over("adapter.rank", (1, 2))], (0,), "auto")
    run = train(grid.cells[0].experiment, runs_dir=runs, display=quiet()).run
    run.set_state("interrupted")
    held, let_go = threading.Event(), threading.Event()

    def hold():
        with run.lock():
            held.set()
            let_go.wait(120)

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(60)
    finished_before: list[str] = []

    def release():
        finished_before.extend(s.run.name for s in list_runs(runs) if s.state == "finished")
        let_go.set()

    try:
        found = run_sweep(grid, runs_dir=runs, out=None, display=Listening("waiting", release))
    finally:
        let_go.set()
        other.join()
    assert [cell.state for cell in found.record.cells] == ["finished", "finished"]
    assert len(finished_before) == 1, "the free cell was trained while the other was held"
    assert len(list_runs(runs)) == 2
    assert found.record.cells[0].run == run.name


def test_a_sweep_whose_analysis_finds_its_data_gone_is_not_left_running(config, tmp_path, monkeypatch):
    def gone(*_):
        raise DataError("the pictures are gone")

    monkeypatch.setattr("vectoruniverse.sweep.analysis.analyse_adapter", gone)
    with pytest.raises(DataError, match="gone"):
        ranks(config(), 1, runs=tmp_path / "runs", out=tmp_path / "out")
    record = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert record["state"] == "failed"
    assert [cell["state"] for cell in record["cells"]] == ["finished"]


def test_a_cell_is_trained_anew_on_another_base_of_the_same_name(config, clip, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(clip, base)
    first = ranks(config(model=str(base)), 1, runs=tmp_path / "runs")
    settings = base / "preprocessor_config.json"
    settings.write_text(settings.read_text() + "\n")
    second = ranks(config(model=str(base)), 1, runs=tmp_path / "runs")
    assert second.record.cells[0].run != first.record.cells[0].run


def test_a_sweep_that_has_finished_is_told_and_nothing_on_disk_changes(config, tmp_path):
    file, runs = config(), tmp_path / "runs"
    first = ranks(file, 1, 2, runs=runs)
    before = {path: path.lstat().st_mtime_ns for path in runs.rglob("*")}
    again = ranks(file, 1, 2, runs=runs)
    assert again.found_before and not first.found_before and again.record == first.record
    assert {path: path.lstat().st_mtime_ns for path in runs.rglob("*")} == before
    assert not ranks(file, 1, runs=runs).found_before, "another answer was asked for"


def test_a_sweep_begun_again_trains_every_cell_and_goes_on_with_its_own(config, tmp_path, monkeypatch):
    file, runs = config(), tmp_path / "runs"
    first = ranks(file, 1, 2, runs=runs)
    done = {cell.run for cell in first.record.cells}
    execute, told = experiment._execute, []

    def second_is_stopped(*arguments):
        told.append(arguments[1].name)
        if len(told) == 2:
            raise KeyboardInterrupt
        return execute(*arguments)

    monkeypatch.setattr(experiment, "_execute", second_is_stopped)
    with pytest.raises(KeyboardInterrupt):
        ranks(file, 1, 2, runs=runs, force=True)
    forced = ranks(file, 1, 2, runs=runs, force=True)
    now = {cell.run for cell in forced.record.cells}
    assert not now & done and told[0] in now and len(told) == 3, "the first of its cells was not trained twice"
    assert ranks(file, 1, 2, runs=runs).record.cells == forced.record.cells
    fresh = ranks(file, 1, 2, runs=runs, new=True)
    assert not {cell.run for cell in fresh.record.cells} & (done | now)
