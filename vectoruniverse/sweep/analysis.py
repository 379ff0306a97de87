"""What the adapters of a rank sweep say themselves: directions in use, and whether one large run was enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from vectoruniverse.adapters.base_weights import BaseWeights
from vectoruniverse.adapters.lora import LoraAdapter
from vectoruniverse.adapters.svd import effective_rank, singular_values, tower_spectra, truncate
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.metrics.bootstrap import Interval, bootstrap_mean, paired_bootstrap
from vectoruniverse.models.dual import TEXT_TOWER, VISION_TOWER
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.outcomes import outcomes
from vectoruniverse.tasks.image_text.model import extra_parameters, load_adapted, trained_in_place
from vectoruniverse.tasks.image_text.settings import ImageTextExperiment
from vectoruniverse.tasks.image_text.setup import ImageTextShared, build_task


def analyse_adapter(
    experiment: ImageTextExperiment, run: Run, shared: ImageTextShared, trained: dict[int, Run], ranks: Sequence[int]
) -> dict[str, Any]:
    """Singular values of an adapter's updates, and how well it does when cut to lower ranks.

    Args:
        experiment: the run's.
        run: a finished LoRA run, of the largest rank.
        shared: its base and data, left as they were found.
        trained: by rank, the run of the same seed that was trained at it.
        ranks: to cut to, none above the run's own.

    Returns:
        JSON values: ``run``, ``rank``, ``layers`` (path → ``singular_values``, ``effective_rank``), ``towers`` (see
        ``adapters.svd.TowerSpectrum``), and ``truncated``, an entry for each rank: the ``metric`` and its interval when
        the adapter is cut to that rank, and ``minus_trained``, the paired difference from the run that was trained at
        it, None where there is none.
    """
    before = BaseWeights(shared.encoder.model, trained_in_place(shared.encoder, experiment.adapter))
    encoder, adapter = load_adapted(experiment, shared.encoder, shared.compute, run.adapter)
    assert isinstance(adapter, LoraAdapter), "only LoRA has a rank"
    try:
        values, paths, own_rank = singular_values(adapter), list(adapter.layers), adapter.rank
        cuts = [truncate(adapter, rank) for rank in ranks]
        live = dict(encoder.model.named_parameters())
        extra = {name: live[name].detach().clone() for name in extra_parameters(encoder, experiment.adapter)}
        task, metric = build_task(experiment, encoder, shared.pairs), experiment.eval.monitor
        truncated = []
        for cut in cuts:
            adapter.remove()
            adapter = LoraAdapter(encoder.model, paths, rank=cut.rank, alpha=cut.alpha)
            adapter.load_state_dict(cut.state)
            adapter.overwrite(extra)
            truncated.append(_beside_trained(task.evaluate(), cut.rank, metric, run, trained.get(cut.rank)))
    finally:
        before.restore([adapter])
    layers = {
        path: {"singular_values": _rounded(found), "effective_rank": effective_rank(found)}
        for path, found in values.items()
    }
    spectra = tower_spectra(values, (VISION_TOWER, TEXT_TOWER))
    towers = {name: asdict(one) | {"energy": list(one.energy)} for name, one in spectra.items()}
    return {
        "run": run.name,
        "seed": experiment.seed,
        "rank": own_rank,
        "metric": metric,
        "layers": layers,
        "towers": towers,
        "truncated": truncated,
    }


def _beside_trained(evaluation: Evaluation, rank: int, metric: str, run: Run, trained: Run | None) -> dict[str, Any]:
    """An entry of ``truncated``."""
    found, groups = evaluation.per_query[metric], outcomes(run, metric).drawn
    interval = bootstrap_mean(found, seed=0, groups=groups)
    entry: dict[str, Any] = {"rank": rank, metric: _plain(interval), "minus_trained": None}
    if trained is not None:
        gap = paired_bootstrap(outcomes(trained, metric).adapted, found, seed=0, groups=groups)
        entry["minus_trained"] = _plain(gap)
    return entry


def _plain(interval: Interval) -> list[float]:
    return [interval.estimate, interval.low, interval.high]


def _rounded(values: torch.Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]
