"""What the adapters of a rank sweep say themselves: directions in use, and whether one large run was enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray

from vectoruniverse.adapters.methods import put_on
from vectoruniverse.adapters.svd import effective_rank, singular_values, tower_spectra, truncate
from vectoruniverse.evaluation.comparison import compare_rows
from vectoruniverse.models.dual import TEXT_TOWER, VISION_TOWER
from vectoruniverse.report.sweep.parts import AdapterRecord, Cut, Layer, Tower
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.outcomes import outcomes
from vectoruniverse.sweep.findings import rounded
from vectoruniverse.sweep.grid import RANK, Grid
from vectoruniverse.sweep.pooling import Finished
from vectoruniverse.sweep.sharing import Bases
from vectoruniverse.tasks.identity import run_experiment
from vectoruniverse.tasks.image_text.model import adapter_host
from vectoruniverse.tasks.image_text.prepared import build_task
from vectoruniverse.tasks.image_text.settings import ImageTextExperiment
from vectoruniverse.tasks.image_text.setup import ImageTextShared
from vectoruniverse.tasks.rows import reported_part


def analyse_adapters(
    grid: Grid, finished: Finished, bases: Bases, known: Sequence[AdapterRecord]
) -> Iterator[AdapterRecord]:
    """The adapters of the largest rank, one for each seed, of a sweep over the rank alone.

    Args:
        grid: the sweep.
        finished: cells with their runs.
        bases: what runs start from.
        known: what an earlier call found, taken over where nothing has changed.
    """
    # that adapters can be cut to lower ranks and evaluated again is known of dual encoders only
    if [one.key for one in grid.over] != [RANK] or not isinstance(grid.base, ImageTextExperiment):
        return
    ranks = sorted({cell.values[RANK] for cell, _ in finished})
    for cell, run in sorted(finished, key=lambda one: one[0].seed):
        if cell.values[RANK] != ranks[-1]:
            continue
        trained = {other.values[RANK]: its for other, its in finished if other.seed == cell.seed}
        names = {str(rank): other.name for rank, other in trained.items()}
        earlier = [one for one in known if (one.run, one.compared_with) == (run.name, names)]
        if earlier and [cut.rank for cut in earlier[0].truncated] == ranks:
            yield earlier[0]
        else:
            found = analyse_adapter(run, bases, trained, ranks)
            yield found.model_copy(update={"compared_with": names})


def analyse_adapter(run: Run, bases: Bases, trained: dict[int, Run], ranks: Sequence[int]) -> AdapterRecord:
    """Singular values of an adapter's updates, and how well it does when cut to lower ranks.

    Args:
        run: a finished LoRA run, of the largest rank.
        bases: its base and data among them, left as they were found.
        trained: by rank, the run of the same seed that was trained at it.
        ranks: to cut to, none above the run's own.
    """
    experiment = run_experiment(run)
    shared = bases.of(experiment)
    assert isinstance(experiment, ImageTextExperiment) and isinstance(shared, ImageTextShared)
    host = adapter_host(shared.encoder, experiment, shared.compute)
    adapter = put_on(host, experiment.adapter, experiment.seed, trained=run.adapter)
    layers = adapter.low_rank
    assert layers is not None, "only LoRA has a rank"
    try:
        values, own_rank = singular_values(layers), layers.rank
        widths = {path: layer.in_features + layer.out_features for path, layer in layers.layers.items()}
        cuts = [truncate(layers, rank) for rank in ranks]
        task, metric = build_task(experiment, shared.encoder, shared.pairs), experiment.eval.monitor
        reported = reported_part(experiment, shared.data.split.reported)  # as the runs that it is compared with
        rows = {}
        for cut in cuts:
            layers.replace(cut.state, rank=cut.rank, alpha=cut.alpha)
            rows[cut.rank] = np.asarray(task.evaluate(reported).per_query[metric])
    finally:
        adapter.remove()
    spectra = tower_spectra(values, (VISION_TOWER, TEXT_TOWER))
    return AdapterRecord(
        run=run.name,
        seed=experiment.seed,
        rank=own_rank,
        metric=metric,
        layers={path: _layer(found, widths[path]) for path, found in values.items()},
        towers={name: Tower(**asdict(one) | {"energy": list(one.energy)}) for name, one in spectra.items()},
        truncated=_beside_trained(rows, metric, run, trained),
    )


def _beside_trained(
    rows: Mapping[int, NDArray[np.float64]], metric: str, run: Run, trained: Mapping[int, Run]
) -> list[Cut]:
    """What an adapter reaches at each rank, and its differences from those trained at lower ones, which hold at once.

    Args:
        rows: by rank, the outcome of each row (N,) of the adapter that was cut to it.
        metric: of the outcomes.
        run: the adapter's.
        trained: by rank, the run that was trained at it.
    """
    drawn = outcomes(run, metric).drawn
    reached = compare_rows({str(rank): {metric: one} for rank, one in rows.items()}, "", groups=drawn).reached
    beside = {rank: outcomes(trained[rank], metric).adapted for rank in rows if rank in trained}
    changes = {str(rank): {metric: rows[rank] - one} for rank, one in beside.items()}
    none = {"none": {metric: np.zeros(len(drawn))}}
    gaps = compare_rows(changes | none, "none", groups=drawn).differences
    return [
        Cut.model_validate(
            {
                "rank": rank,
                metric: list(reached[str(rank)][metric]),
                "minus_trained": gaps.get(str(rank), {}).get(metric),
            }
        )
        for rank in rows
    ]


def _layer(values: torch.Tensor, width: int) -> Layer:
    singular = rounded(values.tolist())
    return Layer(singular_values=singular, effective_rank=effective_rank(values), parameters_per_rank=width)
