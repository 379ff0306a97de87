"""The same command every night: what is done is told, what is not goes on, what is new says what has changed."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.models.models import save_clip
from vectoruniverse import __version__
from vectoruniverse import experiment as runner
from vectoruniverse.errors import DivergedError, LockedError
from vectoruniverse.experiment import Outcome, train, train_or_go_on
from vectoruniverse.runs.base_record import BaseRecord, recorded_base
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.tasks import same_run
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.identity import describe_base
from vectoruniverse.tasks.same_run import identity, same_runs
from vectoruniverse.tasks.shown import facts_of
from vectoruniverse.terminal import Display
from vectoruniverse.training.loop import Trainer


class Heard(Display):
    """Keeps what a person was told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def data(shapes, tmp_path):
    return shutil.copytree(shapes, tmp_path / "shapes")


@pytest.fixture
def experiment(clip, data, tmp_path):
    """Load the experiment, with settings changed."""
    settings = {
        "name": "shapes",
        "task": "image_text",
        "model": str(clip),
        "data": {"root": str(data), "split": {"val_fraction": 0.25, "test_fraction": 0}},
        "adapter": {"method": "lora", "rank": 2},
        "train": {"epochs": 2, "batch_size": 12, "lr": 0.01, "precision": "fp32", "device": "cpu", "log_every": 1},
        "eval": {"report": False},
        "wandb": {"mode": "disabled"},
    }
    file = tmp_path / "shapes.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return lambda *changed: load_experiment(file, changed)


@pytest.fixture
def nightly(tmp_path):
    """The command, without its printing."""

    def again(experiment, display=None, **options):
        return train_or_go_on(experiment, runs_dir=tmp_path / "runs", display=display or Heard(), **options)

    return again


def on_disk(folder):
    """Every file and folder with its time and size."""
    found = (path for path in folder.rglob("*") if path.name != "in-use")  # when a cache was last used, and no more
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in found}


def names(folder):
    return [one.run.name for one in list_runs(folder / "runs")]


class CutError(Exception):
    """What ends a run in the middle."""


