from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from vectoruniverse.errors import ConfigError
from vectoruniverse.training.device import check_architecture, choose_compute


def test_auto_finds_a_device_and_a_format_that_it_computes_in():
    compute = choose_compute()
    a = torch.ones(4, 4, dtype=compute.dtype, device=compute.device)
    assert torch.equal((a @ a).float().cpu(), torch.full((4, 4), 4.0))


@pytest.mark.parametrize(
    ("precision", "dtype", "scaler"),
    [("fp32", torch.float32, False), ("bf16", torch.bfloat16, False), ("fp16", torch.float16, True)],
)
def test_precision_is_what_was_asked_for(precision, dtype, scaler):
    compute = choose_compute("cpu", precision)
    assert (compute.dtype, compute.needs_scaler) == (dtype, scaler)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_an_absent_device_is_refused():
    with pytest.raises(ConfigError, match="no cuda:3 here") as error:
        choose_compute("cuda:3")
    assert error.value.key == "train.device"
    assert "auto" in str(error.value.remedy)


@pytest.mark.parametrize(
    ("capability", "built_for"),
    [((7, 0), ["sm_70", "sm_80"]), ((8, 9), ["sm_80", "sm_90"]), ((9, 0), ["sm_90a"]), ((12, 1), ["compute_90"])],
)
def test_a_build_that_fits_the_gpu_passes(capability, built_for):
    check_architecture(capability, built_for)


@pytest.mark.parametrize(
    ("capability", "built_for"), [((7, 0), ["sm_75", "sm_80", "compute_90"]), ((8, 0), ["sm_86"]), ((9, 0), ["sm_80"])]
)
def test_a_build_without_kernels_for_the_gpu_gives_the_command_to_run(capability, built_for):
    with pytest.raises(ConfigError, match="no kernels for the GPU") as error:
        check_architecture(capability, built_for)
    assert "whl/cu126" in str(error.value.remedy)


@pytest.mark.parametrize("built_for", [["gfx90a", "gfx942", "gfx1100"], ["gfx908:sramecc+:xnack-"]])
def test_a_rocm_build_whose_targets_are_no_capabilities_passes(built_for):
    check_architecture((9, 0), built_for)


def test_devices_are_known_on_a_system_without_the_resource_module():
    """On Windows Python has no module `resource`, and nobody tells the peak."""
    code = (
        "import sys; import torch; sys.modules['resource'] = None; sys.platform = 'win32'\n"
        "from vectoruniverse.training.device import choose_compute, peak_memory\n"
        "print(peak_memory(choose_compute('cpu').device))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (said.stdout, said.stderr) == ("None\n", "")


@pytest.mark.cuda
def test_cuda_precision_follows_the_hardware():
    real_bf16 = torch.cuda.get_device_capability() >= (8, 0)
    assert choose_compute("cuda").dtype == (torch.bfloat16 if real_bf16 else torch.float16)
