"""What ``train.precision: auto`` becomes, who is told, and who keeps it."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.models.models import save_clip
from tests.models.text_models import save_encoder
from vectoruniverse.experiment import resume, train
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.tower import Tower, widest_tower
from vectoruniverse.planning import dry_run
from vectoruniverse.sweep.grid import Over, make_grid
from vectoruniverse.sweep.runner import run_sweep
from vectoruniverse.tasks.experiments import load_config_of, load_experiment
from vectoruniverse.tasks.finished import evaluate_run
from vectoruniverse.tasks.identity import run_experiment
from vectoruniverse.terminal import Display
from vectoruniverse.training import device, precision
from vectoruniverse.training.interruption import InterruptedTraining
from vectoruniverse.training.loop import Trainer
from vectoruniverse.training.precision import fastest, measure_precision, settle_precision
from vectoruniverse.training.probe import Block, Timing, time_formats

SMALL = Tower(width=32, heads=2, feed_forward=64, tokens=10)


def quiet():
    return Display(quiet=True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def config(shapes, clip, tmp_path):
    """An experiment file that leaves the precision open."""
    settings = {
        "name": "shapes",
        "task": "image_text",
        "model": str(clip),
        "data": {"root": str(shapes), "split": {"val_fraction": 0.25, "test_fraction": 0}},
        "adapter": {"method": "lora", "rank": 2},
        "train": {"epochs": 2, "batch_size": 12, "lr": 0.01, "device": "cpu", "log_every": 1},
        "eval": {"report": False},
        "wandb": {"mode": "disabled"},
    }
    file = tmp_path / "shapes.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return str(file)


@pytest.fixture
def measured(monkeypatch):
    """Say how long a block takes on a processor that claims bf16: ``measured(fp32=…, bf16=…)``; gives the calls."""
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: True)
    calls = []

    def measure(fp32, bf16):
        def timed(tower, computes, **settings):
            calls.append((tower, [compute.dtype for compute in computes], settings))
            return Timing([(fp32, bf16)] * 5, rows=3, tokens=17)

        monkeypatch.setattr(precision, "time_formats", timed)
        return calls

    return measure


@pytest.mark.parametrize(
    ("rounds", "chosen"),
    [
        ([(1.0, 2.0)] * 5, 0),
        ([(2.0, 1.0)] * 5, 1),
        ([(1.0, 1.0)] * 5, 0),
        ([(1.0, 0.95)] * 5, 0),
        ([(3.0, 1.0), (3.0, 1.0), (1.0, 3.0), (3.0, 1.0), (3.0, 1.0)], 1),
        ([(3.0, 1.0), (0.5, 3.0), (3.0, 1.0), (0.5, 3.0), (3.0, 1.0)], 0),
        ([(3.0, 1.0, 2.0)] * 5, 1),
    ],
    ids=["slower", "faster", "tie", "hardly faster", "one odd round", "noise", "three formats"],
)
def test_another_format_is_taken_only_where_it_is_faster_beyond_noise(rounds, chosen):
    assert fastest(Timing(rounds, rows=1, tokens=1)) == chosen


@pytest.mark.parametrize(("bf16", "chosen"), [(0.030, "fp32"), (0.005, "bf16"), (0.0098, "fp32")])
def test_the_faster_format_is_chosen_written_down_and_told(config, measured, tmp_path, bf16, chosen):
    calls = measured(fp32=0.010, bf16=bf16)
    experiment = load_experiment(config)
    plan = dry_run(experiment, quiet())
    assert plan.precision.startswith(f"{chosen}: ") and "10.0 ms" in plan.precision
    run = train(experiment, runs_dir=tmp_path / "runs", display=quiet()).run
    told = json.loads((run.path / "environment.json").read_text())["precision"]
    assert (told["device"], told["chosen"], told["usual"], told["rounds"]) == ("cpu", chosen, "fp32", 5)
    assert told["seconds"] == {"fp32": 0.010, "bf16": bf16}
    assert told["block"].items() >= {"width": 32, "rows": 3, "tokens": 17}.items()
    assert load_config_of(run).train.precision == chosen
    assert calls == [calls[0]] * 2 and calls[0][2] == {"rows": 12, "trained": False, "rank": 2}


def test_a_resumed_run_keeps_its_format_though_it_would_measure_otherwise_now(config, measured, tmp_path, monkeypatch):
    measured(fp32=2.0, bf16=1.0)
    whole = train(load_experiment(config), runs_dir=tmp_path / "whole", display=quiet())
    step = Trainer.train_step

    def interrupted(self, *arguments, **how):
        if self.position.step == 3:
            raise InterruptedTraining("told to stop")
        return step(self, *arguments, **how)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    with pytest.raises(InterruptedTraining):
        train(load_experiment(config), runs_dir=tmp_path / "cut", display=quiet())
    monkeypatch.setattr(Trainer, "train_step", step)
    calls = measured(fp32=1.0, bf16=2.0)
    before = len(calls)
    resumed = resume("latest", runs_dir=tmp_path / "cut", display=quiet())
    assert resumed.run.read_state().device == "cpu, bfloat16"
    ours, theirs = (load_file(run.adapter / "adapter_model.safetensors") for run in (whole.run, resumed.run))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    evaluate_run("latest", runs_dir=tmp_path / "cut", split="val", display=quiet())
    train(load_config_of(resumed.run), runs_dir=tmp_path / "again", display=quiet())
    assert len(calls) == before, "neither resuming, nor evaluating, nor running its file again measures"


def test_a_measured_run_has_the_numbers_of_one_whose_format_was_named(config, tmp_path, monkeypatch):
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: True)
    auto = train(load_experiment(config), runs_dir=tmp_path / "auto", display=quiet())
    named = json.loads((auto.run.path / "environment.json").read_text())["precision"]["chosen"]
    monkeypatch.setattr(precision, "time_formats", lambda *_, **__: pytest.fail("a named format is not measured"))
    settings = [f"train.precision={named}"]
    other = train(load_experiment(config, settings), runs_dir=tmp_path / "named", display=quiet())
    assert json.loads((other.run.path / "environment.json").read_text())["precision"] is None
    assert dict(auto.adapted) == dict(other.adapted)
    ours, theirs = (load_file(one.run.adapter / "adapter_model.safetensors") for one in (auto, other))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_processor_without_bf16_is_not_measured(config, monkeypatch):
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: False)
    monkeypatch.setattr(precision, "time_formats", lambda *_, **__: pytest.fail("there is no choice"))
    told = []
    settled, record = settle_precision(load_experiment(config), told.append)
    assert settled.train.precision == "fp32" and record.seconds == {}
    assert told == ["precision fp32, the usual format of cpu"]


def test_a_run_made_on_a_gpu_is_not_held_to_its_format_on_a_cpu(config, measured, tmp_path):
    measured(fp32=2.0, bf16=1.0)
    run = train(load_experiment(config), runs_dir=tmp_path / "runs", display=quiet()).run
    assert run_experiment(run).train.precision == "bf16"
    record = json.loads(run.environment_file.read_text())
    record["precision"]["device"] = "cuda"
    run.environment_file.write_text(json.dumps(record))
    assert run_experiment(run).train.precision == "auto"
    run.environment_file.write_text("{}")
    assert run_experiment(run).train.precision == "bf16", "whose environment.json is damaged stays as it was"


def test_all_cells_of_a_sweep_have_the_format_that_its_first_call_measured(config, measured, tmp_path):
    def sweep(*values):
        grid = make_grid(config, [], [Over("adapter.rank", values)], (0,), "auto")
        return run_sweep(grid, runs_dir=tmp_path / "runs", out=None, display=quiet())

    measured(fp32=2.0, bf16=1.0)
    first = sweep(1)
    measured(fp32=1.0, bf16=2.0)
    again = sweep(1, 2)
    assert again.folder.path == first.folder.path and again.record.precision == first.record.precision
    assert first.record.precision.chosen == "bf16"
    runs = {cell.run for cell in again.record.cells}
    assert len(runs) == 2 and first.record.cells[0].run in runs, "the first cell is not trained again"
    for cell in runs:
        assert json.loads((tmp_path / "runs" / cell / "state.json").read_text())["device"] == "cpu, bfloat16"


def test_the_probe_leaves_random_numbers_gradients_and_threads_as_they_were():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    computes = [Compute(torch.device("cpu"), dtype) for dtype in (torch.float32, torch.bfloat16)]
    with torch.no_grad():
        timing = time_formats(SMALL, computes, rows=4, trained=False, rank=2)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
    assert not torch.is_autocast_enabled("cpu")
    assert 2 <= len(timing.rounds) <= 5 and all(time > 0 for time in timing.medians)
    assert timing.rows * timing.tokens <= 40


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("trained", "rank"), [(True, 0), (False, 3), (False, 0)])
def test_a_block_computes_in_every_format_and_with_either_attention(trained, rank, attention):
    outs = []
    for dtype in (torch.float32, torch.bfloat16):
        block = Block(SMALL, Compute(torch.device("cpu"), dtype, attention), trained=trained, rank=rank)
        assert block.seconds(2, 5) > 0
        hidden = torch.linspace(-1, 1, 2 * 5 * 32).view(2, 5, 32)
        with block.compute.autocast(), torch.no_grad():
            outs.append(block._forward(hidden.to(block._stream)).float())
    torch.testing.assert_close(outs[0], outs[1], atol=0.05, rtol=0.05)


def test_the_widest_tower_is_read_from_the_configuration(clip, tmp_path):
    assert widest_tower("tiny-clip", None) == Tower(192, 3, 768, 65, "quick_gelu")
    assert widest_tower(str(clip), None).width == 32
    for family in ("bert", "distilbert", "modernbert", "xlm-roberta"):
        folder = save_encoder(tmp_path / family, family)
        assert widest_tower(str(folder), None) == Tower(32, 2, 64, widest_tower(str(folder), None).tokens)


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("quickstart.yaml", 192),
        ("masked_lm.yaml", 128),
        ("pair_classification.yaml", 64),
        ("sentiment.yaml", 384),
        ("text_pairs_lora.yaml", 384),
    ],
)
def test_every_task_measures_its_own_model(name, width, measured):
    calls = measured(fp32=1.0, bf16=2.0)
    experiment = load_experiment(name, ["train.device=cpu"])
    assert measure_precision(experiment).chosen == "fp32"
    ((tower, _, settings),) = calls
    assert tower.width == width
    assert settings["trained"] == experiment.adapter.trains_everything


@pytest.mark.cuda
def test_a_gpu_is_measured_in_every_format_it_has(config):
    record = measure_precision(load_experiment(config, ["train.device=cuda"]))
    assert record.usual == device.formats_of(torch.device("cuda"))[0]
    assert set(record.seconds) == set(device.formats_of(torch.device("cuda")))
