from __future__ import annotations

import copy
import csv
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from vectoruniverse.errors import ConfigError
from vectoruniverse.report.sweep import page as sweep_page
from vectoruniverse.report.sweep.parts import AdapterRecord
from vectoruniverse.report.sweep.plates import axis_of, sweep_plates, updates
from vectoruniverse.report.sweep.rates import rate_words
from vectoruniverse.report.sweep.record import SweepRecord, read_sweep
from vectoruniverse.report.sweep.tables import beside_table, terminal_table, value_table
from vectoruniverse.report.sweep.words import adapter_words, enough
from vectoruniverse.runs.files import write_record

HOSTILE = "</style><script>parent.pwned = 1</script> =1+1"
LEVELS = {1: 0.605, 2: 0.69, 4: 0.735, 8: 0.741, 16: 0.732}
PATHS = [
    f"{tower}_model.encoder.layers.{layer}.self_attn.{name}_proj"
    for tower in ("vision", "text")
    for layer in range(2)
    for name in "qv"
]


def metrics(recall: float, rank: float) -> dict[str, float]:
    geometry = {"alignment": 1.0 - recall, "image/uniformity": -2 - recall, "text/uniformity": -2.2 - recall}
    cosines = {"image/mean_cosine": 0.1, "text/mean_cosine": 0.05, "modality_gap": 0.2}
    return {"recall@5": recall, "effective_rank": rank, "largest_eigenvalue_share": 0.2} | geometry | cosines


def cell(rank: int, seed: int, random: np.random.Generator) -> dict:
    score = LEVELS[rank] + 0.01 * float(random.normal())
    name = f"demo-rank{rank}-seed{seed}"
    return {
        "values": {"adapter.rank": rank},
        "seed": seed,
        "name": name,
        "state": "finished",
        "message": None,
        "run": f"{name}-20261122-0154-eban",
        "path": f"../{name}-20261122-0154-eban",
        "data": "5c96",
        "metrics": metrics(score, 12.0),
        "intervals": {},
        "trained_parameters": 10752 * rank,
        "rank": rank,
        "best_epoch": 8,
        "epochs": 10,
        "seconds": 100.0 + rank,
        "step_seconds": 90.0,
        "effective_rank": 12.0,
        "peak_memory_bytes": 1_700_000_000 + rank,
        "adapter": None,
        "spectrum": [0.5, 0.5],
        "curve": [{"epoch": e, "step": 13 * e, "value": score * (1 - math.exp(-e / 3))} for e in range(11)],
    }


def adapter(seed: int, random: np.random.Generator) -> dict:
    values = [(np.exp(-np.arange(16) * 0.3) * random.uniform(0.5, 2)).tolist() for _ in PATHS]
    energy = np.cumsum(np.exp(-np.arange(16) * 0.6))
    tower = {"layers": 4, "norm": 1.0, "effective_rank": 3.1, "energy": (energy / energy[-1]).tolist()}
    gaps = {1: [-0.1, -0.15, -0.05], 2: [-0.02, -0.05, 0.01], 4: [0.05, 0.02, 0.08], 8: [0, -0.02, 0.02], 16: [0, 0, 0]}
    return {
        "run": "demo-rank16",
        "seed": seed,
        "rank": 16,
        "metric": "recall@5",
        "compared_with": {},
        "layers": {p: {"singular_values": v, "effective_rank": 3.0} for p, v in zip(PATHS, values, strict=True)},
        "towers": {"vision_model": tower, "text_model": tower},
        "truncated": [
            {"rank": rank, "recall@5": [LEVELS[rank] + gap[0], 0.1, 0.9], "minus_trained": gap}
            for rank, gap in gaps.items()
        ],
    }


