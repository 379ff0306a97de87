"""``train.packed_weights``: the same numbers from frozen weights that lie as the CPU's kernels read them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from vectoruniverse.training.packed_weights import can_pack, packed_weights

pytestmark = pytest.mark.skipif(not can_pack(), reason="no oneDNN on this machine")

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2**-7}


def frozen(*, bias=True, dtype=torch.float32, width=24, out=40):
    torch.manual_seed(0)
    return nn.Linear(width, out, bias=bias, dtype=dtype).requires_grad_(False).train()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (1,), (3, 5), (2, 3, 4)])
def test_value_and_gradient_are_those_of_the_plain_product(products, dtype, bias, shape):
    layer = frozen(bias=bias, dtype=dtype)
    x = torch.randn(*shape, 24).to(dtype).requires_grad_()
    with packed_weights(layer):
        y = layer(x)
        grad = torch.randn_like(y)
        y.backward(grad)
    exact = linear(x.detach().double(), layer.weight.double(), layer.bias.double() if bias else None)
    assert y.dtype == dtype and len(products) == 2
    torch.testing.assert_close(y.double(), exact, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
    torch.testing.assert_close(
        x.grad.double(), grad.double() @ layer.weight.double(), rtol=ROUNDING[dtype], atol=ROUNDING[dtype]
    )


def test_rows_that_do_not_lie_one_after_the_other_and_a_gradient_that_is_one_number_spread_out(products):
    layer, spread = frozen(), torch.randn(24, 6, 5).permute(1, 2, 0).requires_grad_()
    with packed_weights(layer):
        (found,) = torch.autograd.grad(layer(spread).sum(), spread)
    (wanted,) = torch.autograd.grad(layer(spread).sum(), spread)
    torch.testing.assert_close(found, wanted)
    assert len(products) == 2


def test_autocast_decides_the_format_as_it_does_of_a_plain_layer(products):
    layer, x = frozen(), torch.randn(9, 24).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = layer(x)
        with packed_weights(layer):
            found = layer(x)
            found.float().sum().backward()
    assert found.dtype == wanted.dtype == torch.bfloat16 and x.grad.dtype == torch.float32
    torch.testing.assert_close(found, wanted)
    assert len(products) == 2


@pytest.mark.parametrize("kind", ["evaluation", "no gradients", "trained", "fp16", "no rows"])
def test_what_is_passed_as_ever(products, kind):
    layer, x = frozen(dtype=torch.float16 if kind == "fp16" else torch.float32), torch.randn(4, 24)
    if kind == "evaluation":
        layer.eval()
    if kind == "trained":
        layer.bias.requires_grad_(True)
    x = x[:0] if kind == "no rows" else x.to(layer.weight.dtype)
    with packed_weights(layer), torch.set_grad_enabled(kind != "no gradients"):
        assert torch.equal(layer(x), linear(x, layer.weight, layer.bias))
    assert not products


def test_afterwards_a_layer_is_as_before_and_another_weight_is_seen(products):
    layer, x = frozen(), torch.randn(4, 24)
    with packed_weights(layer):
        layer(x)
    assert "forward" not in vars(layer)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    with packed_weights(layer):
        assert not layer(x).any()
    assert len(products) == 2
