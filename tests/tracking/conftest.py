"""Weights & Biases as it finds itself on a machine of nobody's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

WELL_FORMED_KEY = "0123456789" * 4


@pytest.fixture
def lonely_wandb(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No key, no user settings, no server, a terminal that must not be asked; the folder of wandb's own files."""
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("CONFIG_DIR", "CACHE_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.chdir(home)  # `wandb sync` leaves its log in ./wandb
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    import wandb

    wandb.teardown()
    yield home
    wandb.teardown()