@pytest.fixture(scope="module")
def record() -> dict:
    """What a sweep over five ranks and three seeds left, of a version that told less than today's."""
    random = np.random.default_rng(0)
    values = [
        {
            "values": {"adapter.rank": r},
            "mean": [m, m - 0.035, m + 0.034],
            "gain": [m - 0.1, m - 0.14, m - 0.06],
            "shortfall": [0.741 - m, max(0.0, 0.72 - m), 0.76 - m],
            "seed_spread": 0.01,
            "trained_parameters": 10752 * r,
            "seconds": 100.0 + r,
            "peak_memory_bytes": 1.7e9,
        }
        for r, m in LEVELS.items()
    ]
    answer = (
        "rank 4 is the smallest that is not credibly worse than the best (rank 8): recall@5 0.735 [0.700, 0.769] "
        "against 0.741 [0.706, 0.775], 0.006 [0.000, 0.025] behind the best. From rank 4 on more does not credibly "
        "help. (95 % intervals over 440 queries and 3 seeds.)"
    )
    curve = [
        {"scale": s, "new": [0.1 + 0.6 * s, 0.1, 0.8], "old": [0.9 - 0.5 * s, 0.3, 0.95]}
        | {"new_share": s, "old_share": 1 - 0.5 * s, "kept": s}
        for s in (0.0, 0.5, 1.0)
    ]
    return {
        "version": 1,
        "name": "demo-sweep-a1db240c",
        "state": "finished",
        "experiment": "demo",
        "seeds": [0, 1, 2],
        "config": {"train": {"lr": 0.002}},
        "over": {"adapter.rank": list(LEVELS)},
        "alpha": "proportional:1",
        "metric": "recall@5",
        "data": {"root": "data/openmoji", "fingerprint": "5c96", "rows": 440},
        "base": {"metrics": metrics(0.1, 9.4), "spectra": {}},
        "cells": [cell(rank, seed, random) for seed in range(3) for rank in LEVELS],
        "statistics": {
            "metric": "recall@5",
            "level": 0.95,
            "queries": 440,
            "seeds": [0, 1, 2],
            "left_out": [],
            "base": [0.1, 0.07, 0.13],
            "ordered": True,
            "values": values,
            "best": {"adapter.rank": 8},
            "smallest_not_worse": {"adapter.rank": 4},
            "answer": answer,
        },
        "adapters": [adapter(seed, random) for seed in range(3)],
        "forgetting": {
            "run": "demo-rank4",
            "values": {"adapter.rank": 4},
            "seed": 0,
            "rows_chosen": {},
            "metric": "recall@5",
            "new_rows": 440,
            "old_rows": 1000,
            "curve": curve,
            "best_scale": 0.5,
            "rule": "harmonic mean",
        },
        "timing": {"cells": 15, "seconds": 1712.3, "step_seconds": 1580.7, "outside_steps": 0.0768},
    }


def write_sweep_page(record: dict, folder: Path, *, page: Path | None = None) -> Path:
    return sweep_page.write_sweep_page(SweepRecord.model_validate(record), folder, page=page)


def text_of(page: Path) -> str:
    return re.sub(r"<[^>]+>|data:[^\"]+", " ", page.read_text(encoding="utf-8")).replace("\N{NO-BREAK SPACE}", " ")


def test_the_answer_comes_first_and_the_parts_in_the_order_of_questions(record, tmp_path):
    page = write_sweep_page(record, tmp_path)
    source, text = page.read_text(encoding="utf-8"), text_of(page)
    assert "Rank 4 is the smallest that is not credibly worse than the best (rank 8)" in text
    assert "From rank 4 on more does not credibly help" in text
    parts = (
        "answer",
        "metric",
        "cost",
        "curves",
        "adapters",
        "truncation",
        "health",
        "forgetting",
        "cells",
        "settings",
    )
    places = [source.index(f'id="{name}"') for name in parts]
    assert places == sorted(places)
    assert "healthy in all 15 cells: effective rank 12.0 to 12.0 (base 9.4)" in text
    assert "keeps 50% of what was gained at best and 75% of what the base knew" in text
    assert "1 · rank, so that the update" in text
    assert "0.735 [0.700, 0.769]" in text and "43,008" in text and "1,621 MiB" in text


