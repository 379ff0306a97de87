"""What a tracker is, and several of them as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

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

    def finish(self, status: Status) -> None:
        """Let every tracker take leave."""
        self._each(lambda tracker: tracker.finish(status))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for tracker in tuple(self._trackers):
            try:
                act(tracker)
            except Exception as error:  # whatever it is, a tracker must not stop a training
                self._trackers.remove(tracker)
                self._warn(f"{type(tracker).__name__} failed and is left out from here on: {error}")
