"""``vu find-lr`` as a person meets it, for every task and adapter."""

from __future__ import annotations

import json
import math
import shlex

import pytest
import yaml

from tests.cli.test_runs import vu
from tests.models.models import save_clip
from tests.models.text_models import save_encoder
from vectoruniverse.cli.rates import next_command
from vectoruniverse.training.batches import batches
from vectoruniverse.training.find_lr import Rates
from vectoruniverse.training.rate_rules import Probe
from vectoruniverse.training.strata import Strata

LORA, PREFIX, FULL = {"method": "lora", "rank": 2}, {"method": "prefix", "prefix_length": 3}, {"method": "full"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "clip": str(save_clip(folder / "clip")),
        "bert": str(save_encoder(folder / "bert", "bert", max_position_embeddings=64)),
        "scratch": {"scratch": "bert", "width": 32, "layers": 1, "heads": 2, "intermediate": 64, "max_text_tokens": 32},
    }


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    rows = [f"{a} {b} {i},{b} {a} {i},{a}" for i in range(8) for a in ("red", "green", "blue") for b in ("one", "two")]
    (folder / "t.csv").write_text("\n".join(["first,second,label", *rows]), encoding="utf-8")
    documents = [f"The {row.split(',')[0]} is here. It is {row.split(',')[1]}. Nothing else was seen." for row in rows]
    (folder / "d.txt").write_text("\n\n".join(documents), encoding="utf-8")
    return folder


def write(tmp_path, task, model, data, adapter, **train):
    settings = {
        "name": "search",
        "task": task,
        "model": model,
        "data": data,
        "adapter": adapter,
        "train": {"batch_size": 8, "lr": 0.01, "device": "cpu", "precision": "fp32", **train},
        "wandb": {"mode": "disabled"},
    }
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file


CASES = {
    "pictures, lora": ("image_text", "clip", {"root": "shapes"}, LORA),
    "pictures, prefix": ("image_text", "clip", {"root": "shapes"}, PREFIX),
    "pairs, full": ("text_pairs", "bert", {"file": "t.csv"}, FULL),
    "classes, lora": ("sequence_classification", "bert", {"file": "t.csv", "text": "first", "label": "label"}, LORA),
    "masked": ("masked_lm", "scratch", {"source": "d.txt"}, FULL),
}