def test_figures_and_tables_stand_beside_the_page(record, tmp_path):
    (tmp_path / "sweep").mkdir()
    write_sweep_page(record, tmp_path / "sweep", page=tmp_path / "out.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.html", "sweep"]
    drawn = {"metric", "costs", "validation", "truncation", "singular_values", "layer_ranks", "effective_rank", "plane"}
    assert {path.name for path in (tmp_path / "out" / "figures").iterdir()} == {
        f"{name}.{kind}" for name in drawn | {"forgetting"} for kind in ("png", "svg")
    }

    def table(name: str) -> list[dict[str, str]]:
        with (tmp_path / "out" / "tables" / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    assert [(row["rank"], float(row["mean low"])) for row in table("values")] == [
        (str(r), pytest.approx(m - 0.035)) for r, m in LEVELS.items()
    ]
    assert len(table("curves")) == 15 * 11
    assert len(table("layers")) == 3 * len(PATHS) and "singular value 16" in table("layers")[0]
    assert [row["cut to rank"] for row in table("truncation")][:5] == ["1", "2", "4", "8", "16"]
    assert [float(row["old"]) for row in table("forgetting")] == pytest.approx([0.9, 0.65, 0.4])


def test_failed_collapsed_and_missing_cells_are_told(record, tmp_path):
    changed = copy.deepcopy(record)
    changed["state"] = "interrupted"
    changed["cells"][0] = {key: changed["cells"][0][key] for key in ("values", "seed", "name", "run", "path")} | {
        "state": "failed",
        "message": HOSTILE,
    }
    changed["cells"][1]["metrics"]["effective_rank"] = 1.2
    folder = tmp_path / "sweep"
    folder.mkdir()
    run = (folder / changed["cells"][2]["path"]).resolve()
    run.mkdir()
    lines = [{"step": s, "train/effective_rank": 10.0 if s < 3 else 2.0} for s in range(1, 6)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = write_sweep_page(changed, folder)
    source, text = page.read_text(encoding="utf-8"), text_of(page)
    assert "14 of 15 cells are done (the sweep is interrupted)" in text
    assert "rank 1, seed 0 failed: &lt;/style&gt;&lt;script&gt;" in source and "<script" not in source
    assert "rank 2, seed 0: collapsed: effective rank 1.2 (base 9.4)" in text
    assert "rank 4, seed 0: collapsed at step 3" in text
    assert "healthy in 12 of 14 cells" in text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"statistics": None, "cells": [], "adapters": [], "forgetting": None, "timing": None}, "no cell is done yet"),
        ({"statistics": {"reason": "cells differ in model or data"}, "base": None}, "cells differ in model or data"),
        ({"adapters": [], "forgetting": None, "timing": None, "alpha": None}, "as the experiment has it"),
    ],
)
def test_a_record_that_lacks_parts_gives_a_page_without_them(record, tmp_path, changes, says):
    assert says in text_of(write_sweep_page(record | changes, tmp_path))


def test_several_keys_and_hostile_texts_are_values_without_an_order(record, tmp_path):
    changed = copy.deepcopy(record) | {"over": {"data.text": [HOSTILE, "b"], "train.lr": [0.1]}, "adapters": []}
    names = dict.fromkeys(LEVELS, HOSTILE) | {1: "b"}
    for entry in changed["cells"]:
        entry["values"] = {"data.text": names[entry["rank"]], "train.lr": entry["rank"]}
    found = changed["statistics"]
    for entry, rank in zip(found["values"], LEVELS, strict=True):
        entry["values"] = {"data.text": names[rank], "train.lr": rank}
    found |= {"best": found["values"][3]["values"], "smallest_not_worse": None}
    found["answer"] = f"text {HOSTILE}, lr 8 comes first with recall@5 0.741."
    page = write_sweep_page(changed, tmp_path)
    assert "<script" not in page.read_text(encoding="utf-8")
    swept = axis_of(SweepRecord.model_validate(changed))
    assert not swept.ordered and list(swept.labels) == [0, 1, 2, 3, 4]
    assert swept.labels[0] == "text b, lr 1"


def over_two_keys(record: dict, first: list, second: list) -> dict:
    """The record as of a sweep over two keys; of the pairs of values, as many as there are ranks are done."""
    changed = copy.deepcopy(record) | {"over": {"train.lr": first, "adapter.bias": second}, "adapters": []}
    pairs = [{"train.lr": x, "adapter.bias": y} for x in first for y in second]
    values = dict(zip(LEVELS, pairs, strict=False))
    for entry in changed["cells"]:
        entry["values"] = values[entry["rank"]]
    found = changed["statistics"]
    for entry, rank in zip(found["values"], LEVELS, strict=True):
        entry["values"] = values[rank]
    return changed | {"statistics": found | {"best": values[8], "smallest_not_worse": None}}


