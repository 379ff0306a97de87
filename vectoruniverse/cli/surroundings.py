"""What other libraries take for granted of the process that they are in: a home folder, and room in it to write."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_FOLDERS = {"MPLCONFIGDIR": "matplotlib", "WANDB_CACHE_DIR": "wandb/cache", "WANDB_DATA_DIR": "wandb/data"}
"""Where other libraries keep files of their own, by the variable that says so."""


def lend_a_home() -> None:
    """Let other libraries keep their files below the temporary folder where there is no home that can be written to.

    Without one, matplotlib and wandb's service log lines that nobody can do anything about, and wandb loses artifacts.
    Whatever their variables say already stays. What is ours (decoded pictures) is kept at home or where it is told to.
    """
    if os.name != "posix":
        return
    home = _home()
    if home is not None and home.is_dir() and os.access(home, os.W_OK | os.X_OK):
        if not os.environ.get("HOME"):  # Python asks the system's accounts then, programs in Go do not
            os.environ["HOME"] = str(home)
        return
    lent = _private_folder()
    for variable, folder in _FOLDERS.items():
        if variable not in os.environ:
            (lent / folder).mkdir(parents=True, exist_ok=True)
            os.environ[variable] = str(lent / folder)


def _home() -> Path | None:
    """The home folder: what ``HOME`` says, else the account's; None where the system knows of neither."""
    if given := os.environ.get("HOME"):
        return Path(given)
    os.environ.pop("HOME", None)  # to Python an empty one is the root folder
    try:
        return Path.home()
    except RuntimeError:
        return None


def _private_folder() -> Path:
    """A folder of this user alone below the temporary one, the same in every process; else a new one."""
    import tempfile

    folder = Path(tempfile.gettempdir()) / f"vectoruniverse-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:  # something else is there
        return Path(tempfile.mkdtemp(prefix="vectoruniverse-"))
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if mine else Path(tempfile.mkdtemp(prefix="vectoruniverse-"))
