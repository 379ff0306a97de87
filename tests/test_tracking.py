"""Numbers reach metrics.jsonl and Weights & Biases whole, and nothing that fails there stops a training."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from vectoruniverse.tracking.contract import Status, Trackers, Value
from vectoruniverse.tracking.jsonl import JsonlTracker, read_metrics
from vectoruniverse.tracking.weights_and_biases import WandbSettings, WandbTracker

WELL_FORMED_KEY = "0123456789" * 4


def test_metrics_are_strict_json_and_on_disk_after_every_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(path)
    tracker.log(1, {"loss": math.nan, "up": math.inf, "down": -math.inf, "lr": 0.1, "note": "색"})
    line = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(name))
    assert {key: line[key] for key in ("step", "loss", "up", "down", "lr", "note")} == {
        "step": 1,
        "loss": "NaN",
        "up": "Infinity",
        "down": "-Infinity",
        "lr": 0.1,
        "note": "색",
    }
    assert math.isnan(float(line["loss"]))
    assert float(line["down"]) == -math.inf
    tracker.finish("finished")


def test_resume_drops_later_and_torn_lines_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    kept = '{"step": 10, "seconds": 100.5, "loss": 2.0}\n{"step": 20, "seconds": 200.5, "loss": 1.0}\n'
    path.write_text(kept + 'not json\n[1]\n{"step": 30, "seconds": 300.5}\n{"step": 1', encoding="utf-8")
    assert [record["step"] for record in read_metrics(path)] == [10, 20, 30]
    tracker = JsonlTracker(path, resume_step=20)
    tracker.log(30, {"loss": 0.5})
    tracker.finish("interrupted")
    assert path.read_text(encoding="utf-8").startswith(kept + '{"step": 30, ')
    last = list(read_metrics(path))[-1]
    assert last["loss"] == 0.5
    assert 200.5 <= float(last["seconds"]) < 210
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_from_its_beginning_starts_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "seconds": 1.0}\n', encoding="utf-8")
    JsonlTracker(path).finish("finished")
    assert path.read_text(encoding="utf-8") == ""


class BrokenTracker:
    def log(self, step: int, values: dict[str, Value]) -> None:
        raise OSError("no space")

    def summary(self, values: dict[str, Value]) -> None:
        raise OSError("no space")

    def finish(self, status: Status) -> None:
        raise OSError("no space")


def test_the_failure_of_one_tracker_is_told_once_and_touches_no_other(tmp_path: Path) -> None:
    warnings: list[str] = []
    trackers = Trackers([BrokenTracker(), JsonlTracker(tmp_path / "metrics.jsonl")], warnings.append)
    for step in range(3):
        trackers.log(step, {"loss": 1.0})
    trackers.summary({"best": 1.0})
    trackers.finish("finished")
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2]
    assert len(warnings) == 1
    assert "no space" in warnings[0]


@pytest.fixture
def lonely_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key, no user settings, no server, a terminal that must not be asked."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("CONFIG_DIR", "CACHE_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


def wandb_records(folder: Path) -> list[object]:
    """Records of the one offline run below ``folder``: LevelDB's log format around wandb's protocol buffers."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # the file is whole when wandb's service has gone, not when the run finishes
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    offset, whole, records = 7, b"", []
    while offset + 7 <= len(data):
        if (left := 32768 - offset % 32768) < 7:
            offset += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, offset)
        whole += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):
            records.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return records


def history(records: list[object]) -> list[dict[str, object]]:
    rows = [record.history.item for record in records if record.WhichOneof("record_type") == "history"]
    return [{(item.key or item.nested_key[0]): json.loads(item.value_json) for item in row} for row in rows]


def of_kind(records: list[object], kind: str) -> list[object]:
    return [getattr(record, kind) for record in records if record.WhichOneof("record_type") == kind]


@pytest.mark.usefixtures("lonely_wandb")
def test_an_offline_run_holds_config_axis_summary_and_artifact(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    warnings: list[str] = []
    run, adapter = tmp_path / "exp-20260101-0000-abcd", tmp_path / "adapter"
    run.mkdir()
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    settings = WandbSettings(project="planets", tags=["x", "y"], notes="n")
    config = {"train": {"lr": 1e-3}}
    tracker = WandbTracker(run, run.name, config, warnings.append, settings, best={"val/recall@5": "max"})
    for step, recall in [(0, 0.1), (10, 0.5), (20, 0.3)]:
        tracker.log(step, {"val/recall@5": recall})
    tracker.summary({"best/epoch": 2})
    tracker.log_artifact(adapter, "exp-adapter", "model", {"rank": 8})
    tracker.finish("failed")

    records = wandb_records(run)
    (header,) = of_kind(records, "run")
    assert (header.run_id, header.project, list(header.tags), header.notes) == (run.name, "planets", ["x", "y"], "n")
    updates = {update.key: json.loads(update.value_json) for update in header.config.update}
    assert updates["train"] == {"lr": 1e-3}
    axis, best = of_kind(records, "metric")
    assert (axis.glob_name, axis.step_metric) == ("*", "step")
    assert (best.name, best.step_metric, best.summary.max) == ("val/recall@5", "step", True)
    assert [(row["step"], row["val/recall@5"]) for row in history(records)] == [(0, 0.1), (10, 0.5), (20, 0.3)]
    summary = {
        (item.key or item.nested_key[0]): json.loads(item.value_json)
        for update in of_kind(records, "summary")
        for item in update.update
    }
    assert summary["val/recall@5"] == {"max": 0.5}
    assert summary["best/epoch"] == 2
    (artifact,) = of_kind(records, "artifact")
    assert (artifact.name, artifact.type, json.loads(artifact.metadata)) == ("exp-adapter", "model", {"rank": 8})
    assert [entry.path for entry in artifact.manifest.contents] == ["adapter_config.json"]
    assert of_kind(records, "exit")[0].exit_code == 1
    assert warnings == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("lonely_wandb")
def test_what_the_config_leaves_open_is_left_to_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "from-variable")
    monkeypatch.setenv("WANDB_RUN_GROUP", "group-from-variable")
    monkeypatch.setenv("WANDB_TAGS", "tag-from-variable")
    WandbTracker(tmp_path, "a", {}, pytest.fail, WandbSettings()).finish("finished")
    (header,) = of_kind(wandb_records(tmp_path), "run")
    assert (header.project, header.run_group) == ("from-variable", "group-from-variable")
    assert list(header.tags) == ["tag-from-variable"]


