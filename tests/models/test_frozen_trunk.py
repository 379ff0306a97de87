"""Blocks below the first one that is trained: nothing of them is kept for the way back, and they can be left out."""

from __future__ import annotations

import pytest
import torch

from tests.models.models import SAVE
from vectoruniverse.adapters.apply import TowerTargets, inject_lora
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.dual import load_dual_encoder
from vectoruniverse.models.trunk import Trunk

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


# ---- what a pass that begins behind the trunk gives -----------------------------------------------------------------


@pytest.fixture
def adapted(saved):
    """An encoder with LoRA on its upper block, in training; BERT's towers are kept from drawing dropout."""
    family, folder = saved
    encoder = load(folder)
    adapter = adapt(encoder, family)
    for module in encoder.model.text_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    return encoder, adapter


def states_of(encoder, trunk, encode):
    with encoder.evaluating(), trunk.reached() as found:
        encode()
        pytest.fail("the pass goes on behind the trunk")
    (states,) = found
    assert not states.requires_grad and encoder.model.training
    return states


def vectors_and_gradients(encode, adapter):
    vectors = encode()
    weights = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(2))
    given = torch.autograd.grad((vectors * weights).sum(), adapter.parameters(), allow_unused=True)
    return vectors, [one for one in given if one is not None]


def test_a_pass_that_begins_behind_the_trunk_is_the_whole_one_with_its_gradients(adapted):
    encoder, adapter = adapted
    pixels, batch = inputs(encoder)
    longer = encoder.pad(encoder.tokenize(["a red circle", "two", "the blue square on the left"]), range(3), 11)
    seen, read = (Trunk(encoder.model.get_submodule(side)) for side in ("vision_model", "text_model"))
    assert seen.blocks == read.blocks == FIRST
    whole = vectors_and_gradients(lambda: encoder.encode_images(pixels), adapter)
    states = states_of(encoder, seen, lambda: encoder.encode_images(pixels))
    with seen.skipped(states):
        torch.testing.assert_close(
            vectors_and_gradients(lambda: encoder.encode_images(states), adapter), whole, rtol=1e-6, atol=1e-6
        )
    whole = vectors_and_gradients(lambda: encoder.encode_texts(batch), adapter)
    states = states_of(encoder, read, lambda: encoder.encode_texts(longer))
    with read.skipped(states[:, : batch.ids.shape[1]]):
        torch.testing.assert_close(
            vectors_and_gradients(lambda: encoder.encode_texts(batch), adapter), whole, rtol=1e-6, atol=1e-6
        )


def test_nothing_of_a_skipped_trunk_is_computed_and_nothing_is_left_behind(adapted):
    encoder, _ = adapted
    pixels, _ = inputs(encoder)
    before = encoder.encode_images(pixels)
    trunk = Trunk(encoder.model.vision_model)
    states = states_of(encoder, trunk, lambda: encoder.encode_images(pixels))
    ran = []
    inner = [module for part in trunk.parts for module in part.modules() if module not in trunk.parts]
    handles = [module.register_forward_hook(lambda *_: ran.append(1)) for module in inner]
    with trunk.skipped(states):
        encoder.encode_images(states)
    assert not ran
    with pytest.raises(IndexError), trunk.skipped(states):
        raise IndexError
    with pytest.raises(IndexError), trunk.reached():
        raise IndexError
    assert torch.equal(encoder.encode_images(pixels), before) and ran
    for handle in handles:
        handle.remove()


def test_the_fingerprint_tells_weights_below_and_only_those(saved):
    family, folder = saved
    encoder = load(folder)
    adapt(encoder, family)
    tower = encoder.model.vision_model
    first = Trunk(tower).fingerprint()
    with torch.no_grad():
        blocks_of(tower)[FIRST].layer_norm1.weight.add_(1.0)
    assert Trunk(tower).fingerprint() == first
    with torch.no_grad():
        blocks_of(tower)[0].layer_norm1.weight[0] += 1e-3
    assert Trunk(tower).fingerprint() != first


def test_a_tower_without_anything_trained_is_all_trunk_and_one_trained_from_its_first_block_has_none(saved):
    family, folder = saved
    encoder = load(folder)
    encoder.model.requires_grad_(False)
    assert Trunk(encoder.model.text_model).blocks == 2
    pixels, _ = inputs(encoder)
    trunk = Trunk(encoder.model.vision_model)
    encoder.model.train()
    states = states_of(encoder, trunk, lambda: encoder.encode_images(pixels))
    with torch.no_grad():
        whole = encoder.encode_images(pixels)
        with trunk.skipped(states):
            torch.testing.assert_close(encoder.encode_images(states), whole, rtol=1e-6, atol=1e-6)
    adapt(encoder, family, first=0)
    assert Trunk(encoder.model.text_model).blocks == Trunk(encoder.model.vision_model).blocks == 0
