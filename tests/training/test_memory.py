"""Memory that ran out: what is told of what Python, NumPy and torch say of it."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch

from vectoruniverse.config.sections import ContrastiveTrainConfig, TrainConfig
from vectoruniverse.training.memory import memory_told, out_of_memory

GPU = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 15.77 GiB of which 7.19 MiB is "
    "free. Including non-PyTorch memory, this process has 15.75 GiB memory in use."
)
"""What torch 2.13 says."""


def told_of(work) -> str:
    with pytest.raises((MemoryError, RuntimeError)) as failed:
        work()
    return str(out_of_memory(failed.value))


def test_figures_are_those_of_the_error_and_of_this_machine() -> None:
    ours = r"GiB of [\d,.]+ GiB are free on this machine\)" if sys.platform == "linux" else ""
    for work, wanted in (
        (lambda: torch.empty(2**50, dtype=torch.uint8), "1,048,576.0 GiB"),
        (lambda: np.empty(2**50, dtype=np.uint8), "1.00 PiB"),
    ):
        told = told_of(work)
        assert told.startswith(f"out of memory ({wanted} were asked for")
        assert re.search(ours, told)


def test_on_a_gpu_they_are_the_gpus_and_the_remedy_halves_what_is_encoded_at_once() -> None:
    error = torch.OutOfMemoryError(GPU)
    told = out_of_memory(error, ContrastiveTrainConfig(batch_size=256, micro_batch=64))
    assert told is not None and told.exit_code == 5
    assert str(told) == (
        "out of memory (20.00 MiB were asked for; 7.19 MiB of 15.77 GiB are free on GPU 0; "
        "train.batch_size 256; train.micro_batch 64)"
    )
    assert told.remedy is not None and told.remedy.startswith("set train.micro_batch: 32, ")
    plain = out_of_memory(error, TrainConfig(batch_size=256))
    assert plain is not None and plain.remedy is not None and plain.remedy.startswith("lower train.batch_size")


def test_a_bare_memory_error_is_told_and_other_errors_are_none() -> None:
    assert str(out_of_memory(MemoryError())).startswith("out of memory")
    assert out_of_memory(RuntimeError("shapes differ")) is None
    with pytest.raises(RuntimeError, match="shapes differ"), memory_told(TrainConfig()):
        raise RuntimeError("shapes differ")
