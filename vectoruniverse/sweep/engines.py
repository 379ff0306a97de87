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

    def attempts(self, jobs: Sequence[Job], bases: Bases, begun: Begun) -> Iterator[tuple[Job, Ending]]:
        """Attempt each cell; yields them as they end, in whatever order.

        Args:
            jobs: the cells.
            bases: what this process holds of what they start from.
            begun: told where it is known that an attempt begins.

        Raises:
            InterruptedTraining, KeyboardInterrupt: somebody asked to stop; what was interrupted has been yielded.
        """
        ...


class InThisProcess:
    """One cell after another; the base and data that they share are loaded once."""

    def attempts(self, jobs: Sequence[Job], bases: Bases, begun: Begun) -> Iterator[tuple[Job, Ending]]:
        """Attempt each cell in its turn."""
        for job in jobs:
            begun(job)
            try:
                ending = attempt(job, bases)
            except (InterruptedTraining, KeyboardInterrupt):
                yield job, Ending("interrupted", unfinished_run(job))
                raise
            yield job, ending
