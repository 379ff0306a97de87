"""An offline run is uploaded whole, once, by wandb's own client; what keeps it from that is told in bounded time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.tracking.conftest import WELL_FORMED_KEY
from tests.tracking.server import serving
from tests.tracking.wandb_file import read_wandb
from vectoruniverse.errors import ConfigError, UserError
from vectoruniverse.tracking.contract import DataSet
from vectoruniverse.tracking.wandb_sync import sync
from vectoruniverse.tracking.weights_and_biases import WandbSettings, WandbTracker

pytestmark = pytest.mark.usefixtures("lonely_wandb")


def write_offline(run: Path, steps: range, earlier: range = range(0)) -> Path:
    """The folder of an offline file of steps, after those that an earlier part had."""
    history = [{"step": step, "loss": step / 10} for step in earlier]
    tracker = WandbTracker(run, "a", {}, pytest.fail, WandbSettings(mode="offline"), history=history or None)
    for step in steps:
        tracker.log(step, {"loss": step / 10})
    tracker.finish("interrupted")
    return read_wandb(run).folder


def test_a_run_is_uploaded_whole_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", WELL_FORMED_KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wandb.py").write_text("raise SystemExit('imported from the working directory')", encoding="utf-8")
    run = tmp_path / "run"
    run.mkdir()
    first = write_offline(run, range(4))
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        assert sync(run) == f"{server.address}/e/p/runs/a"
        assert server.points("loss") == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3)]
        assert sync(run) is None
        first.rename(first.with_name("offline-run-20000101_000000-a"))
        write_offline(run, range(3, 6), earlier=range(3))
        assert sync(run) is not None
        assert server.points("loss") == [(step, step / 10) for step in range(6)]


def test_the_upload_keeps_the_lineage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", WELL_FORMED_KEY)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    tracker = WandbTracker(tmp_path, "a", {}, pytest.fail, WandbSettings(mode="offline"))
    tracker.log_adapter(tmp_path / "adapter", {"rank": 8}, DataSet("emoji", "f00d", 32))
    tracker.finish("finished")
    read_wandb(tmp_path)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        sync(tmp_path)
        assert sorted(server.committed) == ["adapter-a", "data-emoji"]
        assert server.used == ["data-emoji"]


@pytest.mark.parametrize(
    ("key", "status", "reason"),
    [(None, 200, "API key"), ("bad", 200, "40"), (WELL_FORMED_KEY, 403, "permission denied")],
)
def test_a_refusal_is_told_with_wandbs_own_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None, status: int, reason: str
) -> None:
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    write_offline(tmp_path, range(2))
    with serving(status) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        with pytest.raises(UserError, match=reason) as caught:
            sync(tmp_path)
    assert str(caught.value).isprintable()
    assert WELL_FORMED_KEY not in str(caught.value)
    assert "wandb login" in (caught.value.remedy or "")


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", WELL_FORMED_KEY)
    write_offline(tmp_path, range(2))
    with serving(stall=("UpsertBucket",)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        begin = time.monotonic()
        with pytest.raises(UserError, match="within 3 s"):
            sync(tmp_path, timeout=3.0)
        assert time.monotonic() - begin < 8
        assert "UpsertBucket" in server.operations


def test_nothing_to_upload_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no wandb files"):
        sync(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "offline-run-20260101_000000-a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="no wandb files"):
        sync(tmp_path)
    (tmp_path / "wandb" / "run-20260102_000000-a").mkdir()
    with pytest.raises(ConfigError, match="was online") as caught:
        sync(tmp_path)
    assert "--include-online" in (caught.value.remedy or "")