@pytest.mark.parametrize("case", CASES)
def test_rates_are_measured_for_every_task_and_nothing_is_left_behind(case, models, texts, shapes, tmp_path):
    task, model, data, adapter = CASES[case]
    places = {"shapes": str(shapes), "t.csv": str(texts / "t.csv"), "d.txt": str(texts / "d.txt")}
    data = {key: places.get(value, value) for key, value in data.items()}
    file = write(tmp_path, task, models[model], data, adapter)
    done = vu("find-lr", "--config", str(file), "--steps", "5", "--json", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert 0.01 in [probe["lr"] for probe in told["probes"]] and told["asked"] == 0.01
    assert told["chance"] > 0 and math.isfinite(told["start"])
    assert told["updates"] >= len(told["ramp"]) + 5
    assert shlex.split(told["command"])[:4] == ["vu", shlex.split(told["command"])[1], "--config", str(file)]
    assert [path.name for path in tmp_path.iterdir()] == ["search.yaml"]
    assert done.stderr == ""


def test_the_table_names_the_rate_and_the_command_trains_with_it(models, texts, tmp_path):
    file = write(tmp_path, "text_pairs", models["bert"], {"file": str(texts / "t.csv")}, FULL)
    out = tmp_path / "found"
    arguments = ("--config", str(file), "--set", "seed=1", "--steps", "12", "--out", str(out))
    done = vu("find-lr", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "find-lr.json").read_text())
    assert {path.name for path in out.iterdir()} == {"find-lr.json", "find-lr.png", "find-lr.svg"}
    assert record["recommended"] is not None
    assert f"next: vu train --config {file} --set seed=1 --set train.lr={record['recommended']:g}" in done.stdout
    assert "recommended" in done.stdout and "asked for" in done.stdout
    command = done.stdout.split("next: vu ")[1].splitlines()[0]
    trained = vu(*shlex.split(command), "--dry-run", "--quiet", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr


def test_batches_are_drawn_by_the_sampler_and_what_is_mined_is_said_to_be_left_out(
    models, shapes, tmp_path, monkeypatch
):
    file = write(tmp_path, "image_text", models["clip"], {"root": str(shapes)}, LORA)
    seen, dealt = [], batches
    monkeypatch.setattr(
        "vectoruniverse.training.find_lr.batches", lambda *given: seen.append(given[4]) or dealt(*given)
    )

    def search(*settings):
        options = [word for setting in settings for word in ("--set", setting)]
        done = vu("find-lr", "--config", str(file), *options, "--steps", "5", "-q", "--out", "out", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout, json.loads((tmp_path / "out" / "find-lr.json").read_text())["left_out"]

    said, left_out = search("train.sampler=no_duplicates")
    assert all(isinstance(strata, Strata) for strata in seen) and "without" not in said and left_out == []
    said, left_out = search("train.hard_negatives={share: 0.5}")
    assert "measured without train.hard_negatives" in said and left_out == ["train.hard_negatives"]


def rates(probes, *, start, chance, best=None):
    return Rates(probes[0].lr, best, None, start, chance, None, probes, [], 20, 100, 4, 200)


def test_where_nothing_learns_the_command_tries_what_was_measured_to_be_wrong():
    probes = [Probe(1e-4, "above chance", 9.0, -5.0, 0.1), Probe(1e-3, "collapses", 4.16, 0.0, 0.1)]
    command, why = next_command(rates(probes, start=11.0, chance=4.159), "c.yaml", ["seed=1"], 0.07)
    assert command == "vu find-lr --config c.yaml --set seed=1 --set loss.temperature=0.07"
    assert "no rate from 0.0001 to 0.001 learns within 20 steps: 11.000 before, 4.159 by chance" in why
    command, why = next_command(rates(probes, start=4.1, chance=4.159), "c.yaml", [], 0.07)
    assert command == "vu find-lr --config c.yaml --steps 60"
    command, _ = next_command(rates(probes, start=11.0, chance=4.159), "c.yaml", [], None)
    assert command == "vu find-lr --config c.yaml --steps 60", "a task without a temperature"


def test_too_few_rows_are_told_with_a_remedy(models, tmp_path):
    (tmp_path / "few.csv").write_text("first,second\n" + "\n".join(f"a {i},b {i}" for i in range(12)))
    file = write(tmp_path, "text_pairs", models["bert"], {"file": str(tmp_path / "few.csv")}, FULL)
    done = vu("find-lr", "--config", str(file), cwd=tmp_path)
    assert done.returncode == 3
    assert "training rows are too few to set some of them apart" in done.stderr and "give at least 16" in done.stderr


@pytest.mark.usefixtures("blank_figures")
def test_a_run_that_does_not_learn_says_so_in_terminal_and_page_with_a_command_that_runs(models, shapes, tmp_path):
    data = {"root": str(shapes), "split": {"val_fraction": 0.2, "test_fraction": 0}}
    file = write(tmp_path, "image_text", models["clip"], data, LORA, epochs=3, lr=1e-12, log_every=1)
    done = vu("train", "--config", str(file), "--set", "loss=info_nce", "--runs-dir", "runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").glob("[!.]*")
    signs = [line for line in done.stdout.splitlines() if line.startswith("Learning: ")]
    assert signs[0].startswith("Learning: the loss stayed above chance: mean 2.")
    assert signs[-1].endswith(f"; try: vu find-lr --config runs/{run.name}/config.yaml")
    assert "(ln 6 to ln 7)" in signs[0], "26 rows in 4 batches"
    again = vu("eval", run.name, "--runs-dir", "runs", cwd=tmp_path)
    assert [line for line in again.stdout.splitlines() if line.startswith("Learning: ")] == signs
    assert "the loss stayed above chance" in (run / "report.html").read_text(encoding="utf-8")
    found = vu(*shlex.split(signs[-1].split("try: vu ")[1]), "--steps", "5", "--json", "-q", cwd=tmp_path)
    assert json.loads(found.stdout)["asked"] == 1e-12
