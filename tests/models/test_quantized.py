"""Frozen layers in 8 and 4 bits: their numbers, their gradients, and what adapters on them give, each told twice."""

from __future__ import annotations

import copy
import importlib.util
import logging

import pytest
import torch
import yaml
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import linear

from tests.models.models import SAVE, save_clip
from tests.models.text_models import FAMILIES, embed, save_encoder
from vectoruniverse.adapters.apply import inject_lora, parameter_table
from vectoruniverse.adapters.fused import FusedLoraLinear
from vectoruniverse.adapters.lora import LoraLinear
from vectoruniverse.adapters.prefix import inject_prefix
from vectoruniverse.adapters.targets import TowerTargets
from vectoruniverse.errors import ConfigError
from vectoruniverse.models import quantized
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.dual import TEXT_TOWER, load_dual_encoder
from vectoruniverse.models.quantized import QuantizedLinear, dequantize, quantize
from vectoruniverse.models.text import load_text_encoder
from vectoruniverse.tasks.experiments import load_experiment

KINDS = ("int8", "nf4")
CPU = torch.device("cpu")
NF4 = (  # appendix E of the QLoRA paper
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def rows(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def a_linear(inside=24, out=36, bias=True, dtype=torch.float32):
    layer = nn.Linear(inside, out, bias=bias, dtype=dtype).requires_grad_(False)
    layer.weight.copy_(rows(out, inside, seed=1) / 5)
    if bias:
        layer.bias.copy_(rows(out, seed=2))
    return layer


def clip(tmp_path, kind, dtype=torch.float32):
    folder = tmp_path / "clip"
    if not folder.exists():
        save_clip(folder)
    return load_dual_encoder(str(folder), Compute(CPU, dtype), quantization=kind)


def test_int8_is_each_row_in_255_steps_of_its_largest_number():
    layer = a_linear()
    found = QuantizedLinear(layer, "int8").weight
    for row, told in zip(layer.weight.half().float(), found, strict=True):
        step = row.abs().max() / 127
        assert ((told / step).round() * step - told).abs().max() < 1e-6, "whole steps"
        assert (told - row).abs().max() <= step * 0.501, "the nearest one, but where two are as near"


@pytest.mark.parametrize("width", [24, 7])  # 36 rows of 7: blocks end within rows, and the last is not full
def test_nf4_is_the_nearest_of_sixteen_numbers_times_the_largest_of_the_block(width):
    layer = a_linear(width)
    found = QuantizedLinear(layer, "nf4").weight.flatten()
    for start in range(0, found.numel(), quantized.BLOCK):
        block = layer.weight.flatten()[start : start + quantized.BLOCK]
        largest = block.abs().max()
        nearest = [min(NF4, key=lambda number, one=one: abs(number - one)) for one in (block / largest).tolist()]
        torch.testing.assert_close(found[start : start + quantized.BLOCK], torch.tensor(nearest) * largest)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_the_library_s_own_layers(kind):
    from bitsandbytes import functional
    from bitsandbytes import nn as theirs

    layer = a_linear(64, 32)
    found = QuantizedLinear(layer, kind).weight
    if kind == "int8":
        their = theirs.Linear8bitLt(64, 32, has_fp16_weights=False)
        their.load_state_dict(layer.state_dict())
        weight = their.to("cpu").weight
        expected = weight.CB.float() * weight.SCB.unsqueeze(1) / 127
    else:
        their = theirs.Linear4bit(64, 32, quant_type="nf4", compress_statistics=False)
        their.load_state_dict(layer.state_dict())
        weight = their.to("cpu").weight
        expected = functional.dequantize_4bit(weight.data, weight.quant_state)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradient_are_those_of_the_weight_that_the_numbers_stand_for(bias, dtype, kind):
    layer = QuantizedLinear(a_linear(bias=bias, dtype=dtype), kind)
    x, again = (rows(2, 3, 24, dtype=dtype).requires_grad_() for _ in range(2))
    y, slow = layer(x), linear(again, layer.dequantized(dtype), layer.bias)
    direction = rows(2, 3, 36, seed=3, dtype=dtype)
    y.backward(direction)
    slow.backward(direction)
    assert y.dtype == dtype and torch.equal(y, slow)
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_the_product_is_in_its_format_and_the_gradient_in_that_of_the_input(kind):
    layer, x = QuantizedLinear(a_linear(), kind), rows(5, 24).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    assert (y.dtype, x.grad.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(y.float(), linear(x, layer.weight, layer.bias), rtol=2e-2, atol=3e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_weight_s_size_is_kept_for_the_way_back(kind):
    layer, x, kept = QuantizedLinear(a_linear(64, 64), kind), rows(2, 64).requires_grad_(), []
    with saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
        layer(x)
        assert all(numbers < 64 * 64 for numbers in kept)
        linear(x, layer.weight)
    assert 64 * 64 in kept, "as torch's own product keeps it"


@pytest.mark.filterwarnings("default")  # torch's compiler causes warnings, and hides those that are no errors
@pytest.mark.parametrize("kind", KINDS)
def test_torch_compile_passes_it_in_one_graph(kind):
    layer = LoraLinear(QuantizedLinear(a_linear(), kind), rank=2, alpha=2.0)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    found = []
    for one in (layer, compiled):
        x = rows(4, 24).requires_grad_()
        y = one(x)
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), [x, layer.lora_B])])
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluating_changes_nothing_and_training_goes_on_after_it(kind):
    layer = QuantizedLinear(a_linear(), kind)
    x = rows(4, 24).requires_grad_()
    trained = layer.train()(x)
    with torch.no_grad():
        evaluated = layer.eval()(x)
    assert torch.equal(trained, evaluated) and torch.equal(layer.train()(x), trained)
    (gradient,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(gradient, layer.weight.sum(0).expand(4, 24))


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_do_not_depend_on_the_format_that_the_model_computes_in(kind, tmp_path):
    full, half = clip(tmp_path, kind).model, clip(tmp_path, kind, torch.bfloat16).model
    there = dict(half.named_buffers())
    assert all(torch.equal(tensor, there[name]) for name, tensor in full.named_buffers())
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in full.modules() if isinstance(module, QuantizedLinear))
    scales = [copy.deepcopy(half).to(torch.float16).get_buffer(name) for name in there if name.endswith("scale")]
    assert all(scale.dtype == torch.float32 for scale in scales), "which another format would round"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_encoder_of_every_family_computes_what_its_plain_twin_does(family, tmp_path):
    folder = save_encoder(tmp_path / family, family)
    encoder = load_text_encoder(str(folder), Compute(CPU, torch.float32), quantization="nf4")
    found = embed(encoder)
    plain = [name for name, module in encoder.model.named_modules() if isinstance(module, nn.Linear)]
    assert not [name for name in plain if "layer" in name.split(".")], "every layer of every block"
    dequantize(encoder.module)
    assert not any(isinstance(module, QuantizedLinear) for module in encoder.module.modules())
    torch.testing.assert_close(embed(encoder), found, rtol=1e-5, atol=1e-6)
    whole = load_text_encoder(str(folder), Compute(CPU, torch.float32))
    assert 1e-4 < (embed(whole) - found).abs().max() < 1.0, "near the unquantised one, and not it"


