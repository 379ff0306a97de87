"""The figures of a sweep, each with the words that stand below it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from vectoruniverse.report.figures.adapter import (
    Truncation,
    layer_ranks,
    singular_values,
    truncation,
)
from vectoruniverse.report.figures.album import Plate
from vectoruniverse.report.figures.heat import heat_map
from vectoruniverse.report.figures.sweeps import (
    Point,
    Position,
    costs,
    effective_ranks,
    metric_by_value,
    plane,
    validation_curves,
)
from vectoruniverse.report.figures.swept import Swept
from vectoruniverse.report.ledger import ledger_plate
from vectoruniverse.report.sweep.parts import AdapterRecord, Layer, Statistics
from vectoruniverse.report.sweep.rates import rate_plate
from vectoruniverse.report.sweep.record import SweepRecord
from vectoruniverse.report.sweep.tables import MIB, cell_frame, map_frame, ticks_of
from vectoruniverse.report.sweep.values import key_of, label_of, places_of, shown


def sweep_plates(sweep: SweepRecord, *, title: str) -> Iterator[Plate]:
    """All figures that the record has the numbers for; ``title`` is the answer, above the figure of the metric."""
    if not sweep.finished:
        return
    swept, base = axis_of(sweep), sweep.base_metrics.get(sweep.metric)
    cells = cell_frame(sweep)
    cells = cells[cells["state"] == "finished"]
    if sweep.compared is not None:
        yield from _map(sweep, sweep.compared, title)
        yield _metric(sweep, sweep.compared, swept, cells, title)
    yield from rate_plate(sweep)
    yield from _costs(cells, swept)
    yield from _curves(sweep, swept, base)
    if sweep.adapters:
        # adapters are of the first fold, whose base alone nobody told
        alone = (cells, base) if sweep.folds is None else (cells[cells["fold"] == 0], None)
        yield from _adapters(sweep, sweep.adapters[0], *alone)
    if sweep.has_space:
        yield from _space(sweep, swept, cells)
    if sweep.forgetting is not None:
        yield ledger_plate(sweep.forgetting)


def axis_of(sweep: SweepRecord) -> Swept:
    """The axis of values: the values themselves where one key is swept over numbers, else their order."""
    places, ordered = places_of(cell.values for cell in sweep.cells)
    labels = {places[key_of(cell.values)]: label_of(cell.values) for cell in sweep.cells}
    return Swept(sweep.swept_name, dict(sorted(labels.items())), ordered)


def _map(sweep: SweepRecord, statistics: Statistics, title: str) -> Iterator[Plate]:
    """Of a sweep over two keys."""
    if (frame := map_frame(sweep)).empty:
        return
    across, upwards = sweep.over
    drawn = heat_map(
        {(x, y): mean.estimate for x, y, mean in frame.itertuples(index=False)},
        x_label=across,
        y_label=upwards,
        x_ticks=ticks_of(sweep, across),
        y_ticks=ticks_of(sweep, upwards),
        metric=sweep.metric,
        marked=[(shown(statistics.best[across]), shown(statistics.best[upwards]))],
        title=title,
    )
    caption = (
        f"{sweep.metric} of the {sweep.rows_are} rows, the mean of each pair's cells; outlined: the best. Neighbours "
        "of the best may be as good: the table tells. Empty: not tried, or not done."
    )
    yield Plate("heat_map", f"{sweep.metric} by {across} and {upwards}", "answer", caption, drawn)


def _metric(sweep: SweepRecord, statistics: Statistics, swept: Swept, cells: pd.DataFrame, title: str) -> Plate:
    places, seeds = sweep.places, {}
    if sweep.folds is None:  # folds have other rows each
        seeds = _by_place(cells[cells["seed"].isin(statistics.seeds)], sweep.metric)
    points = [Point(place := places[key_of(one.values)], one.mean, seeds.get(place, [])) for one in statistics.values]
    chosen = statistics.smallest_not_worse
    drawn = metric_by_value(
        sorted(points, key=lambda point: point.place),
        statistics.base,
        swept,
        metric=sweep.metric,
        evaluated_on=sweep.rows_are,
        chosen=None if chosen is None else places[key_of(chosen)],
        title=title,
    )
    rows = f"{statistics.queries:,} {sweep.rows_are} rows"
    if statistics.groups is not None and statistics.groups < statistics.queries:
        rows += f" in {statistics.groups:,} groups drawn together"
    over = f" and {len(statistics.seeds)} seeds" if len(statistics.seeds) > 1 else "; one seed only"
    caption = (
        f"Bars: {statistics.level:.0%} intervals over {rows}{over}. Bars of two values may overlap although one is "
        "credibly better, as both answer the same rows: the table tells. Grey: the base with its interval."
    )
    return Plate("metric", f"{sweep.metric} by {swept.name}", "answer", caption, drawn)


def _costs(cells: pd.DataFrame, swept: Swept) -> Iterator[Plate]:
    memory = _by_place(cells, "peak_memory_bytes")
    kinds = {
        "trained parameters": _by_place(cells, "trained_parameters"),
        "time of a cell, seconds": _by_place(cells, "seconds"),
        "peak memory, MiB": {place: [one / MIB for one in seeds] for place, seeds in memory.items()},
    }
    if any(found for kind in kinds.values() for found in kind.values()):
        caption = (
            "Line: median of a value's cells; dots: the cells. Time is that of all processes of a cell, where one was "
            "interrupted, and whatever else the machine did shows as well."
        )
        yield Plate("costs", "What it costs", "cost", caption, costs(kinds, swept))


def _curves(sweep: SweepRecord, swept: Swept, base: float | None) -> Iterator[Plate]:
    places = sweep.places
    curves: dict[float, list[dict[int, float]]] = {}
    for cell in sweep.finished:
        if cell.curve:
            curves.setdefault(places[key_of(cell.values)], []).append({one.epoch: one.value for one in cell.curve})
    if curves:
        tested = sweep.data.split == "test"
        rows, base = ("validation", None) if tested else (sweep.evaluated_on, base)  # the base is known on test rows
        caption = f"{sweep.metric} of the {rows} rows by epoch: means of a value's cells, which stand behind them."
        drawn = validation_curves(curves, base, swept, metric=sweep.metric, evaluated_on=rows)
        yield Plate("validation", "After each epoch", "curves", caption, drawn)


def _adapters(sweep: SweepRecord, first: AdapterRecord, cells: pd.DataFrame, base: float | None) -> Iterator[Plate]:
    yield _truncation(sweep, first, cells, base)
    found = updates(sweep)
    if not found:
        return
    spectra = {
        tower: [np.array(layer.singular_values) for layers in by_path.values() for layer in layers]
        for tower, by_path in found.items()
    }
    ranks = {
        tower: {path: float(np.mean([layer.effective_rank for layer in layers])) for path, layers in by_path.items()}
        for tower, by_path in found.items()
    }
    which = "" if sweep.folds is None else ", first fold"
    caption = (
        f"Adapters of rank {first.rank}{which}. Above: median over all adapted layers and seeds, band from the least "
        "to the greatest. Below: the share of the squared norm that stays when each layer keeps its first k directions."
    )
    drawn = singular_values(spectra, rank=first.rank)
    yield Plate("singular_values", "Directions of the update", "adapters", caption, drawn)
    caption = (
        f"Directions that each layer's update uses, of {first.rank} (mean over seeds): exp of the entropy of the "
        "shares of its squared singular values. Small numbers: the layer would have done with a lower rank."
    )
    drawn = layer_ranks(ranks)
    yield Plate("layer_ranks", "Layer by layer", "adapters", caption, drawn)


def updates(sweep: SweepRecord) -> dict[str, dict[str, list[Layer]]]:
    """Tower → path → what the adapters of the largest rank say of this layer, a seed each.

    Updates that are nothing, as those of an adapter that no epoch improved, have no directions and are left out.
    """
    found: dict[str, dict[str, list[Layer]]] = {}
    for adapter in sweep.adapters:
        for path, layer in adapter.layers.items():
            if layer.effective_rank > 0:
                found.setdefault(tower_of(path), {}).setdefault(path, []).append(layer)
    return found


def _truncation(sweep: SweepRecord, first: AdapterRecord, cells: pd.DataFrame, base: float | None) -> Plate:
    trained = _by_place(cells[cells["seed"].isin([adapter.seed for adapter in sweep.adapters])], sweep.metric)
    cut: dict[int, list[float]] = {}
    for adapter in sweep.adapters:
        for one in adapter.truncated:
            cut.setdefault(one.rank, []).append(one.score(adapter.metric))
    points = [Truncation(one.rank, trained.get(one.rank, []), cut[one.rank]) for one in first.truncated]
    caption = (
        f"The adapter of rank {first.rank}, cut to its first k directions without training, beside those that were "
        "trained at rank k. Where the dashed line keeps up, one large run would have been enough."
    )
    drawn = truncation(points, base, metric=sweep.metric)
    return Plate("truncation", "Trained at k, or cut to k", "adapters", caption, drawn)


def _space(sweep: SweepRecord, swept: Swept, cells: pd.DataFrame) -> Iterator[Plate]:
    ranks = _by_place(cells, "effective_rank")
    if any(ranks.values()):
        caption = (
            f"Directions that the embeddings of all {sweep.rows_are} rows use. Line: median of a value's cells; dots: "
            "the cells."
        )
        drawn = effective_ranks(ranks, sweep.base_metrics.get("effective_rank"), swept)
        yield Plate("effective_rank", "Directions in use", "health", caption, drawn)
    models = [(None, sweep.base_metrics), *zip(cells.index, (cell.metrics for cell in sweep.finished), strict=True)]
    positions = [position for place, metrics in models if (position := _position(place, metrics)) is not None]
    if any(position.place is not None for position in positions):
        first, last = ("the smallest", "the largest") if swept.ordered else ("the first", "the last")
        caption = (
            f"A point for each cell, colours from {first} value (light) to {last} (dark). Down: pairs lie closer; "
            "left: everything is more spread. Uniformity: mean of pictures and texts."
        )
        yield Plate("plane", "Alignment and uniformity", "health", caption, plane(positions, swept))


def _position(place: float | None, metrics: Mapping[str, float]) -> Position | None:
    try:
        alignment, image, text = (metrics[name] for name in ("alignment", "image/uniformity", "text/uniformity"))
    except KeyError:
        return None
    return Position(place, alignment, (image + text) / 2)


def tower_of(path: str) -> str:
    """Name of a layer's tower for people: ``vision`` of ``vision_model.encoder.layers.0.self_attn.q_proj``."""
    return path.partition(".")[0].removesuffix("_model")


def _by_place(cells: pd.DataFrame, fact: str) -> dict[float, list[float]]:
    """What is known of a fact, a seed each, by place."""
    if fact not in cells:
        return {}
    found: dict[float, list[float]] = {place: [] for place in cells.index}
    for place, value in zip(cells.index, cells[fact], strict=True):
        found[place] += [] if value is None else [float(value)]
    return found
