"""Everything a run works with, put together before its first step."""

from __future__ import annotations

from dataclasses import dataclass

from vectoruniverse.adapters.lora import LoraAdapter
from vectoruniverse.assembly.image_text import build_task
from vectoruniverse.assembly.model import ADAPTERS, build_encoder, input_size, load_encoder
from vectoruniverse.assembly.rows import ImageTextData, decode, read_rows
from vectoruniverse.config.schema import Experiment
from vectoruniverse.display import Display
from vectoruniverse.encoders.dual import DualEncoder
from vectoruniverse.tasks.image_text import ImageTextTask
from vectoruniverse.training.device import Compute, choose_compute


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a run works with, before its first step."""

    experiment: Experiment
    compute: Compute
    data: ImageTextData
    encoder: DualEncoder
    adapter: LoraAdapter | None
    task: ImageTextTask


def prepare(experiment: Experiment, display: Display) -> Prepared:
    """Config → data → encoder (+ adapter) → task; nothing is written but the cache of decoded pictures."""
    compute = choose_compute(experiment.train.device, experiment.train.precision)
    metadata = read_rows(experiment.data)
    encoder = load_encoder(experiment, compute)
    data = decode(experiment.data, metadata, *input_size(experiment, encoder), display)
    encoder = encoder or build_encoder(experiment, compute, data.train_texts())
    adapter = ADAPTERS[experiment.adapter.method](encoder, experiment.adapter, experiment.seed)
    return Prepared(experiment, compute, data, encoder, adapter, build_task(experiment, encoder, data))


def load_base(experiment: Experiment, compute: Compute, data: ImageTextData) -> DualEncoder:
    """The model before any training."""
    return load_encoder(experiment, compute) or build_encoder(experiment, compute, data.train_texts())
