"""What a tracker is and takes, and several of them as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Value = float | int | str
Status = Literal["finished", "failed", "interrupted"]
Direction = Literal["image_to_text", "text_to_image"]


@dataclass(frozen=True, slots=True)
class Found:
    """One of a query's answers: its text and picture (S, S, 3), how near it is, whether it is right."""

    title: str
    picture: NDArray[np.uint8]
    cosine: float
    right: bool


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One query with its best answers.

    Attributes:
        direction: whether the picture asks for texts or the text for pictures.
        title: the query row's own text.
        picture: the query row's own picture, uint8 (S, S, 3).
        rank: rank of the best right answer, from 1.
        among: number of distinct answers there are.
        answers: the k most similar ones, best first.
    """

    direction: Direction
    title: str
    picture: NDArray[np.uint8]
    rank: int
    among: int
    answers: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class DataSet:
    """The data a run was trained on: the name of its folder, the fingerprint of its content, its number of rows."""

    name: str
    fingerprint: str
    rows: int


class Tracker:
    """Takes what a run tells as it comes; what it has no place for, it passes over."""

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Take the values of one step; steps never fall."""

    def summary(self, values: Mapping[str, Value]) -> None:
        """Take values that describe the run as a whole."""

    def log_figures(self, step: int, figures: Mapping[str, Path]) -> None:
        """Take figures, each a PNG file, by name."""

    def log_retrievals(self, step: int, retrievals: Sequence[Retrieval]) -> None:
        """Take queries with what they found."""

    def log_adapter(
        self, folder: Path, metadata: Mapping[str, object], data: DataSet, aliases: Sequence[str] = ("best", "latest")
    ) -> None:
        """Take the adapter's folder, which stays as it is from now on, and the data that it comes from."""

    def finish(self, status: Status) -> None:
        """Take leave: nothing follows."""


class Trackers:
    """Several trackers as one; the failure of one touches neither the others nor the training.

    Args:
        trackers: where everything goes, in this order.
        warn: takes one message about each tracker that fails; that tracker is then left out.
    """

    def __init__(self, trackers: Sequence[Tracker], warn: Callable[[str], None]) -> None:
        self._trackers = list(trackers)
        self._warn = warn

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Pass the values of one step on."""
        self.each(lambda tracker: tracker.log(step, values))

    def finish(self, status: Status) -> None:
        """Let every tracker take leave."""
        self.each(lambda tracker: tracker.finish(status))

    def each(self, act: Callable[[Tracker], None]) -> None:
        """Do something with every tracker that has not failed yet."""
        for tracker in tuple(self._trackers):
            try:
                act(tracker)
            except Exception as error:  # whatever it is, a tracker must not stop a training
                self._trackers.remove(tracker)
                self._warn(f"{type(tracker).__name__} failed and is left out from here on: {error}")
