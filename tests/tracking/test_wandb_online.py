"""Outages, bad keys and slow servers become one warning, in bounded time; a resumed run goes on at the server."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.tracking.conftest import WELL_FORMED_KEY
from tests.tracking.server import serving
from tests.tracking.wandb_file import read_wandb
from vectoruniverse.tracking.contract import DataSet
from vectoruniverse.tracking.weights_and_biases import WandbSettings, WandbTracker

pytestmark = pytest.mark.usefixtures("lonely_wandb")


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
    assert read_wandb(tmp_path).points("loss") == [(1, 1.0)]
    (warning,) = warnings
    assert reason in warning
    assert warning.endswith(f"vu sync {tmp_path}")
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert WELL_FORMED_KEY not in warning
    assert WELL_FORMED_KEY.encode() not in content
    assert capfd.readouterr() == ("", "")


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


def test_an_online_run_that_cannot_upload_to_the_end_is_given_up_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setenv("WANDB_API_KEY", WELL_FORMED_KEY)
    with serving(stall=("upload",)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        settings = WandbSettings(init_timeout=20.0, finish_timeout=0.5)
        tracker = WandbTracker(tmp_path, "a", {}, warnings.append, settings)
        tracker.log(1, {"loss": 1.0})
        assert warnings == []
        begin = time.monotonic()
        tracker.finish("finished")
        assert time.monotonic() - begin < 5
    (warning,) = warnings
    (folder,) = tmp_path.glob("wandb/run-*")
    assert "Timed out" in warning
    assert warning.endswith(f"wandb sync --include-online {folder}")


def test_the_adapter_is_uploaded_with_its_lineage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", WELL_FORMED_KEY)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "a.bin").write_bytes(b"1")
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        tracker = WandbTracker(tmp_path, "a", {}, pytest.fail, WandbSettings(init_timeout=20.0, finish_timeout=20.0))
        tracker.log_adapter(tmp_path / "adapter", {}, DataSet("emoji", "f00d", 1))
        tracker.finish("finished")
        assert sorted(server.committed) == ["adapter-a", "data-emoji"]
        assert server.used == ["data-emoji"]


def test_a_server_that_says_nothing_about_artifacts_is_waited_for_so_long_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setenv("WANDB_API_KEY", WELL_FORMED_KEY)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "a.bin").write_bytes(b"1")
    with serving(stall=("Viewer",)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        settings = WandbSettings(init_timeout=20.0, finish_timeout=0.5)
        tracker = WandbTracker(tmp_path, "a", {}, warnings.append, settings)
        begin = time.monotonic()
        tracker.log_adapter(tmp_path / "adapter", {}, DataSet("d", "f00d", 1))
        tracker.finish("finished")
        assert time.monotonic() - begin < 8
        assert "Viewer" in server.operations
    assert ["the adapter (it took longer than 0.5 s)" in warning for warning in warnings].count(True) == 1
    assert len(set(warnings)) == len(warnings) <= 3


def test_a_resumed_online_run_goes_on_where_the_server_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", WELL_FORMED_KEY)
    settings = WandbSettings(init_timeout=20.0, finish_timeout=20.0)
    values = {step: step / 100 for step in (0, 10, 20, 30, 40)}
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        tracker = WandbTracker(tmp_path, "a", {}, pytest.fail, settings)
        for step in (0, 10, 20):
            tracker.log(step, {"loss": values[step]})
        tracker.finish("interrupted")
        wandb.teardown()
        assert server.points("loss") == [(0, 0.0), (10, 0.1), (20, 0.2)]
        del server.lines[2]  # as if the process had been killed before wandb sent its last row
        server.summary["step"] = 10
        history = [{"step": step, "seconds": 1.0, "loss": values[step]} for step in (0, 10, 20)]
        tracker = WandbTracker(tmp_path, "a", {}, pytest.fail, settings, history=history)
        for step in (30, 40):
            tracker.log(step, {"loss": values[step]})
        tracker.finish("finished")
        wandb.teardown()
        points = server.points("loss")
    assert points == [(0, 0.0), (10, 0.1), (10, 0.1), (20, 0.2), (30, 0.3), (40, 0.4)], "step 10 may be there in part"
