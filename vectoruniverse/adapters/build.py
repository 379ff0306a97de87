"""LoRA as an experiment's ``adapter`` section asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vectoruniverse.adapters.apply import TowerTargets, inject_lora
from vectoruniverse.adapters.lora import LoraAdapter
from vectoruniverse.adapters.peft_format import load_lora
from vectoruniverse.config.sections import AdapterSettings

ATTENTION = "attention"
"""Stands for the attention projections of the model's family."""


def put_lora(
    model: Any, targets: Sequence[TowerTargets], config: AdapterSettings, seed: int, part: str = ""
) -> LoraAdapter:
    """Freeze the model and put LoRA on its target layers: a new one, or a saved one where ``init_from`` names it.

    A folder of several encoders' adapters has one in a folder of its own for each ``part``.
    """
    if config.init_from is not None:
        model.requires_grad_(False)
        folder = Path(config.init_from).expanduser()
        return load_lora(model, folder / part if (folder / part).is_dir() else folder)
    return inject_lora(
        model,
        targets,
        rank=config.rank,
        alpha=config.alpha if config.alpha is not None else float(config.rank),
        dropout=config.dropout,
        rank_stabilized=config.rank_stabilized,
        seed=seed,
        rank_pattern=config.rank_pattern,
        alpha_pattern=config.alpha_pattern,
        dora=config.dora,
        initialisation=config.initialisation,
    )


def tower_targets(
    tower: str, layers: Sequence[str], blocks: Sequence[int] | None, own: Sequence[str], *, keys: tuple[str, str]
) -> TowerTargets:
    """The layers to adapt in one tower; the word ``attention`` stands for ``own``, those of the model's family."""
    named = [*(own if ATTENTION in layers else ()), *(layer for layer in layers if layer != ATTENTION)]
    only = None if blocks is None else tuple(blocks)
    return TowerTargets(tower, tuple(dict.fromkeys(named)), keys[0], layers_to_transform=only, blocks_key=keys[1])