@pytest.mark.usefixtures("lonely_wandb")
def test_a_resumed_offline_run_has_the_same_id(tmp_path: Path) -> None:
    for step in (10, 5):
        tracker = WandbTracker(tmp_path, "a", {}, pytest.fail)
        tracker.log(step, {"loss": 1.0})
        tracker.finish("interrupted")
        (folder,) = tmp_path.glob("wandb/offline-run-*")
        (header,) = of_kind(wandb_records(tmp_path), "run")
        assert header.run_id == "a"
        assert [row["step"] for row in history(wandb_records(tmp_path))] == [step]
        folder.rename(tmp_path / f"earlier-{step}")


@pytest.mark.usefixtures("lonely_wandb")
@pytest.mark.parametrize(
    ("key", "mode", "reason"),
    [
        ("bad", "auto", "40"),
        ("bad", "online", "40"),
        (None, "online", "wandb login"),
        (WELL_FORMED_KEY, "auto", "refused"),
    ],
)
def test_a_bad_key_or_no_network_gives_one_warning_and_an_offline_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    key: str | None,
    mode: str,
    reason: str,
) -> None:
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    warnings: list[str] = []
    begin = time.monotonic()
    tracker = WandbTracker(tmp_path, "a", {}, warnings.append, WandbSettings(mode=mode, init_timeout=0.5))
    tracker.log(1, {"loss": 1.0})
    tracker.finish("finished")
    assert time.monotonic() - begin < 10
    assert [row["loss"] for row in history(wandb_records(tmp_path))] == [1.0]
    (warning,) = warnings
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert reason in warning
    assert warning.endswith(f"wandb sync {folder}")
    assert WELL_FORMED_KEY not in warning
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("lonely_wandb")
def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", WELL_FORMED_KEY)
        warnings: list[str] = []
        begin = time.monotonic()
        tracker = WandbTracker(tmp_path, "a", {}, warnings.append, WandbSettings(init_timeout=0.5))
        tracker.finish("finished")
    assert time.monotonic() - begin < 10
    assert len(warnings) == 1


class StallingServer(BaseHTTPRequestHandler):
    """Lets a run begin, as Weights & Biases would, and then takes no upload to its end."""

    stalled = threading.Event()
    ANSWERS: ClassVar = {
        "UpsertBucket": {"upsertBucket": {"bucket": {"id": "x", "name": "a", "project": {"name": "p"}}}},
        "CreateRunFiles": {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": []}},
    }

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/graphql":
            self.stalled.wait(30)
            return
        operation = re.search(r"(?:query|mutation)\s+(\w+)", json.loads(body)["query"])
        answer = json.dumps({"data": self.ANSWERS.get(operation[1] if operation else "", {})}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.usefixtures("lonely_wandb")
def test_an_online_run_that_cannot_upload_to_the_end_is_given_up_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    warnings: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), StallingServer) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("WANDB_API_KEY", WELL_FORMED_KEY)
        settings = WandbSettings(init_timeout=20.0, finish_timeout=0.5)
        tracker = WandbTracker(tmp_path, "a", {}, warnings.append, settings)
        tracker.log(1, {"loss": 1.0})
        assert warnings == []
        begin = time.monotonic()
        tracker.finish("finished")
        assert time.monotonic() - begin < 5
        StallingServer.stalled.set()
        wandb.teardown()
        server.shutdown()
    (warning,) = warnings
    (folder,) = tmp_path.glob("wandb/run-*")
    assert "Timed out" in warning
    assert warning.endswith(f"wandb sync {folder}")


@pytest.mark.usefixtures("lonely_wandb")
def test_a_run_ended_behind_our_back_gives_one_warning(tmp_path: Path) -> None:
    import wandb

    warnings: list[str] = []
    tracker = WandbTracker(tmp_path, "a", {}, warnings.append)
    wandb.teardown()
    for step in range(3):
        tracker.log(step, {"loss": 1.0})
    tracker.finish("finished")
    assert len(warnings) == 1


@pytest.mark.usefixtures("lonely_wandb")
def test_a_disabled_run_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, variable in [(WandbSettings(mode="disabled"), "online"), (WandbSettings(), "disabled")]:
        monkeypatch.setenv("WANDB_MODE", variable)
        tracker = WandbTracker(tmp_path, "a", {}, pytest.fail, settings)
        tracker.log(1, {"loss": 1.0})
        tracker.finish("finished")
    assert list(tmp_path.iterdir()) == []