@pytest.mark.parametrize("family", sorted(SAVE))
def test_towers_of_every_family_keep_projections_and_heads_as_they_are(family, tmp_path):
    folder = SAVE[family](tmp_path / family)
    encoder = load_dual_encoder(str(folder), Compute(CPU, torch.float32), quantization="nf4")
    pixels, tokens = rows(2, 3, encoder.picture.size, encoder.picture.size), encoder.tokenize(["a red circle"])
    with torch.no_grad():
        pictures, texts = encoder.encode_images(pixels), encoder.embed_texts(tokens, batch_size=2)
        for path in ("visual_projection", "text_projection", "vision_model.head.mlp.fc1", "text_model.head"):
            if path.split(".")[0] in dict(encoder.model.named_children()) and family == "siglip":
                assert isinstance(encoder.model.get_submodule(path), nn.Linear)
        dequantize(encoder.model)
        torch.testing.assert_close(encoder.encode_images(pixels), pictures, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(encoder.embed_texts(tokens, batch_size=2), texts, rtol=1e-5, atol=1e-6)


LAYERS = {
    "lora": lambda base, **more: LoraLinear(base, rank=3, alpha=6.0, **more),
    "dropout": lambda base, **more: LoraLinear(base, rank=3, alpha=6.0, dropout=0.3, **more),
    "pissa": lambda base, **more: LoraLinear(base, rank=3, alpha=6.0, initialisation="pissa", **more),
    "fused": lambda base, **more: FusedLoraLinear(base, parts=("q", "v"), rank=3, alpha=6.0, **more),
}


def adapted(base, make):
    layer = make(base, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        layer.lora_B.add_(rows(*layer.lora_B.shape, seed=5))
    return layer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_an_adapter_on_it_is_the_one_on_the_plain_layer_in_value_and_gradient(make, kind):
    base = QuantizedLinear(a_linear(12, 36), kind)
    found = []
    for layer in (adapted(base, make), adapted(base.plain(), make)):
        x = rows(5, 12).requires_grad_()
        torch.manual_seed(0)  # of dropout
        y = layer.train()(x)
        y.backward(rows(5, 36, seed=6))
        found.append([y.detach(), x.grad, layer.lora_A.grad, layer.lora_B.grad])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_dora_on_it_is_dora_on_the_plain_layer(kind, tmp_path):
    model = clip(tmp_path, kind).model
    twin = copy.deepcopy(model)
    dequantize(twin)
    found = []
    for one in (model, twin):
        adapter = inject_lora(one, [TowerTargets("text_model", ("q_proj",), "t")], rank=2, alpha=2.0, dora=True)
        for place, layer in enumerate(adapter.layers.values()):
            layer.lora_B.data.copy_(rows(*layer.lora_B.shape, seed=place) / 4)
        output = one.get_text_features(input_ids=torch.tensor([[1, 3, 5, 559]])).pooler_output
        output.square().sum().backward()
        found.append([output.detach(), *(parameter.grad for parameter in adapter.parameters())])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_put_on_and_taken_off_leaves_the_quantised_base_bit_for_bit(kind, tmp_path):
    encoder = clip(tmp_path, kind)
    model, tokens = encoder.model, encoder.tokenize(["a red circle", "two"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    base = encoder.embed_texts(tokens, batch_size=2)
    adapter = inject_lora(model, [TowerTargets("text_model", ("q_proj", "fc1"), "t")], rank=2, alpha=2.0)
    for layer in adapter.layers.values():
        layer.lora_B.data.copy_(rows(*layer.lora_B.shape) / 4)
    moved = encoder.embed_texts(tokens, batch_size=2)
    adapter.merge()
    merged = encoder.embed_texts(tokens, batch_size=2)
    adapter.unmerge()
    adapter.set_scale(0.0)
    assert torch.equal(encoder.embed_texts(tokens, batch_size=2), base)
    adapter.remove()
    assert (moved - base).abs().max() > 1e-3
    torch.testing.assert_close(merged, moved, rtol=1e-4, atol=1e-6)
    inject_prefix(model, TEXT_TOWER, length=2).remove()
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_numbers_are_counted_as_those_of_the_weights_and_take_a_fraction_of_their_bytes(tmp_path):
    def size(model):
        return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())

    whole = load_dual_encoder(str(save_clip(tmp_path / "clip")), Compute(CPU, torch.float32)).model
    inside = sum(m.weight.numel() for n, m in whole.named_modules() if isinstance(m, nn.Linear) and ".layers." in n)
    for kind, share in (("int8", 0.25 + 1 / 32), ("nf4", 0.125 + 1 / 64)):  # a scale for a row of 32, or for 64 numbers
        model = clip(tmp_path, kind).model
        assert [row.total for row in parameter_table(model)] == [row.total for row in parameter_table(whole)]
        assert size(model) <= size(whole) - 4 * inside * (1 - share)


def test_without_the_library_the_message_says_what_installs_it(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    quantized._bitsandbytes.cache_clear()
    try:
        with pytest.raises(ConfigError, match="need bitsandbytes, which is not installed") as told:
            clip(tmp_path, "nf4")
    finally:
        quantized._bitsandbytes.cache_clear()
    assert told.value.key == "quantization"
    assert told.value.remedy == "pip install 'vectoruniverse[quantized]'"


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ConfigError, match="no blocks of linear layers"):
        quantize(nn.Sequential(nn.Linear(3, 3)), "int8", torch.float32)


def test_loading_the_library_fetches_no_code_and_says_nothing(caplog, monkeypatch):
    quantized._bitsandbytes.cache_clear()
    disabled = logging.root.manager.disable
    quantized._bitsandbytes()
    assert not caplog.records and logging.root.manager.disable == disabled


@pytest.mark.parametrize(
    ("task", "settings", "told"),
    [
        ("image_text", {"data": {"root": "a"}}, "only frozen weights can be quantised"),
        ("masked_lm", {"data": {"source": "a"}, "adapter": {"method": "lora"}}, "not for pre-training"),
        ("image_text", {"data": {"root": "a"}, "quantization": "int4", "adapter": {}}, "quantization"),
    ],
)
def test_what_cannot_be_quantised_is_told_by_key(task, settings, told, tmp_path):
    file = tmp_path / "a.yaml"
    base = {"name": "a", "task": task, "model": "m", "quantization": "nf4", "adapter": {"method": "full"}}
    file.write_text(yaml.safe_dump(base | settings), encoding="utf-8")
    with pytest.raises(ConfigError, match=told):
        load_experiment(file)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_what_the_cpu_gives(kind):
    here = QuantizedLinear(a_linear(64, 96), kind)
    there = copy.deepcopy(here).to("cuda")
    x, moved = rows(5, 64).requires_grad_(), rows(5, 64).cuda().requires_grad_()
    here(x).sum().backward()
    there(moved).sum().backward()
    torch.testing.assert_close(there(moved).cpu(), here(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved.grad.cpu(), x.grad, rtol=1e-4, atol=1e-4)
