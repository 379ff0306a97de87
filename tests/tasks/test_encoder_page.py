from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tasks.test_compare_encoders import FIRST, SECOND, evaluated
from vectoruniverse.errors import ConfigError
from vectoruniverse.report.figures.album import Plate
from vectoruniverse.tasks.text_pairs.encoders import answer, compare_encoders
from vectoruniverse.tasks.text_pairs.figures import Scored, cosine_histograms
from vectoruniverse.tasks.text_pairs.page import (
    difference_table,
    encoder_table,
    missed_table,
    space_table,
    write_encoder_page,
)

HOSTILE = "<script>document.title = 'pwned'</script>"


def compared(first=FIRST, second=SECOND):
    found = {name: evaluated(noise, first=first, second=second) for name, noise in (("far", 2.0), ("가까운", 0.3))}
    return compare_encoders(found, first, second)


def plate(comparison) -> Plate:
    names = ("pair_cosine", "row_uniformity", "column_uniformity")
    scored = {name: Scored(*(one.per_query[key] for key in names)) for name, one in comparison.found.items()}
    return Plate("pair_cosines", "Cosines of the pairs", "health", "a caption", cosine_histograms(scored))


def write(folder: Path, comparison, **settings) -> str:
    given = {"title": "pairs", "plates": [plate(comparison)], "facts": {"pairs": "60"}}
    write_encoder_page(folder / "encoders.html", comparison, **(given | settings))
    return (folder / "encoders.html").read_text(encoding="utf-8")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_a_row_for_each_encoder_and_its_metrics():
    comparison = compared()
    table = encoder_table(comparison)
    assert [row[0] for row in table.rows] == ["가까운", "far"]
    far = dict(zip(table.columns, table.rows[1], strict=True))
    metrics, interval = comparison.found["far"].metrics, comparison.reached["far"]
    (reached,) = (value for column, value in far.items() if column.startswith("recall@1"))
    numbers = [metrics["recall@1"] * 100, interval.low * 100, interval.high * 100]
    assert reached.replace("\N{NO-BREAK SPACE}", " ") == "{:.1f} % [{:.1f}, {:.1f}]".format(*numbers)
    assert far["cosine"] == f"{metrics['pair_cosine_clipped']:.3f}"
    assert far["row score"] == f"×{metrics['row_uniformity'] * 60:.2f}"
    assert far["median rank"] == f"{metrics['median_rank']:,.1f}"
    assert {"recall@5", "MRR", "column score"} <= far.keys()


def test_the_other_tables_hold_the_space_and_the_differences():
    comparison = compared()
    space = space_table(comparison)
    row = dict(zip(space.columns, space.rows[0], strict=True))
    metrics = comparison.found["가까운"].metrics
    assert row["uniformity, second"] == f"{metrics['second/uniformity']:.2f}"
    assert row["effective rank"] == f"{metrics['effective_rank']:.1f}"
    (differences,) = difference_table(comparison).rows
    gaps = comparison.differences["far"]
    assert differences[0] == "far"
    assert differences[1].startswith(f"{gaps['recall@1'].estimate * 100:+.2f} [")
    assert differences[3].startswith(f"{gaps['row_uniformity'].estimate * 60:+.2f} [")


def test_missed_pairs_are_told_by_their_texts():
    rows = missed_table(compare_encoders({"far": evaluated(2.0)}, FIRST, SECOND)).rows
    assert rows and all(first.split()[1] == second.split()[1] for first, second, *_ in rows)
    assert all(instead in SECOND and instead != second for _, second, forth, *_, instead in rows if forth != "1")


def test_the_page_begins_with_the_answer_and_stands_alone(tmp_path):
    comparison = compared()
    source = write(tmp_path, comparison)
    said = answer(comparison)
    parts = [said.headline, "<table>", 'id="health"', 'id="pair_cosines"', 'id="differences"', 'id="metrics"']
    places = [source.index(part) for part in parts]
    assert places == sorted(places)
    assert "://" not in source and "<script" not in source
    names = {path.name for path in (tmp_path / "encoders" / "figures").iterdir()}
    assert names == {"pair_cosines.png", "pair_cosines.svg"}


def test_tables_hold_every_metric_every_difference_and_every_pair(tmp_path):
    comparison = compared()
    write(tmp_path, comparison)
    tables = tmp_path / "encoders" / "tables"
    for row, (name, one) in zip(read(tables / "encoders.csv"), comparison.found.items(), strict=True):
        assert row["encoder"] == name
        assert {key: float(row[key]) for key in one.metrics} == dict(one.metrics)
    gap = read(tables / "differences.csv")[1]
    assert (gap["metric"], gap["best"], gap["encoder"]) == ("mrr", "가까운", "far")
    assert float(gap["difference"]) == comparison.differences["far"]["mrr"].estimate
    pairs = read(tables / "pairs.csv")
    assert len(pairs) == 120
    assert (pairs[63]["encoder"], pairs[63]["pair"], pairs[63]["second"]) == ("far", "3", SECOND[3])
    far = comparison.found["far"]
    assert int(pairs[63]["second_to_first/rank"]) == far.ranks["second_to_first"][3]
    assert float(pairs[63]["row_uniformity"]) == far.per_query["row_uniformity"][3]


def test_texts_and_names_are_inert(tmp_path):
    first = [HOSTILE if i % 2 else f"=cmd {i}" for i in range(60)]
    source = write(tmp_path, compared(first=first), title=HOSTILE, facts={HOSTILE: HOSTILE}, warnings=[HOSTILE])
    assert "<script" not in source and "&lt;script" in source
    assert read(tmp_path / "encoders" / "tables" / "pairs.csv")[0]["first"] == "'=cmd 0"


def test_an_encoder_that_finds_every_partner_and_one_alone_have_a_page(tmp_path):
    source = write(tmp_path, compare_encoders({"perfect": evaluated(0.0)}, FIRST, SECOND))
    assert "None: every partner comes first, both ways." in source
    assert 'id="differences"' not in source
    assert read(tmp_path / "encoders" / "tables" / "differences.csv") == []


def test_texts_that_are_like_none_are_told_before_the_answer(tmp_path):
    found = {"a": evaluated(0.3), "b": evaluated(0.5)}
    found["b"] = type(found["b"])({**found["b"].metrics, "empty_rows": 3.0}, *[found["b"].per_query, found["b"].ranks])
    source = write(tmp_path, compare_encoders(found, FIRST, SECOND))
    assert source.index("b: 3 first and 0 second texts") < source.index('id="answer"')


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "encoders").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        write(tmp_path, compared())


def test_a_browser_shows_the_page_without_a_complaint(tmp_path):
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    write(tmp_path, compared(first=[HOSTILE, *FIRST[1:]]))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    profile, page = f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "encoders.html").as_uri()
    done = subprocess.run([found, *flags, profile, "--dump-dom", page], capture_output=True, check=True, timeout=120)
    dom, log = done.stdout.decode(), done.stderr.decode(errors="replace")
    assert "<title>pairs</title>" in dom and 'id="pair_cosines"' in dom
    assert "CONSOLE" not in log
