"""Some of a sweep's cells, for one element of a job array; the same sweep without a part then finds them done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vectoruniverse.errors import ConfigError
from vectoruniverse.report.sweep.parts import CellRecord
from vectoruniverse.sweep.cell_runs import CellRuns
from vectoruniverse.sweep.cells import Cell
from vectoruniverse.sweep.engines import InThisProcess
from vectoruniverse.sweep.grid import Grid
from vectoruniverse.sweep.runner import place_of_sweep
from vectoruniverse.sweep.sharing import Bases
from vectoruniverse.sweep.tuning import at_fixed_rates
from vectoruniverse.terminal import Display
from vectoruniverse.training.interruption import Interruption
from vectoruniverse.training.precision import settle_precision


@dataclass(frozen=True, slots=True)
class Part:
    """Part ``number``, counted from 0, of ``count`` that are of nearly the same size."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read ``2/8``: the third of eight.

        Raises:
            ConfigError: it is not of that form.
        """
        number, slash, count = text.partition("/")
        if not (slash and number.isascii() and number.isdigit() and count.isascii() and count.isdigit()):
            raise ConfigError(f"{text[:60]!r} is not NUMBER/COUNT", file="--part", remedy="as in --part 0/8")
        if int(number) >= int(count):
            remedy = f"parts are counted from 0: 0/{count} to {int(count) - 1}/{count}" if int(count) else "--part 0/1"
            raise ConfigError(f"there is no part {text}", file="--part", remedy=remedy)
        return cls(int(number), int(count))

    def of(self, cells: Sequence[Cell]) -> list[Cell]:
        """Every ``count``-th cell."""
        return list(cells[self.number :: self.count])


def run_part(grid: Grid, part: Part, *, runs_dir: Path, out: Path | None, display: Display) -> list[CellRecord]:
    """Train the cells of a part that are not done yet; only their runs are written, and no record of the sweep.

    Args:
        grid: the cells of all parts.
        part: which of them.
        runs_dir: where the cells' runs are, the same folder for all parts.
        out: the sweep's folder, as for ``run_sweep``.
        display: what a person sees.

    Raises:
        ConfigError: what processes that know nothing of each other would decide differently is left to them.
        InterruptedTraining: somebody asked to stop; the same call goes on from there.
        UserError: the data or the model of all cells cannot be loaded.
    """
    if grid.rates is not None:
        remedy = "--lrs fixed; or --engine ray, where one process chooses"
        raise ConfigError("rates are chosen from the trials of all parts", file="--lrs", remedy=remedy)
    _, measured = settle_precision(grid.base, display.say)
    if measured is not None and measured.seconds:
        message = "is measured by each process, and parts have to agree"
        remedy = f"name it, as in --set train.precision={measured.chosen}"
        raise ConfigError(message, file="--part", key="train.precision", remedy=remedy)
    settled = grid if measured is None else grid.in_precision(measured.chosen)
    bases = Bases(display)
    data = bases.of(settled.cells[0].experiment).data.fingerprint() if grid.one_base else ""
    folder = place_of_sweep(grid, data, runs_dir, out)
    group = grid.base.wandb.group or folder.name
    runs = CellRuns(
        folder,
        runs_dir,
        InThisProcess(),
        bases,
        metric=grid.base.eval.monitor,
        group=group,
        changed=lambda: None,
        aside=() if (earlier := folder.read()) is None else earlier.aside,
    )
    with Interruption():
        runs.run(part.of(at_fixed_rates((*settled.cells, *settled.full))))
    return [*runs.records("value"), *runs.records("beside")]
