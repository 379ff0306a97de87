"""The tables of a sweep: one frame each, which CSV file, page and terminal show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from vectoruniverse.metrics.catalogue import ARROWS, describe
from vectoruniverse.metrics.intervals import Interval
from vectoruniverse.report.ledger import ledger_frame
from vectoruniverse.report.sweep.parts import CellRecord, Statistics
from vectoruniverse.report.sweep.rates import rate_frame
from vectoruniverse.report.sweep.record import SweepRecord
from vectoruniverse.report.sweep.values import LR, is_number, key_of, label_of, shown, title_of
from vectoruniverse.report.tables import NBSP, Table, hold_at_once, interval, table

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

Forms = dict[str, tuple[str, Callable[[Any], str]]]


def cell_frame(sweep: SweepRecord) -> pd.DataFrame:
    """A row for each cell, indexed by the place of its values on the axis: what sweep.csv holds."""
    metrics, places = sorted({name for cell in sweep.cells for name in cell.metrics}), sweep.places
    bounds = [f"{sweep.metric} {bound}" for bound in ("low", "high", "gain", "gain low", "gain high")]
    rows = []
    for cell in sweep.cells:
        found = cell.intervals.get(sweep.metric, {"adapted": [], "difference": []})
        told = dict(cell) | {key: _flat(value) for key, value in (cell.settings | cell.values).items()} | cell.metrics
        rows.append(told | dict(zip(bounds, [*found["adapted"], *found["difference"]], strict=False)))
    columns = [*sweep.over, *sorted({key for cell in sweep.cells for key in cell.settings})]
    columns += [
        "seed",
        *([] if sweep.folds is None else ["fold"]),
        "state",
        "run",
        *FACTS,
        *metrics,
        *bounds,
        "message",
    ]
    index = [places[key_of(cell.values)] for cell in sweep.cells]
    frame = pd.DataFrame(rows, index=index, columns=columns, dtype=object)
    return frame.where(frame.notna(), None)


def csv_frames(sweep: SweepRecord) -> dict[str, pd.DataFrame]:
    """What the page's tables and figures show, by the name of its file, as far as it is known."""
    of_fold = () if sweep.folds is None else ("fold",)
    points = [(cell, point) for cell in sweep.finished for point in cell.curve]
    layers = [(adapter.seed, path, layer) for adapter in sweep.adapters for path, layer in adapter.layers.items()]
    most = max((len(layer.singular_values) for _, _, layer in layers), default=0)
    cuts = [(adapter, cut) for adapter in sweep.adapters for cut in adapter.truncated]
    frames = {
        "values": _columns_apart(_value_frame(sweep).drop(columns="title"), "mean", "gain", "shortfall"),
        "heat_map": _columns_apart(map_frame(sweep), "mean"),
        "rates": rate_frame(sweep),
        "beside": _columns_apart(beside_frame(sweep), "mean", "difference"),
        "curves": _frame(
            (sweep.swept_name, "seed", *of_fold, "epoch", sweep.metric),
            [
                (label_of(cell.values), cell.seed, *(cell.fold for _ in of_fold), point.epoch, point.value)
                for cell, point in points
            ],
        ),
        "layers": _frame(
            ("seed", "layer", "effective rank", *(f"singular value {i}" for i in range(1, most + 1))),
            [(seed, path, x.effective_rank, *(*x.singular_values, *[None] * most)[:most]) for seed, path, x in layers],
        ),
        "truncation": _columns_apart(
            _frame(
                ("seed", "trained at rank", "cut to rank", sweep.metric, "minus trained"),
                [(a.seed, a.rank, cut.rank, cut.score(a.metric), cut.minus_trained) for a, cut in cuts],
            ),
            "minus trained",
        ),
        "forgetting": ledger_frame(sweep.forgetting),
    }
    return {name: frame for name, frame in frames.items() if len(frame)}


def map_frame(sweep: SweepRecord) -> pd.DataFrame:
    """Of a sweep over two keys, a row for each pair of values: both as text, and the metric's mean; else no rows."""
    values = sweep.compared.values if sweep.compared and len(sweep.over) == 2 else []
    rows = [(*(shown(one.values[key]) for key in sweep.over), one.mean) for one in values]
    return _frame((*sweep.over, "mean"), rows)


def ticks_of(sweep: SweepRecord, key: str) -> list[str]:
    """All values of a swept key as they stand on an axis: numbers ascending, anything else as it was asked for."""
    values = [*sweep.over[key], *(cell.values[key] for cell in sweep.cells)]
    if all(map(is_number, values)):
        values.sort()
    return list(dict.fromkeys(map(shown, values)))


