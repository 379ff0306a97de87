from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save

from tests.models.models import save_clip
from vectoruniverse.adapters.methods import put_on
from vectoruniverse.errors import DataError
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.image_text.model import adapter_host, load_encoder
from vectoruniverse.training.device import choose_compute


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\xff" * 64,
        save({"logit_scale": torch.zeros(2)}),
        save({"logit_scale": torch.tensor(torch.nan)}),
        save({"temperature": torch.tensor(1.0)}),
    ],
    ids=["empty", "noise", "shape", "nan", "stranger"],
)
def test_damaged_scalars_are_told_by_their_file_and_the_model_stays_as_it_was(damaged: bytes, tmp_path: Path) -> None:
    config = tmp_path / "e.yaml"
    adapter = {"method": "lora", "rank": 2, "train_logit_scale": True}
    sections = {"name": "e", "task": "image_text", "data": {"root": "."}, "adapter": adapter}
    config.write_text(yaml.safe_dump({**sections, "model": str(save_clip(tmp_path / "clip"))}), encoding="utf-8")
    experiment, compute = load_experiment(config), choose_compute("cpu", "fp32")
    encoder = load_encoder(experiment, compute)
    assert encoder is not None
    host = adapter_host(encoder, experiment, compute)
    lora = put_on(host, experiment.adapter, seed=0)
    lora.save(tmp_path / "adapter")
    lora.remove()
    names = [name for name, _ in encoder.model.named_parameters()]
    (tmp_path / "adapter" / "logit_scalars.safetensors").write_bytes(damaged)
    with pytest.raises(DataError, match=r"adapter/logit_scalars\.safetensors: ") as caught:
        put_on(host, experiment.adapter, seed=0, trained=tmp_path / "adapter")
    assert caught.value.remedy
    assert [name for name, _ in encoder.model.named_parameters()] == names
