"""DoRA and PiSSA against peft's own."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

from tests.adapters.clip import a_clip, both, check_all_ways, edit, embeddings, loss, trained
from tests.adapters.families import FAMILIES
from vectoruniverse.adapters.apply import LoraAdapter, TowerTargets, inject_lora
from vectoruniverse.adapters.dora import DoraLinear
from vectoruniverse.adapters.peft_format import load_lora, save_lora
from vectoruniverse.adapters.svd import singular_values, truncate
from vectoruniverse.errors import ConfigError

# peft 0.21 asks transformers for a property under its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

NAMES = ("q_proj", "fc1")
GPT2 = FAMILIES["gpt2"]


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def compare_gradients(adapter: LoraAdapter, theirs: nn.Module) -> None:
    for path, layer in adapter.layers.items():
        peer = theirs.base_model.model.get_submodule(path)
        its = [peer.lora_A.default.weight, peer.lora_B.default.weight]
        its += [peer.lora_magnitude_vector.default.weight] if isinstance(layer, DoraLinear) else []
        for mine, other in zip(layer.trained().values(), its, strict=True):
            assert mine.grad.abs().max() > 0
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-5)


# ---- DoRA ------------------------------------------------------------------------------------------------------------


def dora_pair(**settings: object) -> tuple[nn.Module, LoraAdapter, nn.Module]:
    ours = a_clip()
    adapter = inject_lora(ours, both(*NAMES), rank=4, alpha=6.0, dora=True, **settings)
    config = peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=list(NAMES))
    return ours, adapter, peft.get_peft_model(a_clip(), config)


def disturbed(adapter: LoraAdapter) -> LoraAdapter:
    """As if trained; magnitudes stay positive."""
    magnitudes = {path: layer.lora_magnitude_vector.detach().clone() for path, layer in adapter.layers.items()}
    trained(adapter)
    with torch.no_grad():
        for path, layer in adapter.layers.items():
            layer.lora_magnitude_vector.copy_(magnitudes[path] * (1 + layer.lora_magnitude_vector / 2))
    return adapter


def test_dora_is_peft_s_in_values_and_gradients(tmp_path: Path) -> None:
    ours, adapter, theirs = dora_pair()
    assert torch.equal(embeddings(ours), embeddings(a_clip()))
    disturbed(adapter)
    peft.set_peft_model_state_dict(theirs, adapter.state_dict())
    torch.testing.assert_close(embeddings(ours), embeddings(theirs), rtol=1e-5, atol=1e-5)
    loss(ours).backward()
    loss(theirs).backward()
    compare_gradients(adapter, theirs)
    check_all_ways(ours, adapter, tmp_path)


def test_dora_drops_the_same_inputs_as_peft() -> None:
    ours = nn.Sequential(nn.Linear(12, 20))
    adapter = disturbed(LoraAdapter(ours, ["0"], rank=3, alpha=6.0, dropout=0.5, dora=True))
    theirs = peft.get_peft_model(
        nn.Sequential(ours[0].base),
        peft.LoraConfig(r=3, lora_alpha=6, lora_dropout=0.5, use_dora=True, target_modules=["0"]),
    )
    peft.set_peft_model_state_dict(theirs, adapter.state_dict())
    ours.train()
    theirs.train()
    x = torch.randn(5, 12)
    torch.manual_seed(1)
    mine = ours(x)
    torch.manual_seed(1)
    torch.testing.assert_close(mine, theirs(x), rtol=1e-5, atol=1e-5)


def test_dora_of_gpt2_s_transposed_layers_is_peft_s(tmp_path: Path) -> None:
    ours = GPT2.model()
    adapter = inject_lora(ours, [TowerTargets("", ("c_attn", "attn.c_proj"), "k")], rank=2, alpha=2.0, dora=True)
    disturbed(adapter)
    save_lora(adapter, tmp_path, base_model="gpt2")
    adapted = GPT2.rows(ours)
    theirs = peft.PeftModel.from_pretrained(GPT2.model(), tmp_path)
    torch.testing.assert_close(GPT2.rows(theirs), adapted, rtol=1e-5, atol=1e-5)
    adapter.merge()
    torch.testing.assert_close(GPT2.rows(ours), adapted, rtol=1e-5, atol=1e-5)
    for path, values in singular_values(adapter).items():
        slow = torch.linalg.svdvals(adapter.layers[path].delta_weight().double())
        torch.testing.assert_close(values, slow, rtol=1e-5, atol=1e-6)
    short, paths = truncate(adapter, 32), list(adapter.layers)  # all directions: plain LoRA with the same function
    adapter.remove()
    LoraAdapter(ours, paths, rank=32, alpha=32.0).load_state_dict(short.state)
    torch.testing.assert_close(GPT2.rows(ours), adapted, rtol=1e-4, atol=1e-4)


def test_dora_in_bf16_starts_at_the_base_and_stays_near_fp32() -> None:
    reference, layer = (DoraLinear(base, rank=2, alpha=4.0) for base in bf16_pair())
    x = torch.randn(16, 12)
    assert torch.equal(layer(x.bfloat16()), layer.base(x.bfloat16()))
    for one in (reference, layer):
        with torch.no_grad():
            one.lora_A.copy_(torch.ones(2, 12) / 4)
            one.lora_B.copy_(torch.linspace(-1, 1, 40).view(20, 2))
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert (y - reference(x)).norm() < 0.02 * reference(x).norm()


def bf16_pair() -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    half = nn.Linear(12, 20).bfloat16()
    whole = nn.Linear(12, 20)
    whole.load_state_dict(half.state_dict())
    return whole, half


def test_dora_takes_neither_parts_nor_pissa() -> None:
    with pytest.raises(ConfigError, match="cannot start from pissa"):
        inject_lora(a_clip(), both("q_proj"), rank=1, alpha=1.0, dora=True, initialisation="pissa")
    with pytest.raises(ConfigError, match=r"no parts of h\.0\.attn\.c_attn"):
        inject_lora(GPT2.model(), [TowerTargets("", ("c_attn.q",), "k")], rank=1, alpha=1.0, dora=True)


# ---- PiSSA -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_pissa_is_peft_s_in_values_and_gradients(tmp_path: Path, rank_stabilized: bool) -> None:
    ours = a_clip()
    untouched = bits(ours)
    adapter = inject_lora(
        ours, both(*NAMES), rank=4, alpha=6.0, initialisation="pissa", rank_stabilized=rank_stabilized
    )
    assert torch.equal(embeddings(ours), embeddings(a_clip()))
    assert all(torch.equal(layer.base.weight, untouched[f"{path}.weight"]) for path, layer in adapter.layers.items())
    config = peft.LoraConfig(
        r=4, lora_alpha=6, init_lora_weights="pissa", target_modules=list(NAMES), use_rslora=rank_stabilized
    )
    theirs = peft.get_peft_model(a_clip(), config)
    for path, layer in adapter.layers.items():
        peer = theirs.base_model.model.get_submodule(path)
        product = peer.lora_B.default.weight @ peer.lora_A.default.weight
        torch.testing.assert_close(layer.lora_B @ layer.lora_A, product, rtol=1e-4, atol=1e-5)
    for parameter in adapter.parameters():
        parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) / 8
    peft.set_peft_model_state_dict(theirs, adapter.state_dict())
    torch.testing.assert_close(embeddings(ours), embeddings(theirs), rtol=1e-5, atol=1e-5)
    loss(ours).backward()
    loss(theirs).backward()
    compare_gradients(adapter, theirs)
    for path, values in singular_values(adapter).items():
        slow = torch.linalg.svdvals(adapter.layers[path].delta_weight().double())
        torch.testing.assert_close(values, slow[: len(values)], rtol=1e-4, atol=1e-5)
    check_all_ways(ours, adapter, tmp_path)


def test_an_adapter_that_peft_saved_as_pissa_loads_on_the_unchanged_base(tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=6, init_lora_weights="pissa", target_modules=list(NAMES))
    theirs = peft.get_peft_model(a_clip(), config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) / 8
    theirs.save_pretrained(tmp_path)
    model = a_clip()
    load_lora(model, tmp_path)
    torch.testing.assert_close(embeddings(model), embeddings(theirs), rtol=1e-5, atol=1e-5)
    edit(tmp_path, init_lora_weights="pissa_niter_4")
    with pytest.raises(ConfigError, match="sets init_lora_weights"):
        load_lora(a_clip(), tmp_path)


def test_pissa_of_fused_parts_starts_at_their_own_directions(tmp_path: Path) -> None:
    model = GPT2.model()
    base = GPT2.rows(model)
    target = [TowerTargets("", ("c_attn.q", "c_attn.v"), "k")]
    adapter = inject_lora(model, target, rank=2, alpha=3.0, initialisation="pissa")
    assert torch.equal(GPT2.rows(model), base)
    layer = next(iter(adapter.layers.values()))
    u, s, vh = torch.linalg.svd(layer.base.weight.T[-32:])
    torch.testing.assert_close(layer.scale * layer.lora_B[1] @ layer.lora_A[1], (u[:, :2] * s[:2]) @ vh[:2])
    for parameter in adapter.parameters():
        parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) / 2
    save_lora(adapter, tmp_path, base_model="gpt2")
    theirs = peft.PeftModel.from_pretrained(GPT2.model(), tmp_path)
    torch.testing.assert_close(GPT2.rows(theirs), GPT2.rows(model), rtol=1e-5, atol=1e-5)


def test_pissa_above_the_width_is_refused_and_the_model_stays_as_it_was() -> None:
    model = a_clip()
    before = [id(module) for module in model.modules()]
    with pytest.raises(ConfigError, match="only 32 directions") as caught:
        inject_lora(model, both(*NAMES), rank=33, alpha=1.0, initialisation="pissa")
    assert "at most 32" in str(caught.value.remedy)
    assert [id(module) for module in model.modules()] == before
    assert all(parameter.requires_grad for parameter in model.parameters())