def value_table(sweep: SweepRecord) -> Table | None:
    """The metric of each value: its mean, its gain over the base, and how far it is behind the best."""
    if (found := sweep.compared) is None:
        return None
    values = _value_frame(sweep)
    base = _frame((sweep.swept_name, "mean"), [("base", found.base)]).reindex(columns=values.columns)
    frame = pd.concat([base, values], ignore_index=True)
    forms: Forms = {sweep.swept_name: (sweep.swept_name, str)} | _quality(sweep, found, f"{found.level:.0%}")
    note = " ".join(filter(None, (hold_at_once(len(found.values), "gains"), optimistic(sweep))))
    return table(frame, forms, note=note)


def optimistic(sweep: SweepRecord) -> str:
    """What the validation rows chose, of which the numbers on them are optimistic; empty where none are told."""
    found, sections = sweep.compared, sweep.config
    if found is None or sweep.folds is not None or sweep.evaluated_on != "held-out":
        return ""
    early = sections.get("train", {}).get("early_stopping") is not None
    chosen = ["the epoch"] if early or sections.get("eval", {}).get("keep") != "last" else []
    chosen += [] if sweep.rates is None else ["the learning rate"]
    chosen += ["the best value"] if len(found.values) > 1 else []
    if not chosen or (sweep.data.split == "test" and found.chosen_on is None):
        return ""
    picked = " and ".join([", ".join(chosen[:-1]), chosen[-1]] if len(chosen) > 1 else chosen)
    if found.chosen_on is None:
        return f"These rows also picked {picked}, so this is optimistic: no test rows are reported."
    return f"The validation rows picked {picked}: numbers on val are optimistic."


def beside_table(sweep: SweepRecord) -> Table:
    """Full fine-tuning and ranks by layer, each beside the value that it is compared with."""
    if sweep.compared is None or not sweep.comparisons:
        return Table("", (), ())
    forms: Forms = {
        "model": ("model", str),
        "mean": (f"{_better(sweep.metric)} [{sweep.compared.level:.0%}]", lambda bounds: interval(*bounds)),
        "val": ("on val", "{:.3f}".format),
        "difference": ("above", lambda bounds: interval(*bounds, sign=True)),
        "reference": ("the reference", str),
        "learning rate": ("learning rate", str),
        "trained parameters": ("trained parameters", "{:,}".format),
        "seconds": ("time", f"{{:.0f}}{NBSP}s".format),
        "seeds": ("seeds", str),
    }
    return table(beside_frame(sweep), forms, title="Beside the values of the sweep", note=optimistic(sweep))


def beside_frame(sweep: SweepRecord) -> pd.DataFrame:
    """A row for each model that is no value of the sweep."""
    rows = []
    for one in sweep.comparisons:
        cells = [cell for cell in sweep.beside if cell.values == one.values and cell.state == "finished"]
        told = (title_of(one.values), one.mean, one.val, one.difference, title_of(one.reference), _rates(cells))
        seconds = [cell.seconds for cell in cells if cell.seconds is not None]
        costs = (cells[0].trained_parameters, sum(seconds) / len(seconds) if seconds else None)
        rows.append((*told, *costs, ", ".join(map(str, one.seeds))))
    columns = ("mean", "val", "difference", "reference", "learning rate", "trained parameters", "seconds", "seeds")
    return _frame(("model", *columns), rows)


def _rates(cells: Iterable[CellRecord]) -> str | None:
    """The learning rate that cells took, or the least and the greatest of theirs; None where none was chosen."""
    rates = sorted({float(cell.settings[LR]) for cell in cells if LR in cell.settings})
    return " to ".join(f"{rate:g}" for rate in dict.fromkeys([rates[0], rates[-1]])) if rates else None


def cost_table(sweep: SweepRecord) -> Table:
    """What each value costs, and how much its seeds differ."""
    forms: Forms = {
        sweep.swept_name: (sweep.swept_name, str),
        "trained parameters": ("trained parameters", "{:,}".format),
        "seconds": ("time", f"{{:.0f}}{NBSP}s".format),
        "peak memory bytes": ("peak memory", lambda size: f"{size / MIB:,.0f}{NBSP}MiB"),
        "seed spread": ("spread of seeds", "{:.3f}".format),
    }
    return table(_value_frame(sweep), forms, title="Means of each value's cells")


def terminal_table(sweep: SweepRecord, found: Statistics) -> Table:
    """Both in one, narrower."""
    costs: Forms = {
        "trained parameters": ("trained", "{:,}".format),
        "seconds": ("time", "{:.0f} s".format),
    }
    title = f"{sweep.name}: {found.queries:,} {sweep.rows_are} rows, seeds {', '.join(map(str, found.seeds))}"
    forms: Forms = {"title": ("", str)} | _quality(sweep, found, f"{found.level:.0%}") | costs
    text = table(_value_frame(sweep), forms, title=title, note=optimistic(sweep))
    return replace(text, rows=[[cell.replace(NBSP, " ") for cell in row] for row in text.rows])


