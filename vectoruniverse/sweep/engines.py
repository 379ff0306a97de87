"""What attempts the cells of a sweep: this process, one after another, or the machines of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from vectoruniverse.sweep.attempt import Ending, Job, attempt, unfinished_run
from vectoruniverse.sweep.sharing import Bases
from vectoruniverse.training.interruption import InterruptedTraining

Begun = Callable[[Job], object]
"""Told when an attempt begins."""


class Engine(Protocol):
    """Brings cells to their ends."""

    def attempts(self, jobs: Sequence[Job], begun: Begun) -> Iterator[tuple[Job, Ending]]:
        """Attempt each cell; yields them as they end, in whatever order.

        Raises:
            InterruptedTraining, KeyboardInterrupt: somebody asked to stop; what was interrupted has been yielded.
        """
        ...


class InThisProcess:
    """One cell after another; the base and data that they share are loaded once.

    Args:
        bases: holds what cells start from.
    """

    def __init__(self, bases: Bases) -> None:
        self._bases = bases

    def attempts(self, jobs: Sequence[Job], begun: Begun) -> Iterator[tuple[Job, Ending]]:
        """Attempt each cell in its turn."""
        for job in jobs:
            begun(job)
            try:
                ending = attempt(job, self._bases)
            except (InterruptedTraining, KeyboardInterrupt):
                yield job, Ending("interrupted", unfinished_run(job))
                raise
            yield job, ending
