"""Whole runs on a small folder of real pictures, through the same functions that the command line calls."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

from tests.models.models import SAVE, save_clip
from tests.processes import start
from vectoruniverse.errors import ConfigError, DataError, DivergedError, ResourceError
from vectoruniverse.experiment import resume, train
from vectoruniverse.export.exporter import export_run
from vectoruniverse.planning import dry_run
from vectoruniverse.report.run_verdict import recorded_verdict, verdict_of
from vectoruniverse.report.verdict import rivals_words
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.sweep.findings import finished_facts
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.finished import evaluate_base, evaluate_run
from vectoruniverse.tasks.image_text.rivals import row_limit
from vectoruniverse.tasks.image_text.task import ImageTextTask
from vectoruniverse.terminal import Display
from vectoruniverse.tracking.jsonl import read_metrics
from vectoruniverse.training import observer
from vectoruniverse.training.build import schedule_misfit
from vectoruniverse.training.checkpoint import load_checkpoint, pointed
from vectoruniverse.training.interruption import InterruptedTraining
from vectoruniverse.training.observer import RunObserver


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def experiment(shapes, clip, tmp_path):
    """Write an experiment file over the shapes; keyword arguments replace whole sections."""

    def write(**sections):
        base = {
            "name": "shapes",
            "task": "image_text",
            "model": str(clip),
            "data": {"root": str(shapes), "split": {"val_fraction": 0.25, "test_fraction": 0}},
            "adapter": {"method": "lora", "rank": 2},
            "train": {"epochs": 2, "batch_size": 12, "lr": 0.01, "precision": "fp32", "device": "cpu", "log_every": 1},
            "eval": {"report": False},
            "wandb": {"mode": "disabled"},
        }
        file = tmp_path / "shapes.yaml"
        file.write_text(yaml.safe_dump(base | sections), encoding="utf-8")
        return load_experiment(file)

    return write


def quiet():
    return Display(quiet=True)


def test_a_run_leaves_everything_behind_that_a_person_wants(experiment, tmp_path):
    outcome = train(experiment(eval={"report": True}), runs_dir=tmp_path / "runs", display=quiet())
    folder = outcome.run.path
    assert json.loads((folder / "state.json").read_text())["state"] == "finished"
    assert json.loads((folder / "environment.json").read_text())
    record = json.loads((folder / "evaluation.json").read_text())
    assert record["base"].keys() == record["adapted"].keys()
    assert {"image_to_text/recall@1", "zero_shot/accuracy@1", "map/image_to_text", "effective_rank"} <= record[
        "base"
    ].keys()
    estimate, low, high = record["intervals"]["recall@5"]["difference"]
    assert low <= estimate <= high
    assert sum(record["spectra"]["base"]["both"]) == pytest.approx(1.0, abs=1e-6)
    assert "<title>" in (folder / "report.html").read_text()
    assert {"training.svg", "spectrum.png", "retrievals_image_to_text.png"} <= {
        f.name for f in (folder / "figures").iterdir()
    }
    assert record["adapted"] == dict(outcome.adapted)
    assert load_experiment(folder / "config.yaml") == experiment(eval={"report": True})
    steps = [line for line in read_metrics(folder / "metrics.jsonl") if "train/loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert {"train/loss/alignment", "train/loss/anisotropy", "train/lr", "train/effective_rank"} <= steps[0].keys()
    assert {path.name for path in (folder / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "labels.json",
        "probes.safetensors",
    }
    assert "| image → text recall@5 ↑ |" in (folder / "README.md").read_text()
    assert not list(folder.rglob("*.pt")) and not list(folder.rglob("*.bin"))
    modes = {file.stat().st_mode for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")}
    assert len(modes) == 1, "who may read one file of a run may read them all"


def test_the_evaluation_before_the_first_step_is_the_base_model_s(experiment, tmp_path):
    outcome = train(experiment(), runs_dir=tmp_path / "runs", display=quiet())
    _, comparison = evaluate_run("latest", runs_dir=tmp_path / "runs", split="val", display=quiet())
    assert comparison.base.metrics == pytest.approx(dict(outcome.base))
    assert comparison.adapted.metrics == pytest.approx(dict(outcome.adapted), abs=1e-5)
    assert comparison.rows == 8


def test_the_snippet_in_the_run_s_readme_gives_the_same_vectors(experiment, tmp_path, monkeypatch):
    outcome = train(experiment(), runs_dir=tmp_path / "runs", display=quiet())
    readme = (outcome.run.path / "README.md").read_text()
    snippet = readme.split("```python")[1].split("```")[0]
    monkeypatch.chdir(outcome.run.path)
    names: dict[str, object] = {}
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing") if _peft_warns() else _nothing():
        exec(snippet, names)
    trained = load_file(outcome.run.path / "adapter" / "adapter_model.safetensors")
    loaded = names["model"].state_dict()
    for key, value in trained.items():
        ours = key.replace(".weight", ".default.weight")
        assert torch.equal(loaded[ours], value)


def _peft_warns():
    from peft import __version__

    return __version__.startswith("0.21")


def _nothing():
    import contextlib

    return contextlib.nullcontext()


def test_the_same_experiment_gives_the_same_numbers(experiment, tmp_path):
    first, second = (train(experiment(), runs_dir=tmp_path / f"runs{i}", display=quiet()) for i in range(2))
    assert first.adapted == second.adapted
    weights = [load_file(o.run.path / "adapter" / "adapter_model.safetensors") for o in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_full_training_from_scratch_learns_the_shapes(experiment, tmp_path):
    """Colour, shape and place are learned from 24 pictures and found again in 8 new combinations of them."""
    scratch = {
        "scratch": "clip", "image_size": 48, "patch_size": 8, "width": 64, "heads": 2, "vision_layers": 2,
        "text_layers": 1, "projection_dim": 32, "vocab_size": 560, "max_text_tokens": 16,
    }  # fmt: skip
    outcome = train(
        experiment(
            model=scratch,
            adapter={"method": "full", "train_logit_scale": True},
            loss={"name": "info_nce"},
            views={"count": 1},
            train={"epochs": 80, "batch_size": 24, "lr": 3e-3, "device": "cpu", "precision": "fp32"},
            eval={"recall_at": [1, 3], "monitor": "recall@1", "report": False, "every": 10},
        ),
        runs_dir=tmp_path / "runs",
        display=quiet(),
    )
    assert outcome.base["recall@1"] < 0.2, "8 held-out pictures: chance is 1/8"
    assert outcome.adapted["recall@1"] > 0.4
    assert outcome.adapted["recall@3"] > 0.8
    from transformers import CLIPModel

    CLIPModel.from_pretrained(outcome.run.path / "adapter")
    assert len({file.stat().st_mode for file in (outcome.run.path / "adapter").iterdir()}) == 1


@pytest.mark.parametrize("family", sorted(SAVE))
def test_every_family_trains_with_lora(family, experiment, tmp_path):
    text = ["query", "value"] if family in ("altclip", "chinese_clip") else ["q_proj", "v_proj"]
    outcome = train(
        experiment(
            model=str(SAVE[family](tmp_path / family)),
            adapter={"method": "lora", "rank": 2, "vision_targets": ["q_proj", "v_proj"], "text_targets": text},
            train={"epochs": 1, "batch_size": 12, "lr": 0.01, "device": "cpu", "precision": "fp32"},
        ),
        runs_dir=tmp_path / "runs",
        display=quiet(),
    )
    assert all(math.isfinite(value) for value in outcome.adapted.values())
    state = load_file(pointed(outcome.run.checkpoints, "last") / "model.safetensors")
    moved = [name for name, value in state.items() if name.endswith("lora_B") and value.abs().sum() > 0]
    assert len(moved) == 8, "both towers, both layers, both targets are trained"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_half_precision_trains(precision, method, experiment, tmp_path):
    adapter = {"method": "full"} if method == "full" else {"method": "lora", "rank": 2, "train_projections": True}
    outcome = train(
        experiment(
            adapter=adapter,
            train={"epochs": 2, "batch_size": 12, "lr": 0.003, "device": "cpu", "precision": precision, "log_every": 1},
        ),
        runs_dir=tmp_path / "runs",
        display=quiet(),
    )
    losses = [line["train/loss"] for line in read_metrics(outcome.run.metrics_file) if "train/loss" in line]
    assert all(math.isfinite(value) for value in losses)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "loss",
    [
        {"name": "alignment_anisotropy", "form": "linear"},
        {"name": "alignment_anisotropy", "symmetric": True, "temperature": 0.1},
        {"name": "info_nce"},
        {"name": "info_nce", "temperature": 0.07, "pairs": ["IT", "I+T", "II+"]},
        {"name": "siglip", "temperature": 0.1, "bias": -10.0},
    ],
)
def test_every_loss_trains(loss, experiment, tmp_path):
    outcome = train(experiment(loss=loss), runs_dir=tmp_path / "runs", display=quiet())
    assert outcome.base != outcome.adapted or outcome.best_epoch == 0


def test_adapter_dropout_changes_what_is_learned(experiment, tmp_path):
    """Dropout on LoRA's input is at work while training, and gives two text views."""
    plain, dropped = (
        train(
            experiment(adapter={"method": "lora", "rank": 2, "dropout": p}), runs_dir=tmp_path / str(p), display=quiet()
        )
        for p in (0.0, 0.5)
    )
    losses = [
        [line["train/loss"] for line in read_metrics(outcome.run.metrics_file) if "train/loss" in line]
        for outcome in (plain, dropped)
    ]
    assert losses[0][0] == pytest.approx(losses[1][0]), "B is zero at the first step: nothing to drop"
    assert losses[0][-1] != pytest.approx(losses[1][-1])