def health_table(sweep: SweepRecord, said: Sequence[Sequence[str]]) -> Table:
    """The space of each finished cell, with its verdict ``said``, beside the base's."""
    if not sweep.has_space:
        return Table("", (), ())
    verdicts = [", ".join(sentence.partition(":")[0] for sentence in one) for one in said]
    rows: list[dict[str, object]] = [{"value": "base", **sweep.base_metrics}] if sweep.base else []
    for cell, verdict in zip(sweep.finished, verdicts, strict=True):
        told = {"value": label_of(cell.values), "seed": cell.seed, "fold": cell.fold, "verdict": verdict}
        rows.append({**cell.metrics, **told})
    forms: Forms = {"value": (sweep.swept_name, str), "seed": ("seed", str), **_fold(sweep)}
    forms |= {name: (head, "{:.2f}".format) for name, head in GEOMETRY.items()}
    forms["verdict"] = ("verdict", str)
    return table(pd.DataFrame(rows, columns=list(forms), dtype=object), forms)


def cell_table(sweep: SweepRecord) -> Table:
    """Every cell with its run and how it went."""
    cells = [*sweep.cells, *sweep.beside]
    epochs = ["" if cell.kept is None else f"{cell.kept}{NBSP}of{NBSP}{cell.epochs}" for cell in cells]
    names = [*(label_of(cell.values) for cell in sweep.cells), *(title_of(cell.values) for cell in sweep.beside)]
    rows = [
        dict(cell) | cell.metrics | {"value": name, "epoch": epoch}
        for cell, name, epoch in zip(cells, names, epochs, strict=True)
    ]
    frame = pd.DataFrame(rows, dtype=object)
    forms: Forms = {
        "value": (sweep.swept_name, str),
        "seed": ("seed", str),
        **_fold(sweep),
        "state": ("state", str),
        sweep.metric: (_better(sweep.metric), "{:.3f}".format),
        "epoch": ("epoch", str),
        "seconds": ("time", f"{{:.0f}}{NBSP}s".format),
        "run": ("run", str),
        "message": ("message", str),
    }
    return table(frame.reindex(columns=list(forms)), forms)


def _fold(sweep: SweepRecord) -> Forms:
    return {} if sweep.folds is None else {"fold": ("fold", lambda fold: str(fold + 1))}


def _value_frame(sweep: SweepRecord) -> pd.DataFrame:
    """A row for each value: the metric's mean, its gain over the base, how far it is behind the best, and its costs."""
    facts = ("mean", "val", "gain", "shortfall", "seed_spread", "trained_parameters", "seconds", "peak_memory_bytes")
    values = sweep.compared.values if sweep.compared else []
    rows = [
        (
            label_of(one.values),
            title_of(one.values),
            _rates(cell for cell in sweep.finished if cell.values == one.values),
            *(getattr(one, fact) for fact in facts),
        )
        for one in values
    ]
    return _frame((sweep.swept_name, "title", "learning rate", *(fact.replace("_", " ") for fact in facts)), rows)


def _quality(sweep: SweepRecord, found: Statistics, level: str) -> Forms:
    def told(bounds: Interval) -> str:
        return interval(*bounds)

    chose: Forms = {} if found.chosen_on is None else {"val": ("on val, which chose", "{:.3f}".format)}
    behind: Forms = {"shortfall": ("behind the best", told)} if len(found.values) > 1 else {}
    rates: Forms = {} if sweep.rates is None else {"learning rate": ("rate", str)}
    return {
        **rates,
        "mean": (f"{_better(found.metric)} [{level}]", told),
        **chose,
        "gain": ("gain over base", lambda bounds: interval(*bounds, sign=True)),
        **behind,
    }


def _frame(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> pd.DataFrame:
    """A frame whose whole numbers stay whole beside what is not known, which is None."""
    return pd.DataFrame(list(rows), columns=list(columns), dtype=object)


def _columns_apart(frame: pd.DataFrame, *intervals: str) -> pd.DataFrame:
    """A frame whose ``intervals`` are three columns each."""
    apart: dict[str, list[object]] = {}
    for name in map(str, frame):
        cells = frame[name].tolist()
        apart[name] = [getattr(cell, "estimate", None) for cell in cells] if name in intervals else cells
        for bound in ("low", "high") if name in intervals else ():
            apart[f"{name} {bound}"] = [getattr(cell, bound, None) for cell in cells]
    return pd.DataFrame(apart, dtype=object)


def _better(metric: str) -> str:
    """A metric with the arrow to its better end."""
    return metric + ARROWS[describe(metric).better]


def _flat(value: object) -> object:
    """Numbers and text as they are, anything else as it would stand in the experiment file."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if value is None or number else shown(value)
