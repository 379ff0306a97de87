"""What vu doctor finds, with the surroundings bent to each fault."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tomllib
from collections import namedtuple
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from tests.data.packing import pack
from vectoruniverse.cli import app
from vectoruniverse.errors import ConfigError
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.unattended import diagnosis, disk, machine, services
from vectoruniverse.unattended.check import Asked, Check

ROOT = Path(__file__).parents[2]
Free = namedtuple("Free", "total used free")
KEY = "0123456789abcdef" * 3


@pytest.fixture
def asked(tmp_path):
    return Asked(None, tmp_path / "runs")


@pytest.fixture
def experiment(shapes, tmp_path):
    def make(**settings):
        file = tmp_path / "shapes.yaml"
        kept = {"name": "shapes", "task": "image_text", "model": "tiny-clip", "data": {"root": str(shapes)}}
        file.write_text(yaml.safe_dump({**kept, "train": {"precision": "fp32"}, **settings}))
        return Asked(load_experiment(file), tmp_path / "runs")

    return make


def test_the_oldest_python_is_that_of_the_package(asked, monkeypatch):
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert declared == f">={'.'.join(map(str, machine.OLDEST_PYTHON))}"
    assert machine.python(asked).status == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert machine.python(asked).status == "fix"


def gpu(monkeypatch, capability, built_for):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Tesla V100-SXM2-16GB")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)


def test_a_gpu_that_the_build_serves_is_named(asked, monkeypatch):
    gpu(monkeypatch, (7, 0), ["sm_70", "sm_80"])
    check = machine.torch_build(asked)
    assert check.status == "ok" and "V100" in check.found
    assert "cuda, float16" in machine.compute(asked).found


def test_a_gpu_that_the_build_has_no_kernels_for_is_told_with_the_build_that_has(asked, monkeypatch):
    gpu(monkeypatch, (7, 0), ["sm_80", "sm_90"])
    found = diagnosis.diagnose(None, (), asked.runs_dir).checks["torch"]
    assert found.status == "fix" and "cu126" in found.remedy


@pytest.mark.parametrize(("cuda", "remedy"), [(None, "pip install"), ("13.0", "driver")])
def test_a_gpu_that_torch_does_not_see(cuda, remedy, asked, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_NVIDIA", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check = machine.torch_build(asked)
    assert check.status == "fix" and remedy in check.remedy
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.torch_build(asked).status == "warning"


def test_a_device_that_is_not_here_is_told(experiment):
    with pytest.raises(ConfigError, match="no cuda:7"):
        machine.compute(experiment(train={"device": "cuda:7"}))


def test_the_format_is_the_one_that_training_would_take(experiment):
    said = machine.compute(experiment(train={"precision": "auto", "device": "cpu", "batch_size": 2})).found
    assert "a block" in said or "the usual format" in said
    assert "float32" in machine.compute(experiment(train={"precision": "fp32", "device": "cpu"})).found
    away = experiment(model="nobody/nothing", train={"precision": "auto", "device": "cpu"})
    assert "when the model is here" in machine.compute(away).found


def test_more_threads_than_processors_are_told(asked, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert machine.threads(asked).status == "warning"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert machine.threads(asked).status == "ok"


def test_busy_processors_are_told(asked, monkeypatch):
    from vectoruniverse.training import threads

    monkeypatch.setattr(threads, "choose_threads", lambda: "other programs keep 1.9 of 2 processors busy")
    assert machine.threads(asked).status == "warning"


def test_a_full_disk_is_told(asked, experiment, monkeypatch, shapes):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Free(2**40, 2**40, 2**29))
    assert disk.room_for_runs(asked).status == "fix"
    assert disk.room_for_pictures(asked).status == "fix"
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Free(2**40, 0, 3 * 2**29))
    assert disk.room_for_runs(asked).status == "warning"


def test_the_cache_is_told_with_its_limit_and_what_could_be_freed(asked, experiment, monkeypatch, tmp_path):
    monkeypatch.setenv("VU_CACHE", str(tmp_path / "cache"))
    store = tmp_path / "cache" / "old"
    store.mkdir(parents=True)
    for name in ("states.bin", "index.jsonl", "in-use"):
        (store / name).touch()
    os.truncate(store / "states.bin", 3 * 2**30)
    monkeypatch.setenv("VU_CACHE_LIMIT", "5GiB")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Free(2**40, 0, 2**40))
    assert disk.room_for_pictures(asked) == Check(
        "ok",
        f"1,024.0 GiB free in {tmp_path / 'cache'}, about 2.0 wanted; the cache holds 3.0 GiB of at most 5.0",
    )
    monkeypatch.setenv("VU_CACHE_LIMIT", "100kB")
    found = disk.room_for_pictures(experiment())
    assert found.status == "warning" and "$VU_CACHE_LIMIT" in found.remedy
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Free(2**40, 2**40, 2**10))
    found = disk.room_for_pictures(asked)
    assert found.status == "fix" and "free 3.0 GiB by vu cache prune --all --yes" in found.remedy
    monkeypatch.setenv("VU_CACHE_LIMIT", "much")
    assert "is no size" in diagnosis.diagnose(None, (), asked.runs_dir).checks["room for pictures"].found


def test_pictures_need_a_square_of_bytes_for_each_line_of_the_table(experiment):
    read = experiment()  # tiny-clip, which reads 64 pixels
    assert disk._picture_bytes(read.experiment) == 33 * 64 * 64 * 3
    larger = experiment(data={"root": read.experiment.data.root, "cache_size": 512})
    assert disk._picture_bytes(larger.experiment) == 33 * 512 * 512 * 3


def test_pictures_of_shards_need_one_for_each_row_and_none_where_they_are_not_kept(experiment, shapes, tmp_path):
    place = str(pack(shapes, tmp_path / "packed", "webdataset"))
    assert disk._picture_bytes(experiment(data={"root": place}).experiment) == 32 * 64 * 64 * 3
    streamed = experiment(data={"root": place, "store": "off", "cache_size": 2048})
    assert disk._picture_bytes(streamed.experiment) == disk._LEAST


def test_a_model_that_is_trained_in_full_needs_room_for_its_checkpoints(experiment, monkeypatch):
    monkeypatch.setattr(disk, "_LEAST", 0)
    weights = services.cached_folder(experiment().experiment) / "model.safetensors"
    assert disk._run_bytes(experiment()) == 0
    assert disk._run_bytes(experiment(adapter={"method": "full"})) == 10 * weights.stat().st_size


def test_a_task_without_pictures_needs_no_room_for_them(tmp_path):
    texts = load_experiment(ROOT / "configs" / "text_pairs.yaml")
    assert disk.room_for_pictures(Asked(texts, tmp_path)) is None


def test_a_place_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(disk.tempfile, "TemporaryFile", refuse)
    check = disk.room_for_runs(Asked(None, tmp_path / "far" / "away"))
    assert check.status == "fix" and "Read-only" in check.found and "VU_RUNS" in check.remedy
    assert machine.clock(Asked(None, tmp_path / "far" / "away")).status == "ok"


def test_a_clock_behind_the_newest_run_or_away_from_that_of_the_disk_is_told(asked, monkeypatch):
    assert machine.clock(asked).status == "ok"
    monkeypatch.setattr(machine, "_run_times", lambda runs_dir: [machine.time.time() + 3 * 86_400])
    check = machine.clock(asked)
    assert check.status == "fix" and any(ahead in check.found for ahead in ("3 d 0 h", "2 d 23 h"))
    monkeypatch.setattr(machine.time, "time", lambda: 1_000_000_000.0)
    assert machine.clock(asked).status == "warning"


def test_run_times_are_read_from_runs(asked):
    from vectoruniverse.runs.folder import create_run

    run = create_run(asked.runs_dir, "moons", {"config.yaml": "name: moons\n"})
    run.set_state("running")
    assert [round(time) for time in machine._run_times(asked.runs_dir)] == [pytest.approx(machine.time.time(), abs=60)]


def test_an_encoding_without_all_letters_is_told(asked, monkeypatch):
    assert machine.encoding(asked).status == "ok"
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert machine.encoding(asked).status == "fix"


def test_a_model_that_is_here_away_or_nowhere(experiment, asked, monkeypatch):
    import huggingface_hub.constants as hub

    assert "tiny-clip" in services.model(asked).found
    assert services.model(experiment()).status == "ok"
    away = experiment(model="nobody/nothing")
    assert services.model(away).status == "fix"  # tests are offline
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    check = services.model(away)
    assert check.status == "warning" and check.remedy == "hf download nobody/nothing"
    with pytest.raises(ConfigError, match=r"no config\.json"):
        services.model(experiment(model="./nothing"))


def test_a_model_of_the_cache_is_found_without_a_network(experiment, monkeypatch, tmp_path):
    import huggingface_hub

    def cached(repository, file, revision=None):
        return str(tmp_path / file) if file in ("config.json", "model.safetensors") else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert services.model(experiment(model="some/clip")) == Check("ok", f"some/clip in {tmp_path}")


@pytest.fixture
def with_key(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(services, "_has_key", lambda: True)


def test_asked_to_be_offline_nothing_is_looked_up(asked, monkeypatch):
    monkeypatch.setattr(services, "_has_key", lambda: pytest.fail("looked up"))
    assert services.wandb(asked).status == "ok"


def test_without_a_key_runs_are_offline_and_no_server_is_asked(asked, experiment, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(services, "_has_key", lambda: False)
    monkeypatch.setattr(services, "_silence", lambda address: pytest.fail("asked"))
    assert services.wandb(asked).status == "ok"
    assert services.wandb(experiment(wandb={"mode": "online"})).status == "warning"


def test_a_key_that_is_none_is_told_and_never_shown(asked, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "hunter-2-and-more")
    check = services.wandb(asked)
    assert check.status == "fix" and "hunter" not in str(check)


def test_a_server_that_never_answers_costs_seconds_and_no_more(asked, with_key, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(services, "_address", lambda: f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(services, "SERVER_SECONDS", 0.2)
        check = services.wandb(asked)
    assert check.status == "warning" and "does not answer" in check.found and KEY not in str(check)


@pytest.mark.parametrize(("status", "found"), [(404, "ok"), (502, "warning"), (407, "warning")])
def test_a_server_that_answers_is_there_and_a_proxy_that_complains_is_none(status, found, asked, with_key, monkeypatch):
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(status)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setattr(services, "_address", lambda: f"http://127.0.0.1:{server.server_port}")
        check = services.wandb(asked)
        thread.join()
    assert check.status == found and (check.found.startswith("online") or f"status {status}" in check.found)


def test_an_extra_that_the_experiment_needs_and_lacks_is_told(asked, experiment, monkeypatch):
    lines = ['tensorboard>=2.19; extra == "tensorboard"', 'peft>=0.21; extra == "peft"', 'pytest; extra == "test"']
    monkeypatch.setattr(services.importlib.metadata, "requires", lambda name: ["torch>=2.8", *lines])
    monkeypatch.setattr(services, "_is_installed", lambda package: package != "tensorboard")
    assert services.extras(asked) == Check("ok", "peft; not installed: tensorboard")
    assert services.extras(experiment(tensorboard=True)).status == "fix"


def test_an_experiment_that_cannot_be_read_leaves_the_other_checks(asked):
    found = diagnosis.diagnose("nothing.yaml", (), asked.runs_dir)
    assert found.needs_fixing and found.checks["experiment"].status == "fix" and "clock" in found.checks


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warning", 0), ("fix", 1)])
def test_only_what_is_to_be_fixed_makes_the_command_fail(status, code, monkeypatch):
    monkeypatch.setattr(diagnosis, "CHECKS", {"moon": lambda asked: Check(status, "waning", "wait")})
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == code and "waning" in shown.stdout
    told = CliRunner().invoke(app, ["doctor", "--json"])
    record = {"needs_fixing": bool(code), "checks": {"moon": {"status": status, "found": "waning", "remedy": "wait"}}}
    assert told.exit_code == code and json.loads(told.stdout) == record


def test_a_torch_that_cannot_be_loaded_is_told_without_a_traceback(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    done = subprocess.run(
        [sys.executable, "-m", "vectoruniverse.cli", "doctor"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "libcudart.so.13" in done.stdout and "clock" in done.stdout
