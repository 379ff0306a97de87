"""What a sweep leaves at its end: a page, and a run of its own at Weights & Biases, told once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_runs import vu
from tests.tracking.conftest import WELL_FORMED_KEY, lonely_wandb  # noqa: F401  (fixture)
from tests.tracking.server import serving
from tests.tracking.wandb_file import WandbFile, read_wandb
from vectoruniverse.report.sweep.record import SweepRecord
from vectoruniverse.runs.files import read_record, write_record
from vectoruniverse.runs.folder import Run
from vectoruniverse.sweep.grid import Over, make_grid
from vectoruniverse.sweep.published import Published, publish
from vectoruniverse.sweep.runner import run_sweep
from vectoruniverse.terminal import Display

pytestmark = pytest.mark.usefixtures("lonely_wandb")

TRAIN = {"epochs": 1, "batch_size": 8, "lr": 0.01, "precision": "fp32", "device": "cpu"}


class Told(Display):
    """Keeps the warnings."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def ranks(file, *values, runs, display=None, full=False):
    grid = make_grid(file, [], [Over("adapter.rank", values)], (0,), "auto", full=full)
    return run_sweep(grid, runs_dir=runs, out=None, display=display or Told())


def table_of(file: WandbFile) -> list[dict[str, object]]:
    entry = next(e for e in file.artifact(f"run-{file.header().run_id}-cells").manifest.contents)
    content = json.loads(Path(entry.local_path).read_text(encoding="utf-8"))
    return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def set_aside(file: WandbFile) -> None:
    """Give an offline folder an earlier time, since two of one second have one name."""
    file.folder.rename(file.folder.with_name(f"offline-run-20000101_000000-{file.header().run_id}"))


def test_a_sweep_is_a_run_of_its_own_beside_its_cells_told_again_only_with_new_cells(config, tmp_path):
    file = config(train=TRAIN, wandb={"mode": "offline", "project": "planets", "tags": ["x"]}, eval={"report": True})
    display = Told()
    found = ranks(file, 1, 2, runs=tmp_path / "runs", display=display)
    folder, name = found.folder.path, found.folder.name
    first = read_wandb(folder)
    header = first.header()
    assert (header.run_id, header.display_name, header.job_type, header.run_group) == (name, name, "sweep", name)
    assert (header.project, list(header.tags)) == ("planets", ["x"])
    assert first.config()["sweep"]["over"] == {"adapter.rank": [1, 2]} and first.config()["train"]["lr"] == 0.01
    cell = read_wandb(tmp_path / "runs" / found.record.cells[0].run).header()
    assert (cell.run_group, cell.job_type) == (name, "")

    for row, entry in zip(table_of(first), found.record.cells, strict=True):
        evaluation = Run(tmp_path / "runs" / entry.run).read_evaluation()
        assert (row["adapter.rank"], row["seed"], row["state"]) == (entry.values["adapter.rank"], 0, "finished")
        assert row["recall@5"] == entry.metrics["recall@5"] and row["seconds"] == entry.seconds
        assert row["base"] == pytest.approx(evaluation.base["recall@5"])
        assert row["difference"] == pytest.approx(evaluation.adapted["recall@5"] - evaluation.base["recall@5"])
        assert (row["trained parameters"], row["run"]) == (entry.trained_parameters, entry.run)
    summary, statistics = first.summary(), found.record.statistics
    assert summary["answer_in_full"] == statistics.answer
    assert statistics.answer.lower().startswith(summary["answer"].lower())
    assert summary["smallest_not_worse/adapter.rank"] == statistics.smallest_not_worse["adapter.rank"]
    drawn = {path.stem: path for path in (folder / "figures").glob("*.png")}
    logged = {key: first.points(f"figures/{key}") for key in drawn}
    assert {"metric", "plane"} <= drawn.keys()
    assert all(len(points) == 1 and points[0][0] == 2 for points in logged.values())
    assert (first.folder / "files" / logged["metric"][0][1]["path"]).read_bytes() == drawn["metric"].read_bytes()
    assert first.of_kind("exit")[0].exit_code == 0 and display.warnings == []

    set_aside(first)
    written = (folder / "report.html").stat().st_mtime_ns
    ranks(file, 1, 2, runs=tmp_path / "runs")
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1, "nothing new, nothing told"
    assert (folder / "report.html").stat().st_mtime_ns == written

    ranks(file, 4, runs=tmp_path / "runs")
    again = read_wandb(folder)
    assert again.header().run_id == name and not again.header().resume, "or it would be added to what the server has"
    assert [row["adapter.rank"] for row in table_of(again)] == [1, 2, 4]
    assert [step for step, _ in again.points("cells")] == [3]
    assert (folder / "report.html").stat().st_mtime_ns > written