def test_a_sweep_over_two_keys_draws_a_map_and_writes_its_numbers(record, tmp_path):
    changed = over_two_keys(record, [0.01, 2e-5, 0.001], ["none", "all"])
    changed["cells"].sort(key=lambda cell: cell["values"]["adapter.bias"])  # a record's cells are in some order
    page = write_sweep_page(changed, tmp_path)
    assert "recall@5 by train.lr and adapter.bias" in text_of(page) and (tmp_path / "figures/heat_map.svg").is_file()
    with (tmp_path / "tables" / "heat_map.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["train.lr"], row["adapter.bias"], float(row["mean"])) for row in rows] == [
        ("0.01", "none", 0.605),
        ("0.01", "all", 0.69),
        ("2e-05", "none", 0.735),
        ("2e-05", "all", 0.741),
        ("0.001", "none", 0.732),
    ]
    assert [float(row["mean high"]) for row in rows] == pytest.approx([m + 0.034 for m in LEVELS.values()])
    sweep = SweepRecord.model_validate(changed)
    plate = next(plate for plate in sweep_plates(sweep, title="") if plate.name == "heat_map")
    axes = plate.figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2e-05", "0.001", "0.01"]  # numbers ascend
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["none", "all"]  # names stay as they were given
    assert (axes.patches[0].get_x(), axes.patches[0].get_y()) == (0, 1)


def with_rates(record: dict) -> dict:
    """The record as of a sweep whose ranks chose rates, beside full fine-tuning and ranks by layer."""
    changed = copy.deepcopy(record)

    def trial(values: dict, rate: float, epochs: int, score: float) -> dict:
        head = {"values": values, "seed": 0, "settings": {"train.lr": rate, "train.epochs": epochs}, "name": "trial"}
        return head | {"state": "finished", "metrics": {"recall@5": score}}

    trials = [
        trial({"adapter.rank": rank}, rate, 2, LEVELS[rank] - 0.3 - penalty)
        for rank in LEVELS
        for rate, penalty in ((0.002, 0.05 / rank), (0.008 / rank, 0.0), (0.016 / rank, 0.04))
    ]
    full = {"adapter.method": "full"}
    trials += [trial(full, 0.0005, 2, 0.3), trial(full, 0.0005, 5, 0.4)]
    choices = [
        {"values": {"adapter.rank": rank}, "rate": 0.008 / rank, "at_edge": rank == 16} for rank in (4, 1, 2, 8, 16)
    ]
    changed["rates"] = {
        "asked": "auto", "own": 0.002, "short": 2, "long": 5, "cost": 1.7, "trials": trials,
        "choices": [*choices, {"values": full, "rate": 0.0005}],
    }  # fmt: skip
    by_layer = {"adapter.rank_pattern": "as rank 4"}
    changed["beside"] = [
        changed["cells"][0] | {"values": values, "name": name, "settings": {"train.lr": 0.0005}}
        for values, name in ((full, "demo-full"), (by_layer, "demo-pattern"))
    ]
    changed["comparisons"] = [
        {"values": full, "reference": {"adapter.rank": 8}, "seeds": [0, 1, 2], "mean": [0.8, 0.77, 0.83],
         "difference": [0.059, 0.02, 0.1], "val": 0.82},
        {"values": by_layer, "reference": {"adapter.rank": 4}, "seeds": [0], "mean": [0.73, 0.7, 0.76],
         "difference": [-0.005, -0.03, 0.02], "val": 0.74},
    ]  # fmt: skip
    changed["pattern"] = {"run": "demo", "rank": 4, "rank_pattern": {"^text_model\\.q_proj": 7}}
    return changed


