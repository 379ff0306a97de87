from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.test_runs import vu
from vectoruniverse.errors import ConfigError
from vectoruniverse.evaluation.runs import compare_runs, flatten
from vectoruniverse.metrics.intervals import difference_interval, intervals_at_once, mean_interval
from vectoruniverse.report.comparison import answer, config_table, difference_table, metric_table, write_compare_page
from vectoruniverse.runs.base_record import BaseRecord

HOSTILE = "</style><script>1</script>"


def make_run(
    runs: Path,
    name: str,
    hits: np.ndarray | None,
    *,
    config: str = "train:\n  lr: 0.1\n",
    data: str = "abc",
    drawn: np.ndarray | None = None,
) -> None:
    """A run folder as training leaves it, of which only the read parts are real."""
    folder = runs / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"name: {name}\n{config}", encoding="utf-8")
    (folder / "state.json").write_text(json.dumps({"state": "finished", "seconds": 12.5}))
    lines = [{"step": s, "train/loss": 2.0 - s / 1000} for s in range(500)]
    lines += [{"step": 50 * e, "epoch": e, "val/recall@5": 0.1 * e} for e in range(3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if hits is None:
        return
    units = np.arange(len(hits)) if drawn is None else drawn
    bounds = mean_interval(hits, groups=units)
    record = {
        "rows": len(hits),
        "split": "val",
        "data": data,
        "monitor": "recall@5",
        "best_epoch": 2,
        "base": {},
        "adapted": {"recall@5": bounds.estimate, "effective_rank": 9.0},
        "trained_parameters": 7,
        "intervals": {"recall@5": {"adapted": [bounds.low, bounds.high]}},
    }
    (folder / "evaluation.json").write_text(json.dumps(record))
    rows = {f"{model}/recall@5": hits.astype(np.float32) for model in ("base", "adapted")}
    save_file({**rows, "drawn": units.astype(np.int64)}, folder / "per_query.safetensors")


def hits(share: float, seed: int = 0, rows: int = 200) -> np.ndarray:
    return (np.random.default_rng(seed).random(rows) < share).astype(float)


def test_differences_are_the_paired_intervals_over_the_groups(tmp_path):
    before, after, groups = hits(0.3), hits(0.6, 1), np.arange(200) // 4
    make_run(tmp_path, "one", before, drawn=groups)
    make_run(tmp_path, "two", after, drawn=groups, config="train:\n  lr: 0.2\n  epochs: 3\n")
    record = compare_runs(["one", "two"], runs_dir=tmp_path)
    gap = difference_interval(before, after, groups=groups)
    assert record["differences"] == {"two": {"recall@5": pytest.approx([gap.estimate, gap.low, gap.high])}}
    assert record["no_differences"] == {}
    assert record["metrics"]["recall@5"]["one"][0] == pytest.approx(before.mean())
    assert record["metrics"]["effective_rank"] == {"one": [9.0, None, None], "two": [9.0, None, None]}
    assert record["config"] == {
        "train.lr": {"one": 0.1, "two": 0.2},
        "train.epochs": {"two": 3},
    }
    assert record["validation"]["one"] == [[0.0, 0.0], [1.0, pytest.approx(0.1)], [2.0, pytest.approx(0.2)]]
    assert len(record["loss"]["one"]) == 200
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert answer(record).headline == "B is credibly better than A in recall@5"
    assert ("train.epochs", "not set", "3") in config_table(record).rows


def test_the_answer_says_what_was_drawn(tmp_path):
    for name, groups in (("one", np.arange(200) // 4), ("two", np.arange(200) // 4)):
        make_run(tmp_path, name, hits(0.5), drawn=groups)
    assert "paired over the same rows;" in answer(compare_runs(["one", "two"], runs_dir=tmp_path)).detail
    for file in tmp_path.glob("*/evaluation.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"intervals_drawn_by": "Studio"}))
    said = answer(compare_runs(["one", "two"], runs_dir=tmp_path)).detail
    assert "paired over the same groups of rows with the same Studio;" in said


def test_differences_of_several_runs_hold_at_once_and_the_page_says_so(tmp_path):
    shares = {"one": 0.5, "two": 0.6, "three": 0.8}
    rows = {name: hits(share, seed) for seed, (name, share) in enumerate(shares.items())}
    for name, one in rows.items():
        make_run(tmp_path / "runs", name, one, drawn=np.arange(200) // 4)
    record = compare_runs(list(rows), runs_dir=tmp_path / "runs")
    gaps = intervals_at_once([rows[name] - rows["one"] for name in ("two", "three")], np.arange(200) // 4)
    for name, gap in zip(("two", "three"), gaps, strict=True):
        assert record["differences"][name]["recall@5"] == pytest.approx(list(gap))
    held = "The intervals of the 2 differences in a metric hold at once"
    assert held in difference_table(record).note and held in answer(record).detail
    write_compare_page(record, tmp_path / "page.html")
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert source.index("</table>", source.index('id="differences"')) < source.rindex(held)
    two = compare_runs(["one", "two"], runs_dir=tmp_path / "runs")
    assert difference_table(two).note == "" and "at once" not in answer(two).detail


def test_bases_have_columns_of_their_own_one_where_all_set_out_from_the_same(tmp_path):
    for name, base in (("one", 0.1), ("two", 0.1), ("three", 0.2)):
        make_run(tmp_path, name, hits(0.5))
        file = tmp_path / name / "evaluation.json"
        told = json.loads(file.read_text()) | {"base": {"recall@5": base}}
        told["intervals"]["recall@5"]["base"] = [base - 0.05, base + 0.05]
        file.write_text(json.dumps(told))
    same, three = (metric_table(compare_runs(names, runs_dir=tmp_path)) for names in (["one", "two"], ["two", "three"]))
    assert same.columns == ("metric", "base", "A", "B")
    assert same.rows[0][:2] == ("recall@5, mean of both ↑", "0.100 [0.050,\N{NO-BREAK SPACE}0.150]")
    assert three.columns == ("metric", "base of A", "base of B", "A", "B")
    assert three.rows[0][2].startswith("0.200")


def test_an_alpha_that_is_not_given_is_told_as_the_rank_that_it_stands_for(tmp_path):
    adapter = "adapter:\n  method: lora\n  rank: {0}\n  alpha: {1}\n"
    for name, rank, alpha in (("one", 6, "null"), ("two", 6, "6.0"), ("three", 3, "6.0")):
        make_run(tmp_path, name, hits(0.5), config=adapter.format(rank, alpha))
    assert compare_runs(["one", "two"], runs_dir=tmp_path)["config"] == {}
    assert compare_runs(["one", "three"], runs_dir=tmp_path)["config"] == {"adapter.rank": {"one": 6, "three": 3}}


def test_settings_that_change_no_result_are_not_told_as_differences(tmp_path):
    noise = "wandb:\n  group: {0}\ntensorboard: {1}\neval:\n  report: {1}\n  batch_size: 6{2}\n"
    noise += "train:\n  device: {0}\n  lr: 0.{2}\n"
    make_run(tmp_path, "one", hits(0.5), config=noise.format("a", "true", 1))
    make_run(tmp_path, "two", hits(0.5), config=noise.format("b", "false", 2))
    assert compare_runs(["one", "two"], runs_dir=tmp_path)["config"] == {"train.lr": {"one": 0.1, "two": 0.2}}


def test_bases_are_told_apart_by_what_they_are_and_not_by_their_names(tmp_path):
    def bases(*records):
        for number, record in enumerate(records):
            config = f"model: {record.model}\nrevision: r{number}\n"
            make_run(tmp_path / f"{len(records)}", f"run{number}", hits(0.5), config=config)
            (tmp_path / f"{len(records)}" / f"run{number}" / "base.json").write_text(record.model_dump_json())
        names = [f"run{number}" for number in range(len(records))]
        return compare_runs(names, runs_dir=tmp_path / f"{len(records)}")["config"]

    here, moved, other = ({"a.safetensors": content * 64} for content in "112")
    assert bases(BaseRecord(model="a/here", files=here), BaseRecord(model="b/moved", files=moved)) == {}
    found = bases(*(BaseRecord(model="a/here", files=files) for files in (here, moved, other)))
    assert found == {"model": {"run0": "a/here", "run1": "a/here", "run2": "a/here: a.safetensors differs"}}


def test_what_had_changed_since_the_run_before_is_told(tmp_path):
    make_run(tmp_path, "one", hits(0.5))
    make_run(tmp_path, "two", hits(0.5))
    record = BaseRecord(model=None, earlier="one", changes=["train.lr 0.1 → 0.2", "1 row added (x)"])
    (tmp_path / "two" / "base.json").write_text(record.model_dump_json())
    found = compare_runs(["one", "two"], runs_dir=tmp_path)
    assert [run["since"] for run in found["runs"]] == [None, "since one: train.lr 0.1 → 0.2, 1 row added (x)"]
    write_compare_page(found, tmp_path / "page.html")
    assert "B, since one: train.lr 0.1 → 0.2, 1 row added (x)" in (tmp_path / "page.html").read_text(encoding="utf-8")
    done = vu("compare", "one", "two", "--runs-dir", str(tmp_path))
    assert done.returncode == 0 and "B, since one: train.lr 0.1 → 0.2" in done.stdout


def test_other_data_gives_no_differences_and_says_so(tmp_path):
    make_run(tmp_path, "one", hits(0.3))
    make_run(tmp_path, "two", hits(0.9), data="other")
    make_run(tmp_path, "three", None)
    make_run(tmp_path, "four", hits(0.1))
    (tmp_path / "four" / "per_query.safetensors").write_bytes(b"damaged")
    record = compare_runs(["one", "two", "three", "four"], runs_dir=tmp_path)
    assert record["differences"] == {} and difference_table(record).rows == []
    assert "other data" in record["no_differences"]["two"]
    assert "three has not been evaluated yet" in record["no_differences"]["three"]
    assert "missing or damaged" in record["no_differences"]["four"]
    said = answer(record)
    assert said.outcome == "unclear" and "B: evaluated on other data" in said.detail
    assert metric_table(record).rows[0][3] == ""


def test_the_same_outcomes_are_no_credible_difference(tmp_path):
    for name in ("one", "two"):
        make_run(tmp_path, name, hits(0.5))
    said = answer(compare_runs(["one", "two"], runs_dir=tmp_path))
    assert (said.outcome, said.headline) == ("unclear", "No credible difference from A in recall@5")


def test_the_page_holds_tables_figures_and_nothing_that_acts(tmp_path):
    make_run(tmp_path / "runs", "one", hits(0.6))
    make_run(tmp_path / "runs", "two", hits(0.2, 1), config=f"text: '{HOSTILE}'\nformula: '=1+1'\n")
    record = compare_runs(["one", "two"], runs_dir=tmp_path / "runs")
    write_compare_page(record, tmp_path / "page.html")
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in source and "&lt;script&gt;" in source
    assert "B is credibly worse than A in recall@5" in source
    places = [
        source.index(f'id="{name}"') for name in ("answer", "reached", "config", "differences", "curves", "metrics")
    ]
    assert places == sorted(places)
    assert {file.stem for file in (tmp_path / "page" / "figures").iterdir()} == {
        "reached",
        "difference",
        "validation",
        "loss",
    }
    with (tmp_path / "page" / "tables" / "differences.csv").open(newline="", encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["metric"], row["run"]) == ("recall@5", "two") and float(row["high"]) < 0
    assert re.search(r"formula,two,'=1\+1", (tmp_path / "page" / "tables" / "config.csv").read_text())


def test_mistakes_are_told(tmp_path):
    make_run(tmp_path, "one", hits(0.5))
    make_run(tmp_path, "two", hits(0.5))
    for references, says in (
        (["one"], "2 to 26"),
        (["one", "one"], "given twice"),
        (["one", "nothing"], "no run is called"),
    ):
        with pytest.raises(ConfigError, match=says) as caught:
            compare_runs(references, runs_dir=tmp_path)
        assert caught.value.remedy
    (tmp_path / "two" / "evaluation.json").write_text('{"rows": "many"}')
    with pytest.raises(ConfigError, match=r"evaluation\.json"):
        compare_runs(["one", "two"], runs_dir=tmp_path)
    (tmp_path / "two" / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        compare_runs(["one", "two"], runs_dir=tmp_path)


def test_settings_are_told_by_dotted_key():
    assert flatten({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [1, 2], "e": {}}