def cut_short(monkeypatch, experiment, runs_dir, error):
    """Begin a run, and let ``error`` come after its first epoch."""
    step = Trainer.train_step

    def third(self, rows, epoch, **options):
        if epoch == 1:
            raise error
        return step(self, rows, epoch, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", third)
        with pytest.raises(type(error)):
            train_or_go_on(experiment, runs_dir=runs_dir, display=Heard())
    return list_runs(runs_dir)[-1]


def stopped_at_once(*_):
    raise KeyboardInterrupt


def weights(run):
    return load_file(run.path / "adapter" / "adapter_model.safetensors")


def test_what_has_finished_is_told_and_nothing_on_disk_changes(experiment, nightly, tmp_path, monkeypatch):
    monkeypatch.setenv("VU_CACHE", str(tmp_path / "cache"))
    first = nightly(experiment())
    assert isinstance(first, Outcome)
    before = on_disk(tmp_path)
    assert nightly(experiment()) == first.run
    assert nightly(experiment("wandb.mode=offline", "train.log_every=7", "eval.report=true")) == first.run
    assert on_disk(tmp_path) == before
    forced = nightly(experiment(), force=True)
    assert isinstance(forced, Outcome) and len(names(tmp_path)) == 2


def test_what_was_interrupted_goes_on_to_the_same_bits(experiment, nightly, tmp_path, monkeypatch):
    whole = train(experiment(), runs_dir=tmp_path / "whole", display=Heard())
    cut = cut_short(monkeypatch, experiment(), tmp_path / "runs", KeyboardInterrupt())
    assert cut.state == "interrupted"
    heard = Heard()
    went_on = nightly(experiment(), heard)
    assert went_on.run == cut.run and names(tmp_path) == [cut.run.name]
    assert f"going on with {cut.run.name}, which was interrupted" in heard.lines
    ours, theirs = weights(went_on.run), weights(whole.run)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def test_what_failed_is_tried_again_from_its_last_checkpoint(experiment, nightly, tmp_path, monkeypatch):
    cut = cut_short(monkeypatch, experiment(), tmp_path / "runs", CutError("the disk went away"))
    assert cut.state == "failed"
    heard = Heard()
    assert nightly(experiment(), heard).run == cut.run
    assert f"going on with {cut.run.name}, which failed" in heard.lines
    assert any(line.startswith("resumed at step") and line != "resumed at step 0" for line in heard.lines)


def test_with_force_what_was_interrupted_still_goes_on(experiment, nightly, tmp_path, monkeypatch):
    nightly(experiment())
    with monkeypatch.context() as patched:
        patched.setattr(runner, "_train", stopped_at_once)
        with pytest.raises(KeyboardInterrupt):
            nightly(experiment(), force=True)
    assert nightly(experiment(), force=True).run.name == names(tmp_path)[-1]
    assert len(names(tmp_path)) == 2


def test_what_diverged_is_not_trained_to_the_same_end_again(experiment, nightly, tmp_path, monkeypatch):
    cut = cut_short(monkeypatch, experiment(), tmp_path / "runs", DivergedError("loss is not finite"))
    before = on_disk(tmp_path / "runs")
    with pytest.raises(DivergedError, match=f"{cut.run.name}.*loss is not finite") as told:
        nightly(experiment())
    assert told.value.exit_code == 4 and "--force" in told.value.remedy
    assert on_disk(tmp_path / "runs") == before
    assert isinstance(nightly(experiment(), force=True), Outcome)


def test_a_run_that_another_process_trains_is_left_alone(experiment, nightly, tmp_path, monkeypatch):
    cut = cut_short(monkeypatch, experiment(), tmp_path / "runs", KeyboardInterrupt())
    with cut.run.lock():
        before = on_disk(cut.run.path)
        with pytest.raises(LockedError) as told:
            nightly(experiment())
    assert told.value.exit_code == 75
    assert names(tmp_path) == [cut.run.name]
    assert set(on_disk(cut.run.path)) == {*before}


def test_of_two_that_begin_at_the_same_moment_one_makes_a_run(experiment, nightly, tmp_path, monkeypatch):
    """The other one begins, and finds no run, while the first is about to make its own."""
    making = runner.making_runs

    def late(runs_dir):
        monkeypatch.setattr(runner, "making_runs", making)
        with monkeypatch.context() as patched:
            patched.setattr(runner, "_train", stopped_at_once)
            with pytest.raises(KeyboardInterrupt):
                nightly(experiment())
        return making(runs_dir)

    monkeypatch.setattr(runner, "making_runs", late)
    with pytest.raises(LockedError, match="another process has just begun this run"):
        nightly(experiment())
    assert len(names(tmp_path)) == 1


def test_a_new_run_says_what_has_changed(experiment, nightly, data, tmp_path):
    first = nightly(experiment()).run
    table = data / "metadata.csv"
    lines = table.read_text().splitlines()
    added = lines[1].split(",")
    shutil.copy(next((data / "images").rglob(f"{added[0]}.*")), data / "images" / added[1] / "added.png")
    relabelled = lines[2].split(",")[0]
    removed = lines.pop(3).split(",")[0]
    lines[2] = lines[2].replace(" a ", " one ").replace("a ", "one ", 1)
    table.write_text("\n".join([*lines, ",".join(["added", *added[1:]])]) + "\n")
    heard = Heard()
    second = nightly(experiment("adapter.rank=4"), heard).run
    (told,) = [line for line in heard.lines if line.startswith(f"since {first.name}: ")]
    assert "adapter.rank 2 → 4" in told
    assert "1 row added (added)" in told
    assert f"1 row removed ({removed})" in told
    assert f"1 row relabelled ({relabelled})" in told
    record = recorded_base(second.path)
    assert record.earlier == first.name and ", ".join(record.changes) in told
    assert facts_of(second)["changed since"] == record.changes and facts_of(second)["earlier run"] == first.name


def test_other_weights_and_another_version_make_a_new_run_that_names_them(
    experiment, nightly, clip, tmp_path, monkeypatch
):
    own = shutil.copytree(clip, tmp_path / "clip")
    first = nightly(experiment(f"model={own}", "train.epochs=1")).run
    moved = own.rename(tmp_path / "moved")
    assert nightly(experiment(f"model={moved}", "train.epochs=1")) == first, "its weights count, not its place"
    save_clip(moved, seed=5)
    heard = Heard()
    second = nightly(experiment(f"model={moved}", "train.epochs=1"), heard).run
    assert second != first and any(
        f"{tmp_path / 'clip'} → {moved}: " in line and " differs" in line for line in heard.lines
    )
    monkeypatch.setattr(same_run, "__version__", "9.9")
    third = nightly(experiment(f"model={moved}", "train.epochs=1"), heard := Heard()).run
    assert f"since {second.name}: vectoruniverse {__version__} → 9.9" in heard.lines
    assert third not in (first, second)


def test_no_secret_and_nothing_that_changes_no_result_enters_the_identity(experiment, monkeypatch):
    base = BaseRecord(model="clip", files={"model.safetensors": "0"})
    plain = identity(experiment(), base)
    quiet = ("wandb.project=hf_abcdefghijk1234567890", "wandb.mode=offline", "tensorboard=true", "train.device=auto",
             "data.root=https://user:password@host/data", "data.cache_dir=/elsewhere", "eval.report=true")  # fmt: skip
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    for same in quiet:
        assert identity(experiment(same), base) == plain, same
    for other in ("seed=1", "adapter.rank=4", "train.precision=auto", "data.split.seed=1", "data.text='{category}'"):
        assert identity(experiment(other), base) != plain, other


def test_auto_precision_counts_as_it_was_asked_for(experiment, nightly, tmp_path):
    asked = experiment("train.precision=auto", "train.epochs=1")
    first = nightly(asked).run
    assert "precision: auto" not in first.config_file.read_text()
    assert nightly(asked) == first
    chosen = json.loads(first.environment_file.read_text())["precision"]["chosen"]
    assert not same_runs(
        experiment(f"train.precision={chosen}", "train.epochs=1"), tmp_path / "runs", describe_base(asked)
    )


def test_a_run_of_an_earlier_version_is_known_by_its_files(experiment, nightly, tmp_path):
    asked = experiment("train.precision=auto", "train.epochs=1")
    first = nightly(asked).run
    file = first.path / "base.json"
    record = json.loads(file.read_text())
    noted = record.pop("identity")
    file.write_text(json.dumps(record))
    assert noted == identity(asked, describe_base(asked))
    assert nightly(asked) == first


def test_a_run_whose_settings_were_edited_or_damaged_is_not_the_same(experiment, nightly, tmp_path):
    first = nightly(experiment("train.epochs=1")).run
    text = first.config_file.read_text()
    for broken in (text.replace("rank: 2", "rank: 8"), "name: [", ""):
        first.config_file.write_text(broken)
        assert not same_runs(experiment("train.epochs=1"), tmp_path / "runs", describe_base(experiment()))
    first.config_file.unlink()
    assert isinstance(nightly(experiment("train.epochs=1")), Outcome)


def test_another_name_is_another_run(experiment, nightly, tmp_path):
    nightly(experiment("train.epochs=1"))
    assert isinstance(nightly(experiment("train.epochs=1", "name=others")), Outcome)
