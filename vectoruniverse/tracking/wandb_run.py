"""Opens a run at Weights & Biases: online with a key, offline without; it never asks.

Measured with wandb 0.31 on two cores: import 0.6 s, service 0.2 s, offline ``init`` 0.3 s, 1 ms a logged step, 10 ms to
finish offline. Capturing the console costs 0.1 s more and would cut a live display to pieces, so it is off.

What leaves this machine, as read back from wandb 0.31's own file:

- The commit, but no source and no patch: ``save_code`` is what makes wandb keep ``diff.patch`` with uncommitted
  changes.
- Not the remote's address. wandb strips the password of ``https://TOKEN:x-oauth-basic@host`` and keeps the token, so
  git is left to us; set ``WANDB_GIT_REMOTE_URL`` to show an address.
- The command, unless it holds something that looks like a key: then wandb's metadata is left out as a whole, for it
  knows no other way. System metrics stay on in both cases.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import wandb

Mode = Literal["auto", "online", "offline", "disabled"]


@dataclass(frozen=True)
class WandbSettings:
    """What a run is called at Weights & Biases; what is None is left to the ``WANDB_*`` variables.

    Args:
        mode: `auto` is `WANDB_MODE` where it is set, else online where a key is found, else offline.
        project: None takes ``WANDB_PROJECT``, else `vectoruniverse`.
        entity: user or team.
        group: group of runs.
        job_type: what the run does in its group.
        tags: tags.
        notes: notes.
        init_timeout: seconds after which a silent server counts as away.
        finish_timeout: seconds that uploads may take after the training, and that storing a table or an artifact may.
    """

    mode: Mode = "auto"
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: Sequence[str] = ()
    notes: str | None = None
    init_timeout: float = 30.0
    finish_timeout: float = 120.0

    def given(self) -> dict[str, Any]:
        """Arguments of ``wandb.init`` for what is set, since an argument beats its variable even when it is None."""
        project = self.project or (None if "WANDB_PROJECT" in os.environ else "vectoruniverse")
        arguments: dict[str, Any] = {
            "project": project,
            "entity": self.entity,
            "group": self.group,
            "job_type": self.job_type,
            "notes": self.notes,
        }
        arguments["tags"] = list(self.tags) or None
        return {name: value for name, value in arguments.items() if value is not None}

    def effective_mode(self) -> str:
        """The mode with ``WANDB_MODE`` and its old names looked up."""
        if self.mode != "auto":
            return self.mode
        variable = os.environ.get("WANDB_MODE", "auto")
        return {"dryrun": "offline", "run": "online"}.get(variable, variable)


@dataclass(frozen=True)
class RunOpener:
    """What every attempt to open one run shares.

    Args:
        folder: the run folder; wandb's files go below it.
        name: the run's name, also its id.
        config: the resolved configuration.
        settings: project, mode and so on.
        environment: versions, hardware, commit and command without secrets, as ``environment.json`` has them.
        resumes: whether an earlier part of this run is to be continued.
    """

    folder: Path
    name: str
    config: Mapping[str, object]
    settings: WandbSettings
    environment: Mapping[str, object]
    resumes: bool

    def open(self) -> tuple[wandb.Run | None, str | None]:
        """The run, or None where the mode is `disabled`; and what kept it from going online, if something did.

        Raises:
            Exception: whatever wandb raises when not even an offline run can be opened.
        """
        mode = self.settings.effective_mode()
        if mode == "disabled":
            return None, None
        if mode == "offline":
            return self._init("offline"), None
        run, trouble = self._open_online(must=mode == "online")
        return run or self._init("offline"), trouble

    def _open_online(self, *, must: bool) -> tuple[wandb.Run | None, str | None]:
        """Go online where there is a key, without ever asking for one."""
        import wandb

        try:
            wandb.setup(wandb.Settings(silent=True))
            if wandb.login(prompt=False, verify=False):
                return self._init("online"), None
        except Exception as error:  # a bad key, no network, a server that is silent: the run goes on offline
            with contextlib.suppress(Exception):  # it raises when the service itself has crashed
                wandb.teardown()  # or the id stays taken by the attempt that failed
            return None, reason(error)
        return None, "no API key is configured; see `wandb login`" if must else None

    def _init(self, mode: Literal["online", "offline"]) -> wandb.Run:
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_git=True,
            x_disable_meta=self.environment.get("command", sys.argv) != sys.argv,
            init_timeout=self.settings.init_timeout,
            finish_timeout=self.settings.finish_timeout,
            finish_timeout_raises=True,
        )
        if commit := _commit(self.environment):
            settings.git_commit = commit
        wandb.setup(settings)  # silences what the client says before it reads the settings of the run
        arguments = self.settings.given()
        if self.resumes and mode == "online":  # an offline file holds the whole run, and is to replace what is there
            arguments["resume"] = "allow"
        return wandb.init(
            id=self.name,
            name=self.name,
            dir=str(self.folder),
            config={**self.config, "environment": dict(self.environment)} if self.environment else dict(self.config),
            mode=mode,
            settings=settings,
            **arguments,
        )


def reason(error: Exception) -> str:
    """What an error says, in one line of printable text; a server may have worded it."""
    return one_line(str(error)) or type(error).__name__


def one_line(text: str) -> str:
    """Printable text without line breaks, cut at 300 characters."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:300]


def _commit(environment: Mapping[str, object]) -> str | None:
    git = environment.get("git")
    commit = git.get("commit") if isinstance(git, Mapping) else None
    return commit if isinstance(commit, str) else None
