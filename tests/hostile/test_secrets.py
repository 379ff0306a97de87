"""Secrets that lie in the surroundings reach no file and no line of output."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.cli.test_runs import vu
from tests.hostile.world import copy_world, make_world

KEY = "0123456789abcdef" * 2 + "5eC2e7A1"
SECRETS = {
    "WANDB_API_KEY": KEY,
    "HF_TOKEN": "hf_5eC2e7B2tokentokentoken",
    "HUGGING_FACE_HUB_TOKEN": "hf_5eC2e7C3tokentokentoken",
}
NETRC, LOGIN = "5eC2e7D4netrc", "5eC2e7E5login"
MARK = b"5eC2e7"
"""Part of every secret."""


def leaks(*folders: Path) -> list[str]:
    """Files below folders that hold a secret."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return [str(file) for file in files if MARK in file.read_bytes()]


def test_planted_secrets_are_nowhere_afterwards(tmp_path, monkeypatch):
    world = copy_world(make_world(tmp_path / "made"), tmp_path / "world")
    home = tmp_path / "home"
    home.mkdir()
    (home / ".netrc").write_text(f"machine api.wandb.ai login user password {NETRC}\n")
    for name, value in {**SECRETS, "HOME": str(home), "XDG_CONFIG_HOME": str(tmp_path / "xdg")}.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb" / name))
    login = f"https://user:{LOGIN}@example.org/x"
    commands = [
        ["train", "--config", str(world.config), "--set", "wandb.mode=offline"],
        ["train", "--config", str(world.config), "--set", f"model={login}"],
        ["train", "--config", str(world.config), "--set", f"data.root={login}"],
        ["train", "--config", str(world.config), "--set", f"wandb.api_key={KEY}"],
        ["eval", "latest"],
        ["export", "latest", "--to", "peft"],
        ["doctor", "--config", str(world.config), "--json"],
        ["schedule", "add", "--config", str(world.config), "--at", "0 3 * * *", "--print"],
        ["sweep", "--config", str(world.config), "--over", "train.lr=0.01", "--set", "eval.report=true"],
        ["runs", "show", "latest"],
    ]
    said = []
    for command in commands:
        monkeypatch.setattr(sys, "argv", ["vu", *command])
        done = vu(*command, cwd=world.root)
        said.append((command, done.returncode, done.stdout + done.stderr))
    told = [(command, text) for command, _, text in said if MARK.decode() in text]
    codes = [code for _, code, _ in said]
    assert codes[0] == 0 and codes[4:6] == [0, 0], codes
    assert all(code in (2, 3) for code in codes[1:4]), codes
    assert not told
    assert not leaks(world.root, tmp_path / "wandb", tmp_path / "xdg")
