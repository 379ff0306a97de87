"""The page of a sweep: the answer, what it costs, what the adapters say, the health of the space, forgetting."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vectoruniverse.figures import adapter as adapter_figures
from vectoruniverse.figures import sweeps as figures
from vectoruniverse.figures.album import Plate
from vectoruniverse.figures.style import save
from vectoruniverse.page import Table, write_page
from vectoruniverse.verdict import Answer, verdict

Record = Mapping[str, Any]
"""What sweep.json holds; its keys are told in ``vectoruniverse.sweep.findings``."""

MIB = 2**20


def write_sweep_page(record: Record, folder: Path) -> Path:
    """Write ``report.html`` and ``figures/`` (PNG and SVG) beside a sweep's record.

    Args:
        record: what sweep.json holds.
        folder: where the page goes.

    Returns:
        The page.
    """
    plates = list(_plates(record)) if _key(record) else []
    for plate in plates:
        save(plate.figure, folder / "figures", plate.name)
    statistics = record["statistics"] or {}
    page = folder / "report.html"
    write_page(
        page,
        title=str(record["name"]),
        answer=_answer(statistics),
        comparison=_value_table(record),
        verdict=_forgetting_words(record),
        plates=plates,
        facts=_facts(record),
        tables=[_cell_table(record)],
        listings={"Experiment": json.dumps(record["config"], indent=2, ensure_ascii=False)},
        warnings=[f"{c['name']}: {c['state']}: {c['message']}" for c in record["cells"] if c["state"] != "finished"],
    )
    return page


def _key(record: Record) -> str | None:
    """The swept key, where there is one whose values are numbers, so that there is an axis to draw on."""
    (key, *others), values = record["over"], next(iter(record["over"].values()))
    numeric = all(isinstance(value, int | float) for value in values)
    return key if numeric and not others and "values" in (record["statistics"] or {}) else None


def _plates(record: Record) -> Iterator[Plate]:
    key = _key(record)
    assert key is not None
    name, statistics, metric = key.rpartition(".")[2], record["statistics"], record["metric"]
    finished = [cell for cell in record["cells"] if cell["state"] == "finished"]
    by_value: dict[float, list[Record]] = defaultdict(list)
    for cell in finished:
        by_value[cell["values"][key]].append(cell)

    def of(pick: str, scale: float = 1.0) -> dict[float, list[float]]:
        return {v: [c[pick] * scale for c in cells if c.get(pick) is not None] for v, cells in by_value.items()}

    points = [
        figures.Point(one["values"][key], tuple(one["mean"]), [c["metrics"][metric] for c in cells])
        for one in statistics["values"]
        for cells in [by_value[one["values"][key]]]
    ]
    chosen = (statistics["smallest_not_worse"] or {}).get(key)
    drawn = figures.metric_by_value(points, tuple(statistics["base"]), name=name, metric=metric, chosen=chosen)
    caption = "Means over seeds and held-out rows with 95 % intervals over both; faint dots: single seeds; ring: the "
    yield Plate("metric", f"{metric} by {name}", "answer", caption + "smallest that is not credibly worse.", drawn)
    costs = {
        "trained parameters": of("trained_parameters"),
        "training, seconds": of("seconds"),
        "peak memory, MiB": of("peak_memory_bytes", 1 / MIB),
    }
    caption = "Median over seeds; all cells ran in one process on the same machine, one after another."
    yield Plate("costs", "What it costs", "answer", caption, figures.costs(costs, name=name))
    base = record["base"]["metrics"]
    curves = {v: [{p["epoch"]: p["value"] for p in c["curve"]} for c in cells] for v, cells in by_value.items()}
    drawn = figures.validation_curves(curves, base.get(metric), name=name, metric=metric)
    yield Plate("curves", "While training", "curves", f"{metric} of the held-out rows after each epoch.", drawn)
    drawn = figures.effective_ranks(of("effective_rank"), base.get("effective_rank"), name=name)
    yield Plate("effective_rank", "Directions in use", "health", "Effective rank of all held-out embeddings.", drawn)
    places = [_place(None, base), *(_place(c["values"][key], c["metrics"]) for c in finished)]
    caption = "Each cell in the plane of alignment and uniformity; the open square is the base."
    yield Plate("plane", "Alignment and uniformity", "health", caption, figures.plane(places, name=name))
    yield from _adapter_plates(record)
    yield from _forgetting_plate(record)


def _place(value: float | None, metrics: Mapping[str, float]) -> figures.Place:
    uniformity = (metrics["image/uniformity"] + metrics["text/uniformity"]) / 2
    return figures.Place(value, metrics["alignment"], uniformity)


def _adapter_plates(record: Record) -> Iterator[Plate]:
    """What the largest adapters say of themselves, and whether one of them would have been enough."""
    told: Sequence[Record] = record["adapters"] or []
    if not told:
        return
    first, metric = told[0], record["metric"]
    finished = [cell for cell in record["cells"] if cell["state"] == "finished"]
    towers: dict[str, list[Any]] = defaultdict(list)
    ranks: dict[str, dict[str, float]] = defaultdict(dict)
    for path, layer in first["layers"].items():
        tower = path.split(".")[0]
        towers[tower].append(np.array(layer["singular_values"]))
        ranks[tower][path] = layer["effective_rank"]
    caption = f"Of the rank-{first['rank']} adapter, seed {first['seed']}: how strong each direction of its update is."
    drawn = adapter_figures.singular_values(towers, rank=first["rank"])
    yield Plate("singular_values", "Singular values of B·A", "health", caption, drawn)
    caption = "Effective rank of each layer's update: where the adapter needed its directions."
    yield Plate("layer_ranks", "Layer by layer", "health", caption, adapter_figures.layer_ranks(ranks))
    cuts = [
        adapter_figures.Truncation(
            cut["rank"],
            [c["metrics"][metric] for c in finished if c.get("rank") == cut["rank"]],
            [one["truncated"][i][metric][0] for one in told],
        )
        for i, cut in enumerate(first["truncated"])
    ]
    drawn = adapter_figures.truncation(cuts, record["base"]["metrics"].get(metric), metric=metric)
    caption = "Where the dashed line keeps up with the solid one, one large run and a cut would have been enough."
    yield Plate("truncation", "Trained at rank k, or cut to it", "answer", caption, drawn)


def _forgetting_plate(record: Record) -> Iterator[Plate]:
    ledger: Record | None = record["forgetting"]
    if not ledger:
        return
    points = [adapter_figures.Balance(p["scale"], [p["new"][0]], [p["old"][0]]) for p in ledger["curve"]]
    drawn = adapter_figures.forgetting(points, metric=ledger["metric"], recommended=ledger["best_scale"])
    caption = f"Both sides along the adapter's scale, without any training; recommended: {ledger['rule']}."
    yield Plate("forgetting", "What was gained and what was forgotten", "health", caption, drawn)


def _answer(statistics: Record) -> Answer:
    said = str(statistics.get("answer") or statistics.get("reason") or "no cell has finished")
    headline, _, detail = said.partition(". ")
    gains = [one["gain"][1] for one in statistics.get("values", ())]
    return Answer("better" if any(low > 0 for low in gains) else "unclear", headline, detail)


def _forgetting_words(record: Record) -> list[str]:
    healths = {
        sentence
        for cell in record["cells"]
        if cell["state"] == "finished"
        for sentence in verdict(record["base"]["metrics"], cell["metrics"])
        if not sentence.startswith("healthy")
    }
    words = sorted(healths) or ["every cell's space is healthy"]
    ledger = record["forgetting"]
    if ledger:
        before, after = ledger["curve"][0]["old"][0], ledger["curve"][-1]["old"][0]
        words.append(
            f"on {ledger['old_rows']} rows that the base knew, {ledger['metric']} went from {before:.3f} "
            f"to {after:.3f}; "
            f"scale {ledger['best_scale']:g} of the adapter keeps most of both"
        )
    return words


def _interval(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:.3f} [{bounds[1]:.3f}, {bounds[2]:.3f}]"


def _value_table(record: Record) -> Table | None:
    statistics = record["statistics"] or {}
    if "values" not in statistics:
        return None
    rows = [
        (
            ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in one["values"].items()),
            _interval(one["mean"]),
            _interval(one["gain"]),
            _interval(one["shortfall"]),
            f"{one['trained_parameters']:,}",
            f"{one['seconds']:.0f}",
        )
        for one in statistics["values"]
    ]
    heads = ("value", f"{record['metric']} [95 %]", "gain over base", "behind the best", "trained", "seconds")
    return Table("Every value", heads, rows)


def _cell_table(record: Record) -> Table:
    rows = [
        (cell["name"], cell["state"], cell["run"] or "", f"{cell['metrics'][record['metric']]:.3f}")
        if cell["state"] == "finished"
        else (cell["name"], cell["state"], cell["run"] or "", "")
        for cell in record["cells"]
    ]
    return Table("Cells", ("cell", "state", "run", str(record["metric"])), rows)


def _facts(record: Record) -> dict[str, str]:
    timing = record["timing"]
    return {
        "experiment": str(record["experiment"]),
        "swept": "; ".join(f"{key}: {', '.join(map(str, values))}" for key, values in record["over"].items()),
        "seeds": ", ".join(map(str, record["seeds"])),
        "alpha": str(record["alpha"]),
        "data": f"{record['data']['root']}, {record['data']['rows']} held-out rows, "
        f"fingerprint {record['data']['fingerprint'][:16]}",
        "time": f"{timing['seconds']:.0f} s, {timing['outside_steps']:.1%} of them outside training steps",
    }