@pytest.mark.parametrize(
    "extra",
    [
        {"dora": True},
        {"initialisation": "pissa"},
        {"lora_plus_ratio": 4.0},
        {"vision_targets": ["attention"], "text_layers_to_transform": [0]},
        {"rank_pattern": {"q_proj": 1}, "alpha_pattern": {"q_proj": 2.0}},
    ],
)
def test_every_variant_of_lora_trains_and_is_evaluated_again_alike(extra, experiment, tmp_path):
    outcome = train(
        experiment(adapter={"method": "lora", "rank": 2, **extra}), runs_dir=tmp_path / "runs", display=quiet()
    )
    _, again = evaluate_run("latest", runs_dir=tmp_path / "runs", split="val", display=quiet())
    assert again.adapted.metrics == pytest.approx(dict(outcome.adapted), abs=2e-4)


def test_a_run_can_start_from_an_adapter_made_before(experiment, tmp_path):
    first = train(experiment(), runs_dir=tmp_path / "runs", display=quiet())
    config = {"epochs": 0, "batch_size": 12, "device": "cpu", "precision": "fp32"}
    adapter = {"method": "lora", "init_from": str(first.run.adapter)}
    second = train(experiment(adapter=adapter, train=config), runs_dir=tmp_path / "again", display=quiet())
    assert second.adapted == pytest.approx(dict(first.adapted), abs=1e-5)
    exported = export_run(str(second.run.path), "peft", out=tmp_path / "out")
    for card in (second.run.path, exported.folder):
        assert "LoRA of rank 2" in (card / "README.md").read_text(), "its rank, not the default"
    facts = finished_facts(second.run, "recall@5")
    assert (facts["rank"], facts["alpha"], facts["scale"]) == (2, 2.0, 1.0)


