"""What a tracker is, and several of them as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Value = float | int | str
Status = Literal["finished", "failed", "interrupted"]


class Tracker(Protocol):
    """Takes the numbers of a run as they come."""

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Take the values of one step; steps never fall."""

    def summary(self, values: Mapping[str, Value]) -> None:
        """Take values that describe the run as a whole."""

    def finish(self, status: Status) -> None:
        """Take leave: nothing follows."""


class Answer(Protocol):
    """One of the things that a query found."""

    @property
    def title(self) -> str:
        """Its text."""

    @property
    def picture(self) -> NDArray[np.uint8]:
        """Its picture, (S, S, 3)."""

    @property
    def cosine(self) -> float:
        """How near it is."""

    @property
    def right(self) -> bool:
        """Whether its text is the query's own."""


class Retrieval(Protocol):
    """A query with what it found."""

    @property
    def direction(self) -> Literal["image_to_text", "text_to_image"]:
        """Whether the picture asks for texts or the text for pictures."""

    @property
    def title(self) -> str:
        """The query's own text."""

    @property
    def picture(self) -> NDArray[np.uint8]:
        """The query's own picture, (S, S, 3)."""

    @property
    def rank(self) -> int:
        """Rank of the best right answer, from 1."""

    @property
    def among(self) -> int:
        """Number of answers there are."""

    @property
    def answers(self) -> Sequence[Answer]:
        """The first few, best first."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """The data a run was trained on: the name of its folder, the fingerprint of its content, its number of rows."""

    name: str
    fingerprint: str
    rows: int


@runtime_checkable
class RichTracker(Protocol):
    """A tracker that also takes pictures, tables and files; one that does not simply has none of these methods."""

    def log_figures(self, step: int, figures: Mapping[str, Path]) -> None:
        """Take figures, each a PNG file, by name."""

    def log_retrievals(self, step: int, retrievals: Sequence[Retrieval]) -> None:
        """Take queries with what they found."""

    def log_adapter(
        self, folder: Path, metadata: Mapping[str, object], data: DataSet, aliases: Sequence[str] = ("best", "latest")
    ) -> None:
        """Take the adapter's folder, which stays as it is from now on, and the data that it comes from."""


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
        self._each(lambda tracker: tracker.log(step, values))

    def summary(self, values: Mapping[str, Value]) -> None:
        """Pass values that describe the run as a whole on."""
        self._each(lambda tracker: tracker.summary(values))

    def log_figures(self, step: int, figures: Mapping[str, Path]) -> None:
        """Pass figures on to those that take them."""
        self._each_rich(lambda tracker: tracker.log_figures(step, figures))

    def log_retrievals(self, step: int, retrievals: Sequence[Retrieval]) -> None:
        """Pass queries with what they found on to those that take them."""
        self._each_rich(lambda tracker: tracker.log_retrievals(step, retrievals))

    def log_adapter(
        self, folder: Path, metadata: Mapping[str, object], data: DataSet, aliases: Sequence[str] = ("best", "latest")
    ) -> None:
        """Pass the adapter on to those that take it."""
        self._each_rich(lambda tracker: tracker.log_adapter(folder, metadata, data, aliases))

    def finish(self, status: Status) -> None:
        """Let every tracker take leave."""
        self._each(lambda tracker: tracker.finish(status))

    def _each_rich(self, act: Callable[[RichTracker], None]) -> None:
        self._each(lambda tracker: act(tracker) if isinstance(tracker, RichTracker) else None)

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for tracker in tuple(self._trackers):
            try:
                act(tracker)
            except Exception as error:  # whatever it is, a tracker must not stop a training
                self._trackers.remove(tracker)
                self._warn(f"{type(tracker).__name__} failed and is left out from here on: {error}")
