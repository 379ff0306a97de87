"""The learning rate of each value of a sweep: trials by ``rates``, and their record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vectoruniverse.report.sweep.parts import CellRecord, Choice, RateSearch
from vectoruniverse.report.sweep.values import EPOCHS, key_of
from vectoruniverse.sweep.cells import Cell, at_rate, trial_of
from vectoruniverse.sweep.grid import RANK, Grid
from vectoruniverse.sweep.rates import (
    AROUND,
    FULL_BELOW,
    Budget,
    Ladder,
    first_rungs,
    full_rate,
    in_order,
    make_budget,
    parse_rates,
    scaling_exponent,
    search_rate,
)


class NoRateError(Exception):
    """No rate can be chosen for a value, and why; another call searches again."""


class Tuner:
    """Chooses a rate for each value of a sweep, and for full fine-tuning.

    Args:
        grid: the sweep, whose ``rates`` are asked for.
        known: what an earlier call chose, which stays.
        run_trials: brings short runs to their ends; the metric of each on validation rows, None where it diverged. It
            raises ``NoRateError`` where something else went wrong, which says nothing of the rate.
        tell: takes what a person should know.
    """

    def __init__(
        self,
        grid: Grid,
        known: RateSearch | None,
        run_trials: Callable[[Sequence[Cell]], Sequence[float | None]],
        tell: Callable[[str], None],
    ) -> None:
        assert grid.rates is not None, "rates are asked for"
        self._grid, self._run_trials, self._tell = grid, run_trials, tell
        named, own = parse_rates(grid.rates), grid.base.train.lr
        self._auto, self._ladder = named is None, Ladder(named or (own,))
        most = 2 * AROUND + 2 if named is None else len(named)
        budget = make_budget(grid.base.train.epochs, len(grid.seeds), most)
        fresh = RateSearch(asked=grid.rates, own=own, short=budget.short, long=budget.long)
        self.record = fresh if known is None else known
        self._budget = Budget(self.record.short, self.record.long)  # as the first call had it, to be compared

    def rates_of(self, cells: Sequence[Cell]) -> tuple[list[Cell], list[tuple[Cell, str]]]:
        """Each cell at the rate of its value, where what is not chosen yet is tried; and those without one, and why."""
        first = {(cell.fold, cell.key[0]): cell for cell in reversed(cells)}  # of the first seed
        reasons: dict[tuple[int | None, str], str] = {}
        for whose, cell in sorted(first.items(), key=lambda one: (one[1].fold or 0, self._place(one[1]))):
            if self.record.chosen(cell.values, cell.fold) is None:
                try:
                    self._choose(cell)
                except NoRateError as error:
                    reasons[whose] = str(error)
        without = [(cell, reasons[whose]) for cell in cells if (whose := (cell.fold, cell.key[0])) in reasons]
        chosen = [(cell, self.record.chosen(cell.values, cell.fold)) for cell in cells]
        return [at_rate(cell, choice.rate) for cell, choice in chosen if choice is not None], without

    def told(self, cells: Sequence[CellRecord], trials: Sequence[CellRecord]) -> RateSearch:
        """The search as it stands, with its trials and what they cost beside the ``cells`` of a sweep at one rate."""
        values = {key_of(cell.values) for cell in cells}
        tried = sum(int(one.settings[EPOCHS]) for one in trials if key_of(one.values) in values)
        cost = 1 + tried / max(1, self._grid.base.train.epochs * len(cells))
        return self.record.model_copy(update={"trials": list(trials), "cost": round(cost, 3)})

    def _place(self, cell: Cell) -> int:
        """Ranks from the experiment's own outwards, then what has no rank."""
        ranks = [int(str(one)) for over in self._grid.over if over.key == RANK for one in over.values]
        rank = cell.values.get(RANK)
        return len(ranks) if rank is None else in_order(ranks, self._grid.base.adapter.rank).index(int(str(rank)))

    def _choose(self, cell: Cell) -> None:
        self._tell(f"learning rates of {cell.title}")
        ladder = self._ladder
        found = search_rate(
            lambda rungs, epochs: self._run_trials([trial_of(cell, ladder.rate(rung), epochs) for rung in rungs]),
            self._first(cell),
            self._budget,
        )
        if found is None:
            raise NoRateError("training diverged at every learning rate that was tried")
        whose: dict[str, Any] = {"values": dict(cell.values)} | ({} if cell.fold is None else {"fold": cell.fold})
        choice = Choice(**whose, rate=ladder.rate(found.rung), at_edge=found.at_edge)
        self.record = self.record.model_copy(update={"choices": [*self.record.choices, choice]})
        self._tell(f"{cell.title}: learning rate {choice.rate:g}")

    def _first(self, cell: Cell) -> list[int]:
        """Rungs that are tried at first."""
        if not self._auto:
            return list(range(len(self._ladder.named)))
        if RANK not in cell.values:
            start = -FULL_BELOW if cell.kind == "beside" else 0
            return list(range(start - AROUND, start + AROUND + 1))
        alpha, adapter = self._grid.alpha, self._grid.base.adapter
        exponent = scaling_exponent("fixed" if alpha is None else alpha.name, adapter.initialisation)
        return first_rungs(int(str(cell.values[RANK])), adapter.rank, self._rungs(cell.fold), 0, exponent)

    def _rungs(self, fold: int | None) -> dict[int, int]:
        """Rank → rung of what has been chosen."""
        rungs = {self._ladder.rate(rung): rung for rung in range(-40, 41)}
        choices = [one for one in self.record.choices if RANK in one.values and one.rate in rungs and one.fold == fold]
        return {choice.values[RANK]: rungs[choice.rate] for choice in choices}


def at_fixed_rates(cells: Sequence[Cell]) -> list[Cell]:
    """Each at its experiment's learning rate, full fine-tuning at a share of that, where nothing is searched."""
    return [at_rate(one, full_rate(one.experiment.train.lr)) if one.kind == "beside" else one for one in cells]