def test_trained_scalars_and_projections_come_back(experiment, tmp_path):
    adapter = {"method": "lora", "rank": 2, "train_projections": True, "train_logit_scale": True}
    outcome = train(experiment(adapter=adapter, loss={"name": "info_nce"}), runs_dir=tmp_path / "runs", display=quiet())
    _, again = evaluate_run("latest", runs_dir=tmp_path / "runs", split="val", display=quiet())
    assert again.adapted.metrics == pytest.approx(dict(outcome.adapted), abs=1e-5)
    scalars = load_file(outcome.run.path / "adapter" / "logit_scalars.safetensors")
    assert scalars.keys() == {"logit_scale"}


def test_dry_run_tells_the_plan_and_writes_nothing(experiment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    plan = dry_run(experiment(), quiet())
    assert plan.rows == {"training": 24, "validation": 8, "set aside": 0}
    assert (plan.steps_per_epoch, plan.steps) == (2, 4)
    assert plan.parameters[-1].part == "total"
    assert plan.parameters[-1].trainable == 2 * 2 * 4 * 2 * (32 + 32)  # towers, layers, targets, rank, in + out
    assert plan.memory > 2**20 and plan.seconds_per_step > 0
    assert plan.seconds == pytest.approx(4 * plan.seconds_per_step)
    assert plan.warnings == []
    assert sorted(tmp_path.rglob("*")) in (before, sorted([*before, tmp_path / "shapes.yaml"]))


def test_intervals_are_drawn_by_the_column_that_the_split_is_grouped_by(experiment, shapes, tmp_path):
    data = {"root": str(shapes), "split": {"val_fraction": 0.5, "test_fraction": 0, "group_by": "Channel"}}
    outcome = train(experiment(data=data), runs_dir=tmp_path / "runs", display=quiet())
    record = outcome.run.read_evaluation()
    assert record.intervals_drawn_by == "Channel"
    assert record.rows == 16


def test_a_run_is_set_beside_the_best_earlier_one_on_the_same_data(experiment, shapes, tmp_path):
    first = train(experiment(), runs_dir=tmp_path / "runs", display=quiet())
    assert first.earlier is None
    second = train(experiment(seed=1), runs_dir=tmp_path / "runs", display=quiet())
    assert second.earlier is not None
    assert (second.earlier.name, second.earlier.score) == (first.run.name, first.score)
    other = {"root": str(shapes), "split": {"val_fraction": 0.5, "test_fraction": 0}}
    assert train(experiment(data=other), runs_dir=tmp_path / "runs", display=quiet()).earlier is None


def test_the_base_alone_is_evaluated_as_beside_an_adapter(experiment, tmp_path):
    outcome = train(experiment(), runs_dir=tmp_path / "runs", display=quiet())
    split, evaluated = evaluate_base(experiment(), split="val", display=quiet())
    assert (split, evaluated.rows) == ("val", 8)
    learned = {"labels/map", "labels/macro_f1"}  # by rules that only a run has
    assert evaluated.metrics.keys() == outcome.base.keys() - learned
    assert evaluated.metrics == pytest.approx({name: outcome.base[name] for name in evaluated.metrics})


def test_wandb_is_written_offline_for_real_and_without_a_warning(experiment, tmp_path):
    stream = io.StringIO()
    display = Display(Console(file=stream, width=200))
    outcome = train(experiment(wandb={"mode": "offline"}), runs_dir=tmp_path / "runs", display=display)
    assert "warning" not in stream.getvalue()
    (written,) = outcome.run.path.rglob("run-*.wandb")
    deadline = time.monotonic() + 30  # the service of wandb writes in a process of its own
    while written.stat().st_size <= 1000 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert written.stat().st_size > 1000


def test_a_run_is_not_resumed_on_other_data(experiment, shapes, tmp_path):
    import shutil

    root = tmp_path / "copy"
    shutil.copytree(shapes, root)
    data = {"root": str(root), "split": {"val_fraction": 0.25, "test_fraction": 0}}
    outcome = train(experiment(data=data), runs_dir=tmp_path / "runs", display=quiet())
    outcome.run.set_state("interrupted")
    table = root / "metadata.csv"
    table.write_text(table.read_text().replace("a red circle", "one red circle"))
    with pytest.raises(DataError, match="not what this run was begun with"):
        resume("latest", runs_dir=tmp_path / "runs", display=quiet())


def test_resuming_a_finished_run_does_nothing(experiment, tmp_path):
    train(experiment(), runs_dir=tmp_path / "runs", display=quiet())
    assert resume("latest", runs_dir=tmp_path / "runs", display=quiet()) is None


def test_an_interrupted_run_goes_on_and_ends_where_an_uninterrupted_one_does(experiment, tmp_path):
    config = {"epochs": 14, "batch_size": 12, "lr": 0.003, "precision": "fp32", "device": "cpu", "log_every": 1}
    whole = train(experiment(train=config), runs_dir=tmp_path / "whole", display=quiet())

    experiment(train=config)
    given = ("-c", str(tmp_path / "shapes.yaml"), "-q", "--runs-dir", str(tmp_path / "cut"))
    again = ("--resume", "latest", "-q", "--runs-dir", str(tmp_path / "cut"))
    for options, steps, number, code in ((given, 5, signal.SIGHUP, 129), (again, 15, signal.SIGUSR1, 138)):
        child = start("train", *options, folder=tmp_path / "said")
        _wait_for_steps(tmp_path / "cut", steps)
        child.send_signal(number)
        assert child.wait() == code
        said = child.err.read_text()
        (run,) = list_runs(tmp_path / "cut")
        assert run.state == "interrupted"
        assert f"vu train --resume {run.run.name}" in said

    resumed = resume("latest", runs_dir=tmp_path / "cut", display=quiet())
    assert resumed is not None
    assert resumed.adapted == whole.adapted
    steps = [line["step"] for line in read_metrics(resumed.run.metrics_file) if "train/loss" in line]
    assert steps == list(range(1, 29))


def test_a_run_whose_last_checkpoint_was_damaged_goes_on_from_the_one_before_to_the_same_end(
    experiment, tmp_path, monkeypatch, capsys
):
    config = {"epochs": 4, "batch_size": 12, "lr": 0.003, "precision": "fp32", "device": "cpu", "log_every": 1}
    whole = train(experiment(train=config), runs_dir=tmp_path / "whole", display=quiet())
    with monkeypatch.context() as patched:
        steps = itertools.count(1)
        patched.setattr(RunObserver, "interrupted", lambda observer: next(steps) >= 6)
        with pytest.raises(InterruptedTraining):
            train(experiment(train=config), runs_dir=tmp_path / "cut", display=quiet())
    (cut,) = list_runs(tmp_path / "cut")
    last = pointed(cut.run.checkpoints, "last") / "optimizer.safetensors"
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    resumed = resume("latest", runs_dir=tmp_path / "cut", display=quiet())
    said = capsys.readouterr().err
    assert "optimizer.safetensors: is damaged" in said and "using step-00000004 instead" in said
    assert resumed.adapted == whole.adapted
    steps = [line["step"] for line in read_metrics(resumed.run.metrics_file) if "train/loss" in line]
    assert steps == list(range(1, 9)), "what was logged is told once"


def test_between_epochs_that_take_long_a_run_saves_now_and_then(experiment, tmp_path, monkeypatch):
    whole = train(experiment(), runs_dir=tmp_path / "whole", display=quiet())
    saved = []
    monkeypatch.setattr(observer, "SAVE_SECONDS", 0.0)
    save = RunObserver.save
    monkeypatch.setattr(RunObserver, "save", lambda *given, **how: (saved.append(given[1].step), save(*given, **how)))
    often = train(experiment(), runs_dir=tmp_path / "often", display=quiet())
    assert saved == [0, 1, 2, 2, 3, 4, 4]
    assert often.adapted == whole.adapted
    assert len(list(often.run.checkpoints.glob("step-*"))) <= 3


def _wait_for_steps(runs_dir: Path, count: int) -> None:
    for _ in range(3000):
        found = list(runs_dir.glob("*/metrics.jsonl"))
        if found and sum("train/loss" in line for line in found[0].read_text().splitlines()) >= count:
            return
        time.sleep(0.05)
    pytest.fail("the run did not start in 150 seconds")


def test_too_many_bad_rows_stop_the_run_and_name_them(experiment, shapes, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(shapes, broken)
    (broken / "images" / "red" / "red-circle-left.png").write_bytes(b"not a picture")
    data = {"root": str(broken), "split": {"val_fraction": 0.25, "test_fraction": 0}}
    with pytest.raises(DataError, match=r"line 2|metadata\.csv:2|:2") as error:
        train(experiment(data=data), runs_dir=tmp_path / "runs", display=quiet())
    assert "max_bad_share" in str(error.value.remedy)
    assert not (tmp_path / "runs").exists(), "data that cannot be read leave no run behind"
    tolerant = experiment(data=data | {"max_bad_share": 0.1})
    outcome = train(tolerant, runs_dir=tmp_path / "runs2", display=quiet())
    assert outcome.best_epoch >= 0


def test_a_split_with_a_single_row_on_one_side_is_refused(experiment, shapes, tmp_path):
    data = {"root": str(shapes), "split": {"val_fraction": 0.01, "test_fraction": 0}}
    with pytest.raises(DataError, match="leaves 1 validation row") as error:
        train(experiment(data=data), runs_dir=tmp_path / "runs", display=quiet())
    assert "val_fraction" in str(error.value.remedy)


def test_a_wrong_target_is_told_with_the_names_that_exist(experiment, tmp_path):
    with pytest.raises(ConfigError, match="q_projj") as error:
        train(
            experiment(adapter={"method": "lora", "vision_targets": ["q_projj"]}),
            runs_dir=tmp_path / "runs",
            display=quiet(),
        )
    assert error.value.key == "adapter.vision_targets" and "q_proj" in str(error.value.remedy)


def test_a_learning_rate_that_blows_up_ends_with_exit_code_4(experiment, tmp_path):
    wild = {"epochs": 3, "batch_size": 12, "lr": 1e30, "precision": "fp32", "device": "cpu", "clip_grad_norm": None}
    with pytest.raises(DivergedError, match=r"not finite .*; its rows: ([\w-]+, ){4}[\w-]+ and 7 more$"):
        train(experiment(train=wild), runs_dir=tmp_path / "runs", display=quiet())
    run = Run(next((tmp_path / "runs").glob("[!.]*")))
    assert run.read_state().state == "stopped"
    assert load_checkpoint(pointed(run.checkpoints, "last")).step == 0, "the one before it is intact"
    assert DivergedError.exit_code == 4


def test_memory_that_runs_out_is_told_with_figures_and_leaves_a_checkpoint_to_go_on_from(
    experiment, tmp_path, monkeypatch
):
    whole = train(experiment(), runs_dir=tmp_path / "whole", display=quiet())
    with monkeypatch.context() as patched:
        calls, loss = itertools.count(1), ImageTextTask.loss

        def hungry(task, rows, epoch):
            if next(calls) == 4:
                torch.empty(2**55, dtype=torch.uint8)
            return loss(task, rows, epoch)

        patched.setattr(ImageTextTask, "loss", hungry)
        with pytest.raises(ResourceError) as told:
            train(experiment(), runs_dir=tmp_path / "cut", display=quiet())
    assert re.search(r"\(33,554,432.0 GiB were asked for; .* free .*; train.batch_size 12\)", str(told.value))
    assert "set train.micro_batch: 6," in told.value.remedy and told.value.exit_code == 5
    (cut,) = list_runs(tmp_path / "cut")
    assert cut.state == "failed" and "out of memory" in cut.run.read_state().message
    assert resume("latest", runs_dir=tmp_path / "cut", display=quiet()).adapted == whole.adapted


def test_a_prefix_of_clips_text_tower_is_trained_and_evaluated_again(experiment, tmp_path):
    """Only texts move: the pictures' vectors are the base's, bit for bit."""
    adapter = {"method": "prefix", "prefix_length": 3}
    outcome = train(
        experiment(adapter=adapter, eval={"report": False, "keep": "last"}), runs_dir=tmp_path / "runs", display=quiet()
    )
    base, adapted = outcome.comparison.base.vectors, outcome.comparison.adapted.vectors
    assert torch.equal(base["image"], adapted["image"])
    assert (base["text"] - adapted["text"]).abs().max() > 0.01
    assert (outcome.run.adapter / "adapter_config.json").is_file()
    _, again = evaluate_run(outcome.run.name, runs_dir=tmp_path / "runs", split="val", display=quiet())
    torch.testing.assert_close(again.adapted.vectors["text"], adapted["text"])


def test_evaluations_can_be_rarer_than_epochs(experiment, tmp_path):
    config = experiment(
        train={"epochs": 5, "batch_size": 12, "lr": 0.01, "precision": "fp32", "device": "cpu"},
        eval={"report": False, "every": 2},
    )
    outcome = train(config, runs_dir=tmp_path / "runs", display=quiet())
    epochs = [record["epoch"] for record in read_metrics(outcome.run.metrics_file) if "val/recall@5" in record]
    assert epochs == [0, 2, 4, 5]


def test_a_best_checkpoint_of_this_process_is_not_evaluated_twice(experiment, tmp_path, monkeypatch):
    """What stands in evaluation.json is the evaluation that picked the checkpoint; a fresh one gives the same."""
    evaluated = []
    told = ImageTextTask.evaluate
    monkeypatch.setattr(
        ImageTextTask, "evaluate", lambda task, split="val": evaluated.append(split) or told(task, split)
    )
    outcome = train(experiment(), runs_dir=tmp_path / "runs", display=quiet())
    assert len(evaluated) == 1 + 2, "the base, and after each epoch"
    _, again = evaluate_run(outcome.run.name, runs_dir=tmp_path / "runs", split="val", display=quiet())
    assert again.adapted.metrics == pytest.approx(dict(outcome.adapted))


@pytest.mark.usefixtures("blank_figures")
def test_the_numbers_are_of_the_weights_that_are_kept(experiment, tmp_path, monkeypatch):
    """keep: last beside a better earlier epoch: record, card and state tell the last one's, and which was the best."""
    told, scores = ImageTextTask.evaluate, iter([0.9, 0.5])

    def graded(task, split="val"):
        found = told(task, split)
        moved = any(float(p.detach().abs().max()) for name, p in task.trained().items() if "lora_B" in name)
        return replace(found, metrics={**found.metrics, "recall@5": next(scores) if moved else 0.1})

    monkeypatch.setattr(ImageTextTask, "evaluate", graded)
    outcome = train(experiment(eval={"report": True, "keep": "last"}), runs_dir=tmp_path, display=quiet())
    record = outcome.run.read_evaluation()
    assert (record.best_epoch, record.epoch, record.adapted["recall@5"]) == (1, 2, 0.5)
    assert (outcome.run.read_state().best, outcome.run.read_state().epoch) == (0.5, 2)
    said = "Kept is epoch 2; the best one was epoch 1"
    assert said in (outcome.run.path / "README.md").read_text() and said in outcome.run.report_file.read_text()


def test_where_the_best_checkpoint_is_damaged_the_numbers_are_of_its_substitute(experiment, tmp_path, monkeypatch):
    told, scores = ImageTextTask.evaluate, iter([0.9, 0.5, 0.5])

    def graded(task, split="val"):
        found = told(task, split)
        moved = any(float(p.detach().abs().max()) for name, p in task.trained().items() if "lora_B" in name)
        if moved and (score := next(scores)) == 0.5:
            for file in (tmp_path / "runs").rglob("step-00000002/model.safetensors"):
                file.write_bytes(b"damaged")
        return replace(found, metrics={**found.metrics, "recall@5": score if moved else 0.1})

    monkeypatch.setattr(ImageTextTask, "evaluate", graded)
    outcome = train(experiment(), runs_dir=tmp_path / "runs", display=quiet())
    assert (outcome.best_epoch, outcome.epoch, outcome.score) == (1, 2, 0.5)
    saved = load_file(outcome.run.checkpoints / "step-00000004" / "model.safetensors")
    kept = load_file(outcome.run.adapter / "adapter_model.safetensors")
    assert sorted(map(float, (v.sum() for v in kept.values()))) == sorted(map(float, (v.sum() for v in saved.values())))


@pytest.mark.usefixtures("blank_figures")
def test_a_run_that_no_epoch_made_better_says_so_everywhere(experiment, tmp_path, monkeypatch):
    told = ImageTextTask.evaluate

    def graded(task, split="val"):
        found = told(task, split)
        moved = any(float(p.detach().abs().max()) for name, p in task.trained().items() if "lora_B" in name)
        return replace(found, metrics={**found.metrics, "recall@5": 0.2 if moved else 0.3})

    monkeypatch.setattr(ImageTextTask, "evaluate", graded)
    monkeypatch.setattr("vectoruniverse.experiment.changes_since", lambda *given: ("before", ["seed 1 → 0"]))
    outcome = train(experiment(eval={"report": True}), runs_dir=tmp_path, display=quiet())
    assert "since before: seed 1 → 0" in outcome.run.report_file.read_text()
    said = "No epoch beat the base, so the base is kept: the adapter is the untrained one"
    assert outcome.epoch == outcome.best_epoch == 0
    assert said in (outcome.run.path / "README.md").read_text() and said in outcome.run.report_file.read_text()
    found = verdict_of(outcome.run, outcome.comparison, monitor="recall@5", has_space=True)
    assert found.answer.headline == said and recorded_verdict(outcome.run) == found


@pytest.mark.usefixtures("blank_figures")
def test_rivals_that_cost_nothing_stand_beside_a_run(experiment, tmp_path):
    outcome = train(experiment(eval={"report": True}), runs_dir=tmp_path / "runs", display=quiet())
    told, record = outcome.comparison, outcome.run.read_evaluation()
    assert record.rivals == told.rivals
    assert list(told.rivals.models) == [
        *("base", "centred", "ridge map", "CCA", "linear probe", "Tip-Adapter cache", "adapted")
    ]
    assert told.rivals.fitted_on == 24
    for model, evaluation in (("base", told.base), ("adapted", told.adapted)):
        reached = told.rivals.models[model].reached
        assert {"recall@5", "zero_shot/accuracy@1"} <= reached.keys()
        assert reached == pytest.approx({key: evaluation.metrics[key] for key in reached})
    ahead = told.rivals.models["base"].adapted_ahead["recall@5"]
    change, low, high = record.intervals["recall@5"]["difference"]
    assert told.rivals.at_once, "these rows picked the best rivals, too"
    assert ahead[0] == pytest.approx(change) and ahead[1] <= low <= high <= ahead[2]
    said = rivals_words(told.rivals, "recall@5")
    found = verdict_of(outcome.run, told, monitor="recall@5", has_space=True)
    assert said in found.answer.detail and recorded_verdict(outcome.run) == found
    page, card = outcome.run.report_file.read_text(), (outcome.run.path / "README.md").read_text()
    assert "Is the training worth it?" in page and said.replace("'", "&#39;") in page
    assert "| CCA |" in card and "24 training rows" in card
    for split, elsewhere in (("train", None), ("val", experiment().data.root)):
        _, other = evaluate_run(
            outcome.run.name, runs_dir=tmp_path / "runs", split=split, display=quiet(), place=elsewhere
        )
        assert other.rivals is None, "they would be fitted on the rows that are reported"


def test_rivals_are_left_out_where_nobody_asks_for_them(experiment, monkeypatch):
    embedded = []
    told = ImageTextTask.embed
    monkeypatch.setattr(ImageTextTask, "embed", lambda task, pairs: (embedded.append(len(pairs)), told(task, pairs))[1])
    assert evaluate_base(experiment(eval={"rivals": False}), split="val", display=quiet())[1].rivals is None
    assert embedded == [8, 24], "the training rows, for the probes of their labels alone"
    assert evaluate_base(experiment(), split="val", display=quiet())[1].rivals is not None
    assert embedded == [8, 24] * 2, "the training rows are embedded once, the others not again"


def test_a_pass_over_the_training_rows_is_a_small_share_of_the_steps():
    """Two views, forth and back, are four passes of a row in each epoch."""
    assert row_limit(10_000, epochs=10, passes_per_step=4) >= 10_000
    assert row_limit(10_000, epochs=1, passes_per_step=4) == 2_000
    assert row_limit(10_000, epochs=0, passes_per_step=4) == 256
    assert row_limit(10**9, epochs=10, passes_per_step=4) == 100_000


def test_a_dry_run_makes_a_whole_update_with_dropout(experiment, monkeypatch):
    made = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a, **k: (made.append(1), step(self, *a, **k))[1])
    adapter = {"method": "lora", "rank": 2, "dropout": 0.5}
    still = dry_run(experiment(adapter={**adapter, "dropout": 0.0}), quiet())
    assert len(made) == 2
    assert dry_run(experiment(adapter=adapter), quiet()).loss["total"] == pytest.approx(still.loss["total"])  # B is 0
    rates = []
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: (rates.append(self.p * self.training), x)[1])
    dry_run(experiment(adapter=adapter), quiet())
    assert 0.5 in rates


