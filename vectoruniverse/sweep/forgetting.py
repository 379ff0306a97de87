"""The forgetting ledger of a sweep: that of one cell's adapter, put on its base again."""

from __future__ import annotations

from pathlib import Path

from vectoruniverse.errors import UserError
from vectoruniverse.report.sweep.parts import Statistics
from vectoruniverse.runs.records import ForgettingRecord
from vectoruniverse.sweep.findings import statistics
from vectoruniverse.sweep.grid import Grid
from vectoruniverse.sweep.pooling import Finished
from vectoruniverse.sweep.sharing import Bases
from vectoruniverse.tasks.identity import run_experiment
from vectoruniverse.tasks.image_text.settings import ForgettingConfig, ImageTextExperiment
from vectoruniverse.tasks.image_text.setup import ImageTextShared, load_known, prepare
from vectoruniverse.terminal import Display


def forgetting_of_sweep(
    grid: Grid, finished: Finished, bases: Bases, known: ForgettingRecord | None
) -> ForgettingRecord | None:
    """The ledger of the smallest value that is not worse, else of the best, with the first seed that has it.

    Args:
        grid: the sweep, whose experiment says what the base knew.
        finished: cells with their runs.
        bases: what runs start from.
        known: what an earlier call found, taken over where nothing has changed.
    """
    config = getattr(grid.base, "forgetting", None)
    found = statistics(finished, grid.base.eval.monitor, one_base=grid.one_base)
    if config is None or not isinstance(found, Statistics):
        return None
    values = found.smallest_not_worse or found.best
    cell, run = next((c, r) for c, r in finished if c.values == values and c.seed in found.seeds)
    told = {"run": run.name, "values": values, "seed": cell.seed, "rows_chosen": config.model_dump(mode="json")}
    if known is not None and all(getattr(known, key) == value for key, value in told.items()):
        return known
    try:
        experiment = run_experiment(run)
        shared = bases.of(experiment)
        assert isinstance(experiment, ImageTextExperiment) and isinstance(shared, ImageTextShared)
        record = forgetting_curve(experiment, config, run.adapter, display=bases.display, shared=shared)
    except UserError as error:
        bases.display.warn(f"no forgetting ledger: {error}")
        return None
    return record.model_copy(update=told)


def forgetting_curve(
    experiment: ImageTextExperiment,
    forgetting: ForgettingConfig,
    adapter: Path,
    *,
    display: Display,
    shared: ImageTextShared,
) -> ForgettingRecord:
    """Evaluate both sides along the path from the base to an adapter.

    Args:
        experiment: that the adapter was trained with.
        forgetting: the rows that the base knew, and the scales to try.
        adapter: the adapter's folder.
        display: what a person sees.
        shared: the base and the experiment's data; left as they were found.

    Raises:
        ConfigError: no row is left that the experiment does not itself use, either side is a single group of rows, of
            which no interval can be told, or there is no way from the base to what was trained.
    """
    known = load_known(experiment, forgetting, shared, display)
    prepared = prepare(experiment, shared, adapter)
    try:
        return prepared.ledger(known, forgetting, "val")
    finally:
        prepared.release()
