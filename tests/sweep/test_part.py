"""Parts of a sweep, as the elements of a job array train them."""

from __future__ import annotations

import pytest

from tests.sweep.test_ray import facts
from vectoruniverse.errors import ConfigError
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.sweep.grid import Over, make_grid
from vectoruniverse.sweep.part import Part, run_part
from vectoruniverse.sweep.runner import run_sweep
from vectoruniverse.terminal import Display


def grid_of(file, *overrides, rates=None):
    return make_grid(file, overrides, [Over("adapter.rank", (1, 2))], (0,), "auto", rates=rates, full=True)


def test_parts_train_every_cell_once_and_the_whole_sweep_finds_them_done(config, tmp_path):
    file, quiet = config(), Display(quiet=True)
    alone = run_sweep(grid_of(file), runs_dir=tmp_path / "alone", out=None, display=quiet).record
    runs = tmp_path / "runs"
    for number, trained in enumerate((2, 1)):
        cells = run_part(grid_of(file), Part(number, 2), runs_dir=runs, out=None, display=quiet)
        assert [cell.state for cell in cells] == ["finished"] * trained
    assert len(list_runs(runs)) == 3 and not list(runs.glob("*-sweep-*/sweep.json"))
    whole = run_sweep(grid_of(file), runs_dir=runs, out=None, display=quiet).record
    assert facts(whole.model_dump()) == facts(alone.model_dump())
    assert whole.timing is None, "nothing was trained again"


def test_parts_cover_all_cells_without_overlap():
    cells = list(range(10))
    parts = [Part(number, 4).of(cells) for number in range(4)]
    assert sorted(one for part in parts for one in part) == cells and {len(part) for part in parts} == {2, 3}


@pytest.mark.parametrize(
    ("text", "says"), [("8", "NUMBER/COUNT"), ("-1/2", "NUMBER/COUNT"), ("2/2", "no part 2/2"), ("0/0", "no part 0/0")]
)
def test_a_part_that_is_none_is_refused(text, says):
    with pytest.raises(ConfigError, match=says):
        Part.parse(text)
    assert Part.parse("1/2") == Part(1, 2)


def test_what_parts_would_decide_differently_has_to_be_named(config, tmp_path):
    for grid, says in [
        (grid_of(config(), rates="auto"), "from the trials of all parts"),
        (grid_of(config(), "train.precision=auto"), "parts have to agree"),
    ]:
        with pytest.raises(ConfigError, match=says) as refused:
            run_part(grid, Part(0, 2), runs_dir=tmp_path / "runs", out=None, display=Display(quiet=True))
        assert refused.value.remedy and not (tmp_path / "runs").exists()
