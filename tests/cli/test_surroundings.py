"""Under cron, in a service, in a container: no home, or one that cannot be written to."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vectoruniverse.cli.surroundings import lend_a_home

VARIABLES = ("MPLCONFIGDIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="homes of other systems are not told by HOME")

TRACK = """
import sys
from pathlib import Path
from vectoruniverse.cli.surroundings import lend_a_home
lend_a_home()
import matplotlib.pyplot
from vectoruniverse.tracking.contract import DataSet
from vectoruniverse.tracking.weights_and_biases import WandbTracker
run = Path(sys.argv[1])
tracker = WandbTracker(run, run.name, {}, print)
tracker.log(1, {"train/loss": 1.0})
tracker.log_adapter(run / "adapter", {}, DataSet("moons", "f00d", 8))
tracker.finish("finished")
print(len(list(run.glob("wandb/offline-run-*/*.wandb"))))
"""


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing says where libraries keep their files; the temporary folder is the test's own."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "remembered, so that it is put back")
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("home", [None, ""])
def test_without_home_the_account_of_the_user_has_one(home, no_variables, monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    account = Path(os.path.expanduser(f"~{os.environ.get('USER', 'root')}"))  # noqa: PTH111
    lend_a_home()
    if os.access(account, os.W_OK):
        assert Path(os.environ["HOME"]) == account


def test_a_home_that_is_there_is_left_alone(no_variables, monkeypatch):
    monkeypatch.setenv("HOME", str(no_variables))
    lend_a_home()
    assert os.environ["HOME"] == str(no_variables)
    assert not any(name in os.environ for name in VARIABLES)


def test_where_home_cannot_be_written_to_libraries_get_folders_of_this_user_alone(no_variables, monkeypatch):
    (no_variables / "file").touch()
    monkeypatch.setenv("HOME", str(no_variables / "file" / "home"))
    monkeypatch.setenv("WANDB_DATA_DIR", "mine")
    lend_a_home()
    lent = no_variables / f"vectoruniverse-{os.getuid()}"
    assert stat.S_IMODE(lent.stat().st_mode) == 0o700
    assert os.environ["MPLCONFIGDIR"] == str(lent / "matplotlib")
    assert os.environ["WANDB_DATA_DIR"] == "mine"


def test_a_folder_that_somebody_else_may_write_to_is_not_taken(no_variables, monkeypatch):
    (no_variables / f"vectoruniverse-{os.getuid()}").mkdir(mode=0o777)
    (no_variables / f"vectoruniverse-{os.getuid()}").chmod(0o777)
    monkeypatch.setenv("HOME", "/dev/null/home")
    lend_a_home()
    assert Path(os.environ["MPLCONFIGDIR"]).parent != no_variables / f"vectoruniverse-{os.getuid()}"


@pytest.mark.parametrize("home", [{}, {"HOME": "/dev/null/home"}], ids=["none", "unwritable"])
def test_other_libraries_say_nothing_and_lose_nothing(home, tmp_path):
    (tmp_path / "moons" / "adapter").mkdir(parents=True)
    (tmp_path / "moons" / "adapter" / "adapter_config.json").write_text("{}")
    surroundings = {"PATH": os.environ["PATH"], "WANDB_MODE": "offline", "TMPDIR": str(tmp_path), "PYTHONPATH": "."}
    done = subprocess.run(
        [sys.executable, "-c", TRACK, str(tmp_path / "moons")],
        capture_output=True,
        text=True,
        check=False,
        env={**surroundings, **home},
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