def test_the_page_says_which_rates_were_chosen_and_what_one_rate_for_all_would_have_said(record, tmp_path):
    page = write_sweep_page(with_rates(record), tmp_path)
    text = " ".join(text_of(page).split())
    assert (
        "trials of 2 epochs, the better two for 5; trials and cells together took 1.7 times a sweep at one rate: "
        "0.008 for rank 1, 0.004 for rank 2, 0.002 for rank 4, 0.001 for rank 8, 0.0005 for rank 16, 0.0005 for "
        "method full."
    ) in text
    assert "At an edge of the rates that were tried: rank 16." in text
    assert "rank 4 would have come first with 0.435; with its own rate each, rank 8 does with 0.441." in text
    assert "The one rate costs rank 1 the most: 0.255 in place of 0.305." in text
    plate = next(p for p in sweep_plates(SweepRecord.model_validate(with_rates(record)), title="") if p.name == "rates")
    ticks = [tick.get_text() for tick in plate.figure.axes[0].get_yticklabels()]
    assert ticks == ["1", "2", "4", "8", "16", "full"] and len(plate.figure.axes[0].patches) == 2 * 6
    with (tmp_path / "tables" / "rates.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 17 and rows[0]["learning rate"] == "0.002" and rows[-1]["epochs"] == "5"


def test_rates_that_each_fold_chose_are_told_fold_by_fold(record, tmp_path):
    changed = with_rates(record) | {"folds": 2}
    search = changed["rates"]
    search["choices"] = [
        choice | {"fold": f, "rate": choice["rate"] * (1 + f)} for choice in search["choices"] for f in (0, 1)
    ]
    second = [trial | {"fold": 1, "metrics": {"recall@5": 0.0}} for trial in search["trials"]]
    search["trials"] = [*(trial | {"fold": 0} for trial in search["trials"]), *second]
    folds = {}
    for entry in changed["cells"]:
        entry["fold"] = folds[entry["rank"]] = 1 - folds.get(entry["rank"], 1)
        entry["settings"] = {"train.lr": 0.008 / entry["rank"] * (1 + entry["fold"])}
    text = " ".join(text_of(write_sweep_page(changed, tmp_path)).split())
    assert "0.008 for rank 1 in fold 1, 0.016 for rank 1 in fold 2, 0.004 for rank 2 in fold 1" in text
    assert "of the first fold after a whole schedule" in text
    assert "rank 8 does with 0.441" in text, "the second fold's trials are another division's"
    table = value_table(SweepRecord.model_validate(changed))
    assert [row[1] for row in table.rows[1:]] == [f"{0.008 / rank:g} to {0.016 / rank:g}" for rank in LEVELS]


def test_values_that_are_no_numbers_have_rates_too(record, tmp_path):
    changed = with_rates(record) | {"beside": [], "comparisons": [], "over": {"train.clip_grad_norm": [1.0, None]}}
    changed |= {"statistics": None, "adapters": [], "forgetting": None, "pattern": None}
    changed["cells"] = [entry | {"values": {"train.clip_grad_norm": None}} for entry in changed["cells"][:1]]
    head = {"values": {"train.clip_grad_norm": None}}
    changed["rates"]["choices"] = [head | {"rate": 0.01}]
    changed["rates"]["trials"] = [trial | head for trial in changed["rates"]["trials"][:2]]
    assert "0.01 for clip_grad_norm null" in text_of(write_sweep_page(changed, tmp_path))


def test_the_page_compares_full_fine_tuning_and_ranks_by_layer(record, tmp_path):
    page = write_sweep_page(with_rates(record), tmp_path)
    text = " ".join(text_of(page).split())
    assert (
        "Full fine-tuning, beside rank 8: recall@5 0.800 [0.770, 0.830], +0.059 [+0.020, +0.100], credibly better "
        "(seeds 0, 1, 2)."
    ) in text
    assert (
        "at the cost of rank 4: recall@5 0.730 [0.700, 0.760], -0.005 [-0.030, +0.020], no credible difference" in text
    )
    assert "method full" in text and "^text_model" in text
    with (tmp_path / "tables" / "beside.csv").open(newline="", encoding="utf-8") as stream:
        assert [row["model"] for row in csv.DictReader(stream)] == ["method full", "rank_pattern as rank 4"]


def test_a_sweep_over_one_key_or_one_that_cannot_be_compared_has_no_map(record, tmp_path):
    write_sweep_page(record, tmp_path / "one")
    beyond = over_two_keys(record, [1, 2, 3], [1, 2]) | {"statistics": {"reason": "cells differ in data"}}
    write_sweep_page(beyond, tmp_path / "two")
    assert not list(tmp_path.rglob("heat_map.*"))


def cuts(*seeds: dict[int, tuple[float, float]]) -> list[AdapterRecord]:
    return [
        AdapterRecord.model_validate(
            {"seed": i, "rank": 16, "metric": "m", "layers": {}, "towers": {}}
            | {"truncated": [{"rank": k, "m": [0.5], "minus_trained": [0.0, *bounds]} for k, bounds in seed.items()]}
        )
        for i, seed in enumerate(seeds)
    ]


def test_whether_one_large_run_was_enough_is_said_from_the_paired_differences():
    worse, equal, better = (-0.2, -0.1), (-0.1, 0.1), (0.1, 0.2)
    assert "would have been enough: cut to any lower rank tried" in enough(cuts({1: equal, 4: equal, 16: equal}))
    assert "not have been enough: cut to rank 8" in enough(cuts({4: equal, 8: worse}))
    said = enough(cuts({1: worse, 4: equal, 8: better}, {1: equal, 4: better, 8: better}))
    assert "enough down to rank 4" in said and "Cut to rank 1, it is, at least with one seed." in said
    assert said.endswith("At rank 8 the cut one is even credibly better with any seed.")
    assert "No adapter of a lower rank" in enough(cuts({16: equal}))


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"{", "not JSON"), (b"[1]", "not a JSON object"), (b"\xff", "not JSON"), (b"[" * 100_000, "not JSON")],
)
def test_what_is_no_record_is_refused_with_its_file(tmp_path, content, says):
    (tmp_path / "sweep.json").write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        read_sweep(tmp_path / "sweep.json")
    assert caught.value.remedy and "sweep.json" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("cells",), 3),
        (("cells", 0, "metrics", "recall@5"), "high"),
        (("statistics", "values", 0, "mean"), [0.1, 0.2]),
        (("adapters", 0, "layers"), None),
        (("forgetting", "best_scale"), math.nan),
    ],
)
def test_a_record_of_other_types_is_refused_with_the_place(record, path, value, tmp_path):
    changed = copy.deepcopy(record)
    place = changed
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    (tmp_path / "sweep.json").write_text(json.dumps(changed))
    with pytest.raises(ConfigError, match=path[0]):
        read_sweep(tmp_path / "sweep.json")


