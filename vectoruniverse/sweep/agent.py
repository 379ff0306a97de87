"""A sweep for ``wandb agent``: the grid as a YAML file, so that several machines take its cells from one queue.

Each cell becomes ``vu train … --set-json {"adapter.rank": 8, "seed": 0}``, a process of its own. Of wandb's macros,
``${args_json}`` is the one that keeps the type of a value: others write ``None``, ``True`` and lists as Python does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vectoruniverse.errors import ConfigError
from vectoruniverse.report.sweep.words import alpha_words
from vectoruniverse.runs.durable import write_durably, write_errors_are_told
from vectoruniverse.sweep.grid import RANK, Grid

MARK = "# A sweep for wandb agent, written by vu"
PROJECT = "vectoruniverse"

_MACRO = "${"
_DEFAULT_RUNS = Path("runs")

_REMARKS = """\
{mark}; {cells} cells.
#
#   wandb sweep {name}      makes the sweep and prints the command of its agents,
#   wandb agent ENTITY/PROJECT/ID      to be started on every machine that is to take cells.
#
# An agent needs vu, and the experiment file and its data under the paths below. wandb.mode is online, or the sweep
# would hear nothing of its runs. {alpha}
#
# vu sweep does more than this: it loads the base once for all cells, compares them row by row with intervals, cuts the
# largest adapter by SVD and keeps the forgetting ledger. Of agents' runs, vu compare RUN RUN tells the differences.
"""


def write_agent_sweep(
    file: Path, grid: Grid, *, config: str, overrides: Sequence[str], runs_dir: Path = _DEFAULT_RUNS
) -> None:
    """Write the YAML file; one that this function wrote earlier is replaced.

    Args:
        file: the file.
        grid: the cells.
        config: the experiment file as it was given.
        overrides: ``KEY=VALUE`` for all cells as they were given.
        runs_dir: where the cells' runs go, seen from where an agent is started.

    Raises:
        ConfigError: the file is something else, it cannot be written, or an argument cannot be passed through wandb.
        ResourceError: the disk is full.
    """
    sweep = agent_sweep(grid, config=config, overrides=overrides, runs_dir=runs_dir)
    with write_errors_are_told(file):
        if file.exists() and not _is_ours(file):
            raise ConfigError(
                "is there already, and is no sweep that vu wrote", file=file, remedy="choose another name"
            )
        text = yaml.safe_dump(sweep, sort_keys=False, allow_unicode=True, width=120)
        write_durably(file, _remarks(grid, file) + text)


def agent_sweep(grid: Grid, *, config: str, overrides: Sequence[str], runs_dir: Path = _DEFAULT_RUNS) -> dict[str, Any]:
    """The sweep as wandb wants it; arguments as for ``write_agent_sweep``.

    Raises:
        ConfigError: an argument holds what wandb takes for a macro.
    """
    settings = [*overrides, "wandb.mode=online", *([] if grid.alpha is None else grid.alpha.overrides(None))]
    arguments = ["--config", config, *(word for setting in settings for word in ("--set", setting))]
    if grid.alpha is not None and grid.alpha.name == "proportional":  # a grid cannot multiply, so vu train does
        arguments += ["--alpha-per-rank", repr(grid.alpha.number)]
    if runs_dir != _DEFAULT_RUNS:
        arguments += ["--runs-dir", str(runs_dir)]
    for argument in arguments:
        if _MACRO in argument:
            raise ConfigError(
                f"wandb would replace what follows {_MACRO} in {argument[:60]!r}", remedy="write it otherwise"
            )
    wandb = grid.base.wandb
    over = {one.key: {"values": list(one.values)} for one in grid.over}
    return {
        "name": f"{grid.base.name} over {', '.join(over)}",
        "project": wandb.project or os.environ.get("WANDB_PROJECT") or PROJECT,
        **({"entity": wandb.entity} if wandb.entity else {}),
        "method": "grid",
        "metric": {"name": f"val/{grid.base.eval.monitor}", "goal": "maximize"},
        "parameters": {**over, "seed": {"values": list(grid.seeds)}},
        "program": "vu",
        "command": ["${env}", "${program}", "train", *arguments, "--set-json", "${args_json}"],
    }


def _is_ours(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(MARK)) == MARK.encode()


def _remarks(grid: Grid, file: Path) -> str:
    name = "".join(character if character.isprintable() else "?" for character in file.name)
    alpha = "alpha is what the experiment file says"
    if grid.alpha is not None:
        alpha = f"alpha is {alpha_words(str(grid.alpha))}"
    elif any(one.key == RANK for one in grid.over):
        alpha += ": null follows the rank, a number stays"
    return _REMARKS.format(mark=MARK, cells=len(grid.cells), name=name, alpha=f"{alpha}.")
