"""The tables of a sweep: one frame each, with every number in a column of its own, which all that show it start from.

CSV files hold the frames as they are; the page and the terminal show their numbers as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from vectoruniverse.metrics.answers import interval_text
from vectoruniverse.metrics.bootstrap import Interval
from vectoruniverse.metrics.catalogue import ARROWS, describe
from vectoruniverse.report.sweep.record import Statistics, SweepRecord, key_of, label_of, shown, title_of
from vectoruniverse.report.tables import NBSP, Table, table, write_csv

MIB = 2**20

FACTS = ("rank", "alpha", "scale", "trained_parameters", "best_epoch", "seconds", "step_seconds", "peak_memory_bytes")
"""Of a cell, beside its values, seed, state and run."""

GEOMETRY = {
    "effective_rank": "effective rank",
    "largest_eigenvalue_share": "largest eigenvalue",
    "image/mean_cosine": "cosine, pictures",
    "text/mean_cosine": "cosine, texts",
    "modality_gap": "modality gap",
}


def cell_frame(sweep: SweepRecord) -> pd.DataFrame:
    """A row for each cell, indexed by the place of its values on the axis: what sweep.csv holds."""
    metrics, places = sorted({name for cell in sweep.cells for name in cell.metrics}), sweep.places
    columns = [*sweep.over, "seed", "state", "run", *FACTS, *metrics]
    columns += [f"{sweep.metric} {bound}" for bound in ("low", "high", "gain", "gain low", "gain high")]
    rows = []
    for cell in sweep.cells:
        interval = cell.intervals.get(sweep.metric, {})
        rows.append(
            [
                *(_flat(cell.values.get(key)) for key in sweep.over),
                *(cell.seed, cell.state, cell.run),
                *(getattr(cell, fact) for fact in FACTS),
                *(cell.metrics.get(name) for name in metrics),
                *interval.get("adapted", [None] * 2),
                *interval.get("difference", [None] * 3),
                cell.message,
            ]
        )
    index = [places[key_of(cell.values)] for cell in sweep.cells]
    return _frame([*columns, "message"], rows).set_axis(index)


def value_frame(sweep: SweepRecord) -> pd.DataFrame:
    """A row for each value: the metric's mean, its gain over the base, how far it is behind the best, and its costs."""
    columns = (
        *(sweep.swept_name, *_bounds("mean"), *_bounds("gain"), *_bounds("shortfall")),
        *("seed spread", "trained parameters", "seconds", "peak memory bytes"),
    )
    rows = [
        (
            *(label_of(one.values), *one.mean, *one.gain, *one.shortfall),
            *(one.seed_spread, one.trained_parameters, one.seconds, one.peak_memory_bytes),
        )
        for one in (sweep.compared.values if sweep.compared else [])
    ]
    return _frame(columns, rows)


def write_cells(sweep: SweepRecord, file: Path) -> None:
    """Write sweep.csv."""
    write_csv(file, cell_frame(sweep))


def write_tables(sweep: SweepRecord, folder: Path) -> None:
    """Write ``values``, ``curves``, ``layers``, ``truncation`` and ``forgetting`` as .csv, as far as they are known."""
    for name, frame in ({"values": value_frame(sweep)} | _other_frames(sweep)).items():
        if len(frame):
            write_csv(folder / f"{name}.csv", frame)


def value_table(sweep: SweepRecord) -> Table | None:
    """The metric of each value: its mean, its gain over the base, and how far it is behind the best."""
    if (found := sweep.compared) is None:
        return None
    text = _value_text(sweep, found).iloc[:, :4]
    text.loc[-1] = ["base", interval_of(found.base), "", ""]
    return table(text.sort_index())


def cost_tables(sweep: SweepRecord) -> list[Table]:
    """What each value costs, and how much its seeds differ; none without statistics."""
    found = sweep.compared
    return (
        [] if found is None else [table(_value_text(sweep, found).iloc[:, [0, 4, 5, 6, 7]], title="Means over seeds")]
    )


def terminal_table(sweep: SweepRecord, found: Statistics) -> Table:
    """Both in one, narrower."""
    text = _value_text(sweep, found).iloc[:, :6].replace(NBSP, " ", regex=True)
    text.columns = ["", f"{_better(found.metric)} [95 %]", *text.columns[2:4], "trained", "time"]
    text[""] = [title_of(one.values) for one in found.values]
    return table(text, title=f"{sweep.name}: {found.queries} {sweep.judged} rows, seeds {sweep.seeds}")


