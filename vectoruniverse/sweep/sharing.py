"""What the cells of a sweep share, one after another in one process: their base and data."""

from __future__ import annotations

from vectoruniverse.config.sections import Experiment
from vectoruniverse.tasks.base import Shared
from vectoruniverse.tasks.sharing import sharing_key
from vectoruniverse.tasks.table import setup
from vectoruniverse.terminal import Display


class Bases:
    """The base and data of the cell at hand; one at a time, since each fills memory."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self._held: Shared | None = None

    def of(self, experiment: Experiment) -> Shared:
        """Load what the experiment shares with others, unless it is held already."""
        if self._held is None or self._held.key != sharing_key(experiment):
            self._held = None  # freed before the next is loaded
            self._held = setup(experiment).share(experiment, self.display)
        return self._held
