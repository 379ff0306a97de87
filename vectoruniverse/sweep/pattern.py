"""Ranks by layer from one large run: a direction of its update is worth the energy it holds for what it costs.

The update of a layer with singular values σ is best approximated at rank r by its first r directions, which leaves
Σ_{k>r} σ_k² undone (Eckart & Young, 1936), and a direction costs as many parameters as the layer has inputs and
outputs. So directions are bought in the order of σ² per parameter until the cost of a uniform rank is spent; every
layer has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vectoruniverse.adapters.patterns import exactly
from vectoruniverse.report.sweep.parts import AdapterRecord, CellRecord, Layer, Pattern, Statistics
from vectoruniverse.runs.folder import Run
from vectoruniverse.sweep.cells import Cell, name_of_cell
from vectoruniverse.sweep.grid import RANK, Grid
from vectoruniverse.tasks.experiments import load_config_of

RANK_PATTERN = "adapter.rank_pattern"


def ranks_by_layer(layers: Mapping[str, Layer], rank: int) -> dict[str, int]:
    """Ranks whose adapter has at most the parameters of a uniform one.

    Args:
        layers: by path, the updates of an adapter whose rank is above ``rank``.
        rank: the uniform rank, at least 1.
    """
    ranks = dict.fromkeys(layers, 1)
    left = sum((rank - 1) * layer.parameters_per_rank for layer in layers.values())
    offers = [
        (sigma**2 / layer.parameters_per_rank, -k, path)
        for path, layer in layers.items()
        for k, sigma in enumerate(layer.singular_values[1:], 2)
        if layer.parameters_per_rank
    ]
    for worth, _, path in sorted(offers, reverse=True):
        if worth > 0 and (cost := layers[path].parameters_per_rank) <= left:
            ranks[path], left = ranks[path] + 1, left - cost
    return ranks


def recommend(grid: Grid, found: Statistics, adapters: Sequence[AdapterRecord]) -> Pattern | None:
    """Ranks by layer that cost as much as the smallest uniform rank that is not worse than the best.

    Args:
        grid: the sweep.
        found: what its cells say together.
        adapters: those of the largest rank; the first is asked.

    Returns:
        None where no lower rank was trained, the experiment gives layers ranks of their own, or what a direction costs
        is not known.
    """
    if not adapters or grid.base.adapter.rank_pattern:
        return None
    largest, chosen = adapters[0], (found.smallest_not_worse or found.best)[RANK]
    below = [one.values[RANK] for one in found.values if one.values[RANK] < largest.rank]
    if not below or not all(layer.parameters_per_rank for layer in largest.layers.values()):
        return None
    rank = chosen if chosen in below else max(below)
    ranks = ranks_by_layer(largest.layers, rank)
    return Pattern(run=largest.run, rank=rank, rank_pattern={exactly(path): one for path, one in ranks.items()})


def pattern_cell(name: str, pattern: Pattern, uniform: CellRecord, run: Run) -> Cell:
    """A cell of the uniform rank with ranks by layer instead, each layer's update at the scale that it had.

    Args:
        name: of the sweep's experiment.
        pattern: the ranks.
        uniform: the cell, which may be an earlier call's.
        run: that of the cell.
    """
    experiment = load_config_of(run)
    adapter = experiment.adapter
    scale = (adapter.alpha or float(pattern.rank)) / pattern.rank ** _power(adapter.rank_stabilized)
    alphas = {path: scale * rank ** _power(adapter.rank_stabilized) for path, rank in pattern.rank_pattern.items()}
    by_layer = {"rank_pattern": pattern.rank_pattern, "alpha_pattern": alphas}
    changed = {
        "adapter": adapter.model_copy(update=by_layer),
        "name": name_of_cell(name, {"pattern": pattern.rank}, uniform.seed),
    }
    return Cell(
        values={RANK_PATTERN: f"as rank {pattern.rank}"},
        seed=uniform.seed,
        experiment=experiment.model_copy(update=changed),
        settings=uniform.settings,
        kind="beside",
        fold=uniform.fold,
    )


def _power(rank_stabilized: bool) -> float:
    """Of the rank, in the divisor of the scale."""
    return 0.5 if rank_stabilized else 1.0