def health_tables(sweep: SweepRecord, said: Sequence[Sequence[str]]) -> list[Table]:
    """The space of each finished cell, with its verdict ``said``, beside the base's."""
    verdicts = [", ".join(sentence.partition(":")[0] for sentence in one) for one in said]
    rows = [
        (label_of(cell.values), str(cell.seed), cell.metrics, verdict)
        for cell, verdict in zip(sweep.finished, verdicts, strict=True)
    ]
    if not rows or not sweep.judges_space:
        return []
    base = [("base", "", sweep.base_metrics, "")] if sweep.base else []
    texts = [
        (label, seed, *(f"{metrics[name]:.2f}" if name in metrics else "" for name in GEOMETRY), verdict)
        for label, seed, metrics, verdict in [*base, *rows]
    ]
    return [Table("", (sweep.swept_name, "seed", *GEOMETRY.values(), "verdict"), texts)]


def cell_table(sweep: SweepRecord) -> Table:
    """Every cell with its run and how it went."""
    frame = cell_frame(sweep)
    scores = frame[sweep.metric] if sweep.metric in frame else [None] * len(frame)
    text = pd.DataFrame(
        {
            sweep.swept_name: [label_of(cell.values) for cell in sweep.cells],
            "seed": frame["seed"].map(str),
            "state": frame["state"],
            _better(sweep.metric): [_text(score, "{:.3f}") for score in scores],
            "epoch": ["" if c.kept is None else f"{c.kept}{NBSP}of{NBSP}{c.epochs}" for c in sweep.cells],
            "time": frame["seconds"].map(lambda seconds: _text(seconds, f"{{:.0f}}{NBSP}s")),
            "run": frame["run"].map(lambda run: run or ""),
            "message": frame["message"].map(lambda message: message or ""),
        }
    )
    return table(text)


def _other_frames(sweep: SweepRecord) -> dict[str, pd.DataFrame]:
    points = [(label_of(cell.values), cell.seed, point) for cell in sweep.finished for point in cell.curve]
    layers = [(adapter.seed, path, layer) for adapter in sweep.adapters for path, layer in adapter.layers.items()]
    most = max((len(layer.singular_values) for _, _, layer in layers), default=0)
    padding = (None,) * most
    cuts = [(adapter, cut) for adapter in sweep.adapters for cut in adapter.truncated]
    kept = [] if sweep.forgetting is None else sweep.forgetting.curve
    return {
        "curves": _frame(
            (sweep.swept_name, "seed", "epoch", sweep.metric),
            [(label, seed, point.epoch, point.value) for label, seed, point in points],
        ),
        "layers": _frame(
            ("seed", "layer", "effective rank", *(f"singular value {i}" for i in range(1, most + 1))),
            [(seed, path, x.effective_rank, *(*x.singular_values, *padding)[:most]) for seed, path, x in layers],
        ),
        "truncation": _frame(
            ("seed", "trained at rank", "cut to rank", sweep.metric, *_bounds("minus trained")),
            [(a.seed, a.rank, c.rank, c.score(a.metric), *(c.minus_trained or (None,) * 3)) for a, c in cuts],
        ),
        "forgetting": _frame(
            ("scale", *_bounds("new"), *_bounds("old"), "new share", "old share"),
            [(one.scale, *one.new, *one.old, one.new_share, one.old_share) for one in kept],
        ),
    }


def _value_text(sweep: SweepRecord, found: Statistics) -> pd.DataFrame:
    frame = value_frame(sweep)

    def intervals(name: str, sign: str = "") -> list[str]:
        return [interval_of(Interval(*bounds), sign) for bounds in frame[list(_bounds(name))].itertuples(index=False)]

    return pd.DataFrame(
        {
            sweep.swept_name: frame[sweep.swept_name],
            f"{_better(found.metric)} [{found.level:.0%}]": intervals("mean"),
            "gain over base": intervals("gain", sign="+"),
            "behind the best": intervals("shortfall"),
            "trained parameters": [_text(count, "{:,}") for count in frame["trained parameters"]],
            "time": [_text(seconds, f"{{:.0f}}{NBSP}s") for seconds in frame["seconds"]],
            "peak memory": [_text(b and b / MIB, f"{{:,.0f}}{NBSP}MiB") for b in frame["peak memory bytes"]],
            "spread of seeds": [_text(spread, "{:.3f}") for spread in frame["seed spread"]],
        }
    )


def interval_of(interval: Interval, sign: str = "") -> str:
    """An interval as text, which a narrow table breaks before its bracket only."""
    return interval_text(interval, f"{sign}.3f").replace(", ", f",{NBSP}")


def _better(metric: str) -> str:
    """A metric with the arrow to its better end."""
    return metric + ARROWS[describe(metric).better]


def _text(value: object, form: str) -> str:
    return "" if value is None else form.format(value)


def _flat(value: object) -> object:
    """Numbers and text as they are, anything else as it would stand in the experiment file."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if value is None or number else shown(value)


def _frame(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> pd.DataFrame:
    """A frame whose whole numbers stay whole beside what is not known, which is None."""
    return pd.DataFrame(list(rows), columns=list(columns), dtype=object)


def _bounds(name: str) -> tuple[str, str, str]:
    return name, f"{name} low", f"{name} high"
