"""Several trackers are one, and what fails in one touches no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vectoruniverse.tracking.contract import DataSet, Retrieval, Status, Tracker, Trackers, Value
from vectoruniverse.tracking.jsonl import JsonlTracker, read_metrics


class BrokenTracker(Tracker):
    def log(self, step: int, values: dict[str, Value]) -> None:
        raise OSError("no space")

    def summary(self, values: dict[str, Value]) -> None:
        raise OSError("no space")

    def finish(self, status: Status) -> None:
        raise OSError("no space")


def test_the_failure_of_one_tracker_is_told_once_and_touches_no_other(tmp_path: Path) -> None:
    warnings: list[str] = []
    trackers = Trackers([BrokenTracker(), JsonlTracker(tmp_path / "metrics.jsonl")], warnings.append)
    for step in range(3):
        trackers.log(step, {"loss": 1.0})
    trackers.each(lambda tracker: tracker.summary({"best": 1.0}))
    trackers.finish("finished")
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2]
    assert len(warnings) == 1
    assert "no space" in warnings[0]


class AlbumTracker(BrokenTracker):
    """Takes pictures and files, and nothing else."""

    def __init__(self) -> None:
        self.taken: list[object] = []

    def log_figures(self, step: int, figures: Mapping[str, Path]) -> None:
        self.taken.append((step, figures))

    def log_retrievals(self, step: int, retrievals: Sequence[Retrieval]) -> None:
        self.taken.append((step, retrievals))

    def log_adapter(
        self, folder: Path, metadata: Mapping[str, object], data: DataSet, aliases: Sequence[str] = ()
    ) -> None:
        self.taken.append((folder, metadata, data, aliases))


def test_pictures_and_files_go_to_those_that_take_them(tmp_path: Path) -> None:
    album, lines, warnings = AlbumTracker(), JsonlTracker(tmp_path / "metrics.jsonl"), []
    trackers = Trackers([lines, album], warnings.append)
    data = DataSet("emoji", "f00d", 32)

    def tell(tracker: Tracker) -> None:
        tracker.log_figures(3, {"spectrum": tmp_path})
        tracker.log_retrievals(4, [])
        tracker.log_adapter(tmp_path, {"rank": 8}, data, aliases=["latest"])

    trackers.each(tell)
    assert album.taken == [(3, {"spectrum": tmp_path}), (4, []), (tmp_path, {"rank": 8}, data, ["latest"])]
    assert warnings == []
    trackers.finish("finished")
    assert len(warnings) == 1