@pytest.mark.parametrize(
    ("schedule", "steps", "said"),
    [
        ({"name": "cosine_restarts"}, 30, "warm-up of 17 in a period of 70 steps does not fit the 30 steps"),
        ({"name": "cosine_restarts"}, 100, "period: 100 and warmup: 24 would fit"),
        ({"name": "cosine_restarts", "period": 30, "warmup": 7}, 30, None),
        ({"name": "cosine_restarts"}, 700, None),
        ({"name": "cosine_restarts"}, 0, None),
        ({"name": "cosine"}, 3, None),
        ({"name": "constant", "warmup": 0.9}, 40, "train.schedule.warmup: 0.9 of the 40 steps are warm-up"),
    ],
)
def test_a_schedule_that_does_not_fit_the_steps_is_told_with_one_that_does(schedule, steps, said, experiment):
    misfit = schedule_misfit(experiment(train={"schedule": schedule}).train, steps)
    assert misfit is None if said is None else said in misfit


def test_training_warns_of_a_schedule_that_does_not_fit(experiment, tmp_path):
    config = experiment(train={"epochs": 1, "batch_size": 12, "device": "cpu", "schedule": {"name": "cosine_restarts"}})
    stream = io.StringIO()
    train(config, runs_dir=tmp_path / "runs", display=Display(Console(file=stream), quiet=True))
    assert "warning: train.schedule: warm-up of 17" in stream.getvalue()
