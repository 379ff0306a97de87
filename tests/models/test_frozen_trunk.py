"""Blocks below the first one that is trained: nothing of them is kept for the way back."""

from __future__ import annotations

import pytest
import torch

from tests.models.models import SAVE
from vectoruniverse.adapters.apply import TowerTargets, inject_lora
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.dual import load_dual_encoder

FIRST = 1
LAYERS = {"vision_model": ("k_proj", "fc2"), "text_model": ("k_proj", "fc2")}
BERT = ("key", "output.dense")


@pytest.fixture(scope="module", params=sorted(SAVE))
def saved(request, tmp_path_factory):
    return request.param, SAVE[request.param](tmp_path_factory.mktemp("models") / request.param)


def load(folder, dtype=torch.float32):
    return load_dual_encoder(str(folder), Compute(torch.device("cpu"), dtype, "sdpa"))


def adapt(encoder, family, first=FIRST, dropout=0.0):
    """LoRA on the blocks from ``first`` on, in both towers."""
    text = BERT if family in ("altclip", "chinese_clip") else LAYERS["text_model"]
    blocks = tuple(range(first, 2))
    targets = [
        TowerTargets("vision_model", LAYERS["vision_model"], "adapter.vision_targets", blocks),
        TowerTargets("text_model", text, "adapter.text_targets", blocks),
    ]
    adapter = inject_lora(encoder.model, targets, rank=2, alpha=2.0, dropout=dropout, seed=0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(3))
    encoder.model.train()
    return adapter


def inputs(encoder, rows=3):
    drawn = torch.Generator().manual_seed(1)
    pixels = torch.randn(rows, 3, encoder.picture.size, encoder.picture.size, generator=drawn)
    tokens = encoder.tokenize(["a red circle", "two", "the blue square on the left"][:rows])
    return pixels, encoder.pad(tokens, range(rows))


def blocks_of(tower):
    return next(module for module in tower.modules() if isinstance(module, torch.nn.ModuleList))


def saved_by_module(encoder, encode):
    """How many tensors autograd keeps while each of these runs, and whether its output wants a gradient."""
    kept, wants, running = {}, {}, []

    def enter(name):
        return lambda *_: running.append(name)

    def leave(name):
        def note(_module, _args, output):
            wants[name] = output.requires_grad
            running.remove(name)

        return note

    def pack(tensor):
        for name in running or ["elsewhere"]:
            kept[name] = kept.get(name, 0) + 1
        return tensor

    handles = []
    for side in ("vision_model", "text_model"):
        tower = encoder.model.get_submodule(side)
        watched = {f"{side} {i}": block for i, block in enumerate(blocks_of(tower))}
        below = ("embeddings", "pre_layrnorm")
        watched |= {f"{side} {n}": m for n, m in tower.named_modules() if n.rpartition(".")[2] in below}
        for name, module in watched.items():
            handles += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave(name))]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        vectors = encode()
    for handle in handles:
        handle.remove()
    return kept, wants, vectors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_below_the_first_adapted_block_is_kept_for_the_way_back(saved, dtype):
    family, folder = saved
    encoder = load(folder, dtype)
    adapt(encoder, family)
    pixels, batch = inputs(encoder)
    kept, wants, vectors = saved_by_module(
        encoder, lambda: torch.cat([encoder.encode_images(pixels), encoder.encode_texts(batch)])
    )
    above = {f"{side} {FIRST}" for side in ("vision_model", "text_model")}
    assert {name for name, wanted in wants.items() if wanted} == above == kept.keys() - {"elsewhere"}
    assert len(wants) == (6 if family == "siglip" else 7), "embeddings, blocks, and the norm before them were watched"
    vectors.sum().backward()
    trained = {name for name, p in encoder.model.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in encoder.model.named_parameters() if p.requires_grad}
    assert all(".1." in name for name in trained)


def test_with_every_block_adapted_the_same_count_finds_tensors_in_all(saved):
    family, folder = saved
    encoder = load(folder)
    adapt(encoder, family, first=0)
    pixels, batch = inputs(encoder)
    kept, _, _ = saved_by_module(
        encoder, lambda: torch.cat([encoder.encode_images(pixels), encoder.encode_texts(batch)])
    )
    assert kept.keys() >= {f"{side} {at}" for side in ("vision_model", "text_model") for at in (0, 1)}