def test_a_failed_cell_is_in_the_table_and_values_of_any_kind_are_shown(config, tmp_path):
    from vectoruniverse.sweep.grid import parse_over

    file = config(train=TRAIN, wandb={"mode": "offline"}, eval={"report": False})
    grid = make_grid(file, [], [parse_over("adapter.text_targets=[q_proj],[=nothing]")], (0,))
    found = run_sweep(grid, runs_dir=tmp_path / "runs", out=None, display=Told())
    told = read_wandb(found.folder.path)
    rows = {row["state"]: row for row in table_of(told)}
    assert {state: row["adapter.text_targets"] for state, row in rows.items()} == {
        "failed": '["=nothing"]', "finished": '["q_proj"]'
    }  # fmt: skip
    assert rows["failed"]["recall@5"] is None and "=nothing" in rows["failed"]["message"]
    assert told.of_kind("exit")[0].exit_code == 1
    assert not [key for row in told.history() for key in row if key.startswith("figures")]


@pytest.fixture
def silent(config, tmp_path):
    """A finished sweep that told nobody: no page, wandb disabled."""
    file = config(train=TRAIN, wandb={"mode": "disabled"})
    found = ranks(file, 1, 2, runs=tmp_path / "runs")
    assert not [cell.message for cell in found.record.failed]
    assert not (found.folder.path / "wandb").exists() and not (found.folder.path / "report.html").exists()
    assert not (found.folder.path / "published.json").exists()
    return found


def as_if(record, *, done=2, **sections):
    """The record with other settings, and with some cells not yet done."""
    changed = record.model_dump(mode="json")
    for section, settings in sections.items():
        changed["config"][section] |= settings
    for cell in changed["cells"][done:]:
        cell["state"] = "pending"
    return SweepRecord.model_validate(changed)


def test_online_the_same_run_goes_on_and_only_what_is_new_is_told(silent, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", WELL_FORMED_KEY)
    display = Told()
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        for done, expected in [(1, [1]), (1, [1]), (2, [1, 2]), (2, [1, 2])]:
            asked = len(server.operations)
            is_new = len(server.points("cells")) < len(expected)
            publish(silent.folder, as_if(silent.record, done=done, wandb={"mode": "online"}), display)
            wandb.teardown()
            assert display.warnings == []
            assert [step for step, _ in server.points("cells")] == expected
            assert (len(server.operations) > asked) == is_new, "nothing new, nothing asked"
        assert len(server.committed) == 2, "a table each time"
    folders = list(silent.folder.path.glob("wandb/run-*"))
    assert len(folders) == 2 and all(folder.name.endswith(f"-{silent.folder.name}") for folder in folders)


def test_what_failed_is_told_and_made_up_for_by_the_next_call(silent, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", WELL_FORMED_KEY)
    record, display = as_if(silent.record, eval={"report": True}, wandb={"mode": "offline"}), Told()
    (silent.folder.path / "figures").write_text("in the way", encoding="utf-8")
    monkeypatch.setattr("vectoruniverse.tracking.wandb_sweep.WandbSweepTracker.log_figures", lambda *_: 1 / 0)
    monkeypatch.setattr("vectoruniverse.tracking.wandb_sweep._log_table", lambda *_: 1 / 0)
    publish(silent.folder, record, display)
    page, table = display.warnings
    assert "page" in page and "figures" in page
    assert "the table of cells (division by zero)" in table
    assert not (silent.folder.path / "published.json").exists()

    monkeypatch.undo()
    (silent.folder.path / "figures").unlink()
    set_aside(read_wandb(silent.folder.path))
    publish(silent.folder, record, display)
    assert len(display.warnings) == 2
    assert json.loads((silent.folder.path / "published.json").read_text()).keys() == {"page", "wandb run"}
    memory = read_record(silent.folder.path / "published.json", Published)
    write_record(silent.folder.path / "again.json", memory)
    assert memory.page == memory.wandb_run and read_record(silent.folder.path / "again.json", Published) == memory
    assert read_wandb(silent.folder.path).points("figures/metric")


def test_a_damaged_memory_is_no_memory(silent):
    display = Told()
    for text in ("[1]", "{", "[" * 100_000):
        (silent.folder.path / "published.json").write_text(text, encoding="utf-8")
        publish(silent.folder, silent.record, display)
    assert display.warnings == []


def test_vu_sync_uploads_a_sweep_with_its_cells_once(config, tmp_path, monkeypatch):
    file = config(train=TRAIN | {"epochs": 0}, wandb={"mode": "offline"}, eval={"report": False})
    found = ranks(file, 1, 2, runs=tmp_path / "runs", full=True)
    read_wandb(found.folder.path)
    monkeypatch.setenv("WANDB_API_KEY", WELL_FORMED_KEY)
    names = [*(cell.run for cell in (*found.record.cells, *found.record.beside)), found.folder.name]
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        done = vu("sync", found.folder.name, "--runs-dir", "runs", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert [line.partition(": uploaded")[0] for line in done.stdout.splitlines()] == names
        assert [step for step, _ in server.points("cells")] == [2]
        again = vu("sync", str(found.folder.path), cwd=tmp_path)
        assert again.stdout.splitlines() == [f"{name}: already uploaded" for name in names]


def test_vu_sync_of_a_sweep_that_told_nobody(silent, tmp_path):
    done = vu("sync", str(silent.folder.path), cwd=tmp_path)
    assert done.returncode == 2 and "nothing to upload" in done.stderr
