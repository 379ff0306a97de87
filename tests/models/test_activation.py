"""The activation is transformers' own, value and gradient."""

from __future__ import annotations

import pytest
import torch
from transformers.activations import QuickGELUActivation

from tests.models.models import save_clip
from vectoruniverse.models.activation import QuickGelu, put_quick_gelu
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.dual import load_dual_encoder


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 0.02)]
)
def test_values_are_equal_bit_for_bit_and_gradients_to_rounding(dtype, tolerance):
    x = (torch.randn(64, 32, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    got, expected = QuickGelu()(ours), QuickGELUActivation()(theirs)
    assert torch.equal(got, expected)
    weights = torch.randn(64, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    (got * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        assert torch.equal(QuickGelu()(x), expected.detach())


def test_gradient_is_that_of_finite_differences():
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(QuickGelu(), (x,))


def test_loaded_models_have_it_and_are_otherwise_as_before(tmp_path):
    folder = save_clip(tmp_path / "clip")
    encoder = load_dual_encoder(str(folder), Compute(torch.device("cpu"), torch.float32))
    kinds = [type(module) for module in encoder.model.modules()]
    assert QuickGelu in kinds
    assert QuickGELUActivation not in kinds
    put_quick_gelu(encoder.model)
    assert [type(module) for module in encoder.model.modules()] == kinds, "twice is once"
