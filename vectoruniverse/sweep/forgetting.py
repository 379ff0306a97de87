"""The forgetting ledger: what adapting gained on the new rows and lost on those that the base already knew.

Between the base (scale 0) and the adapted model (scale 1) lies a path that costs no training. Both sides are evaluated
along it, and the point named that keeps most of both.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vectoruniverse.adapters.methods import METHODS, put_on
from vectoruniverse.config.sections import SplitConfig
from vectoruniverse.data.splits import Split
from vectoruniverse.errors import ConfigError, UserError
from vectoruniverse.metrics.bootstrap import Interval, bootstrap_mean
from vectoruniverse.models.sizes import ScratchClip
from vectoruniverse.report.sweep.record import ForgettingRecord, Kept, Statistics
from vectoruniverse.sweep.findings import Finished, statistics
from vectoruniverse.sweep.grid import Grid
from vectoruniverse.sweep.sharing import Bases
from vectoruniverse.tasks.identity import run_experiment
from vectoruniverse.tasks.image_text.data import ImageTextData, decode, group_by
from vectoruniverse.tasks.image_text.metadata import read_rows
from vectoruniverse.tasks.image_text.model import adapter_host, picture_recipe
from vectoruniverse.tasks.image_text.settings import ForgettingConfig, ImageTextExperiment
from vectoruniverse.tasks.image_text.setup import ImageTextShared, build_pairs, build_task
from vectoruniverse.tasks.image_text.task import ImageTextTask
from vectoruniverse.terminal import Display

RULE = (
    "largest harmonic mean of two shares: the new rows' metric relative to its best along the path, "
    "and the old rows' relative to the base (at most 1); the larger scale of equals"
)


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
        ConfigError: no row is left that the experiment does not itself use, or either side is a single group of rows,
            of which no interval can be told.
    """
    if not METHODS[experiment.adapter.method].mergeable:
        raise ConfigError(
            "a prefix has no scale between base and adapted model", key="forgetting", remedy="leave it out"
        )
    old = known_rows(experiment, forgetting, shared, display)
    units = [data.units("val") for data in (shared.data, old)]
    _refuse_lone_group(units, old.grouped_by)
    host = adapter_host(shared.encoder, experiment.adapter, shared.compute)
    trained = put_on(host, experiment.adapter, experiment.seed, trained=adapter)
    try:
        known = build_pairs(shared.encoder, old, experiment.eval.label_template, display)
        tasks = [build_task(experiment, shared.encoder, pairs) for pairs in (shared.pairs, known)]
        points = []
        for scale in sorted(set(forgetting.scales) | {0.0, 1.0}):
            trained.set_scale(scale)
            new, kept = (
                _evaluated(task, experiment.eval.monitor, drawn) for task, drawn in zip(tasks, units, strict=True)
            )
            points.append((scale, new, kept))
    finally:
        trained.remove()
    curve = weigh(points)
    return ForgettingRecord(
        metric=experiment.eval.monitor,
        new_rows=len(shared.data.split.val),
        old_rows=len(old.rows),
        curve=curve,
        best_scale=best_scale(curve),
        rule=RULE,
    )


def known_rows(
    experiment: ImageTextExperiment, forgetting: ForgettingConfig, shared: ImageTextShared, display: Display
) -> ImageTextData:
    """The rows that the base knew, all of them to be evaluated; none that the experiment trains or is evaluated on."""
    filters = {"include": forgetting.include, "exclude": forgetting.exclude}
    asked = experiment.data.model_copy(update=filters)
    config = asked.model_copy(update={"split": SplitConfig()})  # any division will do: all rows are evaluated
    metadata, used = read_rows(config), {row.id for row in shared.data.rows}
    rows = [row for row in metadata.rows if row.id not in used]
    if len(rows) < 2:
        raise ConfigError(
            f"{len(rows)} rows are left that the experiment does not use itself",
            key="forgetting",
            remedy="let forgetting.include or forgetting.exclude choose rows that data's own filters leave out",
        )
    by_content = sorted(rows, key=lambda row: hashlib.sha256(row.id.encode()).digest())
    kept = {row.id for row in by_content[: forgetting.rows]}
    chosen = dataclasses.replace(metadata, rows=[row for row in rows if row.id in kept], bad=[])
    encoder = None if isinstance(experiment.model, ScratchClip) else shared.encoder
    data = decode(config, chosen, picture_recipe(experiment, encoder), display)
    everything = Split(np.array([], dtype=np.int64), np.arange(len(data.rows)))
    groups = group_by(asked.split.group_by, data.rows, data.pictures)
    return dataclasses.replace(data, config=asked, split=everything, groups=groups)


def weigh(points: Sequence[tuple[float, Interval, Interval]]) -> list[Kept]:
    """Which shares of both sides each scale keeps.

    Args:
        points: scale, new rows and old rows, ascending, the first of scale 0, which is the base.
    """
    best_new, base_old = max(new.estimate for _, new, _ in points), points[0][2].estimate
    weighed = []
    for scale, new, old in points:
        new_share = new.estimate / best_new if best_new > 0 else 0.0
        old_share = min(1.0, old.estimate / base_old) if base_old > 0 else 1.0
        both = new_share + old_share
        kept = 2 * new_share * old_share / both if both > 0 else 0.0
        weighed.append(Kept(scale=scale, new=new, old=old, new_share=new_share, old_share=old_share, kept=kept))
    return weighed


def best_scale(curve: Sequence[Kept]) -> float:
    """The scale that keeps most of both sides; see ``RULE``."""
    return max(curve, key=lambda point: (point.kept, point.scale)).scale


def _refuse_lone_group(sides: Sequence[Sequence[str] | None], grouped_by: str) -> None:
    for whose, units in zip(("new", "old"), sides, strict=True):
        if units is not None and len(set(units)) < 2:
            raise ConfigError(
                f"the {whose} rows are one group by {grouped_by}, so nothing can be drawn to tell an interval",
                key="forgetting",
                remedy="let forgetting.include or data.split take in more groups",
            )


def _evaluated(task: ImageTextTask, metric: str, units: Sequence[str] | None) -> Interval:
    return bootstrap_mean(task.evaluate().per_query[metric], seed=0, groups=units)