def test_what_is_read_is_written_again_with_the_same_keys_also_of_an_earlier_version(record, tmp_path):
    """What this version does not know is kept, and what an earlier one did not tell is not made up."""
    changed = copy.deepcopy(record) | {"unknown": {"a": [1, None]}}
    pending = {"values": {"adapter.rank": 32}, "seed": 0, "name": "demo-rank32-seed0", "state": "pending"}
    changed["cells"].append(pending | {"message": None, "run": None, "path": None})
    (tmp_path / "sweep.json").write_text(json.dumps(changed))
    sweep = read_sweep(tmp_path / "sweep.json")
    write_record(tmp_path / "again.json", sweep)
    assert json.loads((tmp_path / "again.json").read_text()) == changed
    assert read_sweep(tmp_path / "again.json") == sweep


def test_the_page_fits_a_phone_and_a_desk_in_a_real_browser(record, tmp_path):
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if found is None:
        pytest.skip("no Chromium")
    page = write_sweep_page(record, tmp_path)
    for width in (390, 1280):
        wrapper = tmp_path / f"{width}.html"
        wrapper.write_text(
            f"""<!doctype html><meta charset=utf-8><body style="margin:0"><pre id=result>nothing</pre><script>
            function measure(frame) {{
              const page = frame.contentDocument, images = [...page.images];
              document.getElementById("result").textContent = JSON.stringify({{
                loaded: images.filter(i => i.naturalWidth > 0).length, images: images.length,
                widest: Math.max(...images.map(i => i.getBoundingClientRect().right)),
                overflow: page.documentElement.scrollWidth - frame.contentWindow.innerWidth}});
            }}</script><iframe onload="measure(this)" style="width:{width}px;height:900px;border:0"
            src="{page.name}"></iframe>""",
            encoding="utf-8",
        )
        flags = (
            "--headless --no-sandbox --disable-gpu --allow-file-access-from-files --virtual-time-budget=5000".split()
        )
        command = [found, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
        done = subprocess.run([*command, "--dump-dom", wrapper.as_uri()], capture_output=True, check=True, timeout=120)
        assert b"CONSOLE" not in done.stderr, done.stderr[-2000:]
        seen = json.loads(re.search(r'<pre id="result">(.*?)</pre>', done.stdout.decode())[1])
        assert seen["images"] == seen["loaded"] == 9
        assert seen["overflow"] <= 0 and seen["widest"] <= width


def without_gain(record: dict) -> dict:
    """No rank beats the base."""
    changed = copy.deepcopy(record)
    for value in changed["statistics"]["values"]:
        value["gain"] = [0.0, -0.05, 0.05]
    return changed


def test_rows_that_were_learned_from_are_called_so_and_nothing_is_better_on_them(record, tmp_path):
    record = copy.deepcopy(record) | {"forgetting": None, "adapters": []}
    record["data"] |= {"evaluated_on": "training"}
    page = write_sweep_page(record, tmp_path)
    text = text_of(page)
    assert "Training rows: Rank 4 is the smallest" in text and "says nothing of others" in text
    assert "440 training rows" in text and "recall@5 of the training rows by epoch" in text
    assert "embeddings of all training rows" in text and "held-out" not in text
    assert 'class="answer better"' not in page.read_text(encoding="utf-8")
    for name in ("metric", "validation"):
        assert "held-out" not in (tmp_path / "figures" / f"{name}.svg").read_text(encoding="utf-8")


def test_where_no_rank_beat_the_base_none_was_enough(record, tmp_path):
    said = text_of(write_sweep_page(without_gain(record), tmp_path))
    assert "cannot be told: no rank tried is credibly better than the base" in said
    assert "would have been enough:" not in said


def test_untrained_adapters_are_not_averaged_in(record, tmp_path):
    """Of three seeds one kept its start: its zeros are no directions, in words, figure and table of layers alike."""
    changed = copy.deepcopy(record)
    for layer in changed["adapters"][1]["layers"].values():
        layer |= {"singular_values": [0.0] * 16, "effective_rank": 0.0}
    for tower in changed["adapters"][1]["towers"].values():
        tower |= {"energy": [0.0] * 16, "effective_rank": 0.0, "norm": 0.0}
    sweep = SweepRecord.model_validate(changed)
    said = list(adapter_words(sweep))
    assert "With seed 1 no epoch beat the base" in said[1]
    held = np.cumsum(np.exp(-np.arange(16) * 0.6))
    most = int(np.searchsorted(held / held[-1], 0.9)) + 1
    assert f"first {most} of 16 directions" in said[2] and "effective rank 3.0" in said[2]
    assert {len(layers) for by_path in updates(sweep).values() for layers in by_path.values()} == {2}
    for adapter_ in changed["adapters"]:
        adapter_["layers"] = changed["adapters"][1]["layers"]
    write_sweep_page(changed, tmp_path)
    assert not (tmp_path / "figures" / "layer_ranks.svg").exists()


@pytest.mark.parametrize("ranks", [{"effective_rank": 1.3}, {}])
def test_a_task_without_a_space_is_neither_healthy_nor_ill(record, tmp_path, ranks):
    """Classifiers have an effective rank that may be small, masked language models none at all."""
    changed = copy.deepcopy(record) | {"adapters": [], "forgetting": None}
    for entry in changed["cells"]:
        entry |= {"has_space": False, "metrics": {"recall@5": 0.7} | ranks}
    text = text_of(write_sweep_page(changed, tmp_path))
    assert not any(word in text for word in ("collapsed", "not evaluated", "not healthy", "Health of the space"))
    assert not (tmp_path / "figures" / "effective_rank.svg").exists()


def test_one_rate_that_costs_nothing_is_said_to(record):
    changed = with_rates(record)
    for trial in changed["rates"]["trials"]:
        trial["metrics"]["recall@5"] = 0.6
    said = list(rate_words(SweepRecord.model_validate(changed)))
    assert said[-1] == "One rate for all (0.002; after 2 epochs, on validation rows) would have cost no rank anything."


def test_numbers_on_rows_that_chose_are_called_optimistic(record, tmp_path):
    changed = with_rates(record)
    changed["config"] = {"train": {"lr": 0.002, "early_stopping": None}, "eval": {"keep": "best"}}
    changed["data"]["split"] = "test"
    changed["statistics"]["chosen_on"] = "val"
    for value in changed["statistics"]["values"]:
        value["val"] = 0.9
    sweep = SweepRecord.model_validate(changed)
    picked = (
        "The validation rows picked the epoch, the learning rate and the best value: numbers on val are optimistic."
    )
    assert value_table(sweep).note.endswith(picked) and beside_table(sweep).note == picked
    assert terminal_table(sweep, sweep.compared).note == picked
    assert text_of(write_sweep_page(changed, tmp_path)).count("numbers on val are optimistic") == 2
    changed["data"]["split"], changed["statistics"]["chosen_on"], changed["rates"] = "val", None, None
    told = value_table(SweepRecord.model_validate(changed)).note
    assert told.endswith(
        "These rows also picked the epoch and the best value, so this is optimistic: no test rows are reported."
    )
    changed["config"]["eval"]["keep"] = "last"
    changed["statistics"]["values"] = changed["statistics"]["values"][:1]
    assert value_table(SweepRecord.model_validate(changed)).note == "", "a single value, as it was after the last epoch"


def test_one_value_with_one_seed_has_a_page_and_no_comparison_of_values(record, tmp_path):
    changed = copy.deepcopy(record) | {"seeds": [0], "adapters": [], "over": {"adapter.rank": [8]}}
    changed["cells"] = [entry for entry in changed["cells"] if (entry["rank"], entry["seed"]) == (8, 0)]
    found = changed["statistics"]
    changed["statistics"] = found | {
        "smallest_not_worse": found["best"],
        "seeds": [0],
        "values": [v for v in found["values"] if v["values"] == found["best"]],
    }
    text = " ".join(text_of(write_sweep_page(changed, tmp_path)).split())
    assert "one seed only" in text and "behind the best [" not in text and "hold at once" not in text
    assert "healthy in the only cell" in text and (tmp_path / "figures" / "metric.svg").is_file()


def test_of_folds_each_dot_is_a_cell_and_adapters_are_of_the_first(record, tmp_path):
    changed = copy.deepcopy(record) | {"folds": 3, "seeds": [0]}
    for entry in changed["cells"]:
        entry["fold"], entry["seed"] = entry["seed"], 0
    for entry in changed["adapters"]:
        entry["seed"] = 0
    changed["adapters"] = changed["adapters"][:1]
    changed["statistics"]["seeds"] = [0]
    sweep = SweepRecord.model_validate(changed)
    plates = {plate.name: plate for plate in sweep_plates(sweep, title="")}
    assert (
        "seed" not in plates["costs"].caption and "Adapters of rank 16, first fold" in plates["singular_values"].caption
    )
    legend = [text.get_text() for text in plates["metric"].figure.axes[0].get_legend().get_texts()]
    assert not any("seed" in text for text in legend)
    page = write_sweep_page(changed, tmp_path)
    with (tmp_path / "tables" / "curves.csv").open(newline="", encoding="utf-8") as stream:
        assert {(row["rank"], row["fold"]) for row in csv.DictReader(stream)} == {
            (str(rank), str(fold)) for rank in LEVELS for fold in range(3)
        }
    assert page.is_file()


def test_where_every_cell_failed_the_page_says_so(record, tmp_path):
    head = ("values", "seed", "name")
    cells = [{key: cell[key] for key in head} | {"state": "failed", "message": "no"} for cell in record["cells"]]
    empty = {"state": "failed", "cells": cells, "statistics": None, "adapters": [], "forgetting": None, "timing": None}
    text = text_of(write_sweep_page(record | empty, tmp_path))
    assert "every cell failed." in text and "0 of 15 cells are done (the sweep failed)" in text
    assert "5 more cells failed; see the table of cells" in text


def test_metrics_below_zero_are_told_of_rates_too(record):
    """Such as a rank correlation."""
    changed = with_rates(record)
    for trial in changed["rates"]["trials"]:
        trial["metrics"]["recall@5"] -= 1.0
    said = list(rate_words(SweepRecord.model_validate(changed)))
    assert "with -0.559" in said[-1] and "0.000" not in said[-1]


def test_tables_say_which_end_is_better(record, tmp_path):
    assert "recall@5 ↑ [95%]" in text_of(write_sweep_page(record, tmp_path))
