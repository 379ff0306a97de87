"""An image tower that reads some of a picture's patches, against a slow oracle, in every family."""

from __future__ import annotations

import pytest
import torch

from tests.models.models import SAVE
from vectoruniverse.adapters.apply import TowerTargets, inject_lora
from vectoruniverse.adapters.prefix import inject_prefix
from vectoruniverse.errors import ConfigError
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.dual import load_dual_encoder
from vectoruniverse.models.patch_dropout import count_kept, only_patches

CLASS_TOKEN = {"altclip": 1, "chinese_clip": 1, "clip": 1, "metaclip_2": 1, "siglip": 0}


@pytest.fixture(scope="module", params=sorted(SAVE))
def saved(request, tmp_path_factory):
    return request.param, SAVE[request.param](tmp_path_factory.mktemp("models") / request.param)


def load(folder, dtype=torch.float32, attention="eager"):
    return load_dual_encoder(str(folder), Compute(torch.device("cpu"), dtype, attention))


def batch(encoder, rows=3, kept=3):
    """Pixels (B, 3, H, H) and the patches kept of each picture (B, K), other ones in each."""
    drawn = torch.Generator().manual_seed(1)
    pixels = torch.randn(rows, 3, encoder.picture.size, encoder.picture.size, generator=drawn)
    order = torch.rand(rows, encoder.patches, generator=drawn).argsort(1)
    return pixels, order[:, :kept].sort(1).values


def by_hand(encoder, family, pixels, kept):
    """One picture after the other: all embeddings, the chosen tokens copied one by one, the blocks, the tower's end."""
    tower, found = encoder.model.vision_model, []
    for one, chosen in zip(pixels, kept.tolist(), strict=True):
        tokens = tower.embeddings(one.unsqueeze(0))
        first = [tokens[:, 0]] if CLASS_TOKEN[family] else []
        states = torch.stack([*first, *(tokens[:, CLASS_TOKEN[family] + at] for at in chosen)], dim=1)
        if family != "siglip":
            states = tower.pre_layrnorm(states)
        states = tower.encoder(inputs_embeds=states).last_hidden_state
        if family == "siglip":
            pooled = tower.head(tower.post_layernorm(states))
        else:
            pooled = encoder.model.visual_projection(tower.post_layernorm(states[:, 0]))
        found.append(pooled[0] / pooled[0].norm())
    return torch.stack(found)


def seen_by_blocks(encoder):
    """Shapes of the states that enter a block, noted while this list lives."""
    shapes = []
    for block in encoder.model.vision_model.encoder.layers:
        block.register_forward_pre_hook(lambda _, args, given: shapes.append((args or [*given.values()])[0].shape),
                                        with_kwargs=True)  # fmt: skip
    return shapes


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_vectors_are_those_of_the_chosen_tokens_alone(saved, attention):
    family, folder = saved
    encoder = load(folder, attention=attention)
    pixels, kept = batch(encoder)
    with torch.no_grad():
        expected = by_hand(encoder, family, pixels, kept)
        shapes = seen_by_blocks(encoder)
        torch.testing.assert_close(encoder.encode_images(pixels, kept), expected, rtol=1e-5, atol=1e-6)
        assert {shape[1] for shape in shapes} == {CLASS_TOKEN[family] + 3} and len(shapes) == 2, "in every block"
        assert not torch.allclose(encoder.encode_images(pixels), expected, atol=1e-4)


def test_all_patches_in_their_order_are_the_picture_and_nothing_is_left_behind(saved):
    _, folder = saved
    encoder = load(folder)
    pixels, kept = batch(encoder, kept=2)
    with torch.no_grad():
        before = encoder.encode_images(pixels)
        everything = torch.arange(encoder.patches).expand(len(pixels), -1)
        assert torch.equal(encoder.encode_images(pixels, everything), before)
        encoder.encode_images(pixels, kept)
        with pytest.raises(IndexError), only_patches(encoder.model.vision_model, kept):
            raise IndexError
        assert torch.equal(encoder.encode_images(pixels), before)


@pytest.mark.parametrize("method", ["lora", "full", "prefix"])
def test_gradients_of_whatever_is_trained_are_those_of_the_oracle(saved, method):
    family, folder = saved
    encoder = load(folder)
    tower = TowerTargets("vision_model", ("k_proj", "fc1"), "adapter.vision_targets")
    if method == "lora":
        adapter = inject_lora(encoder.model, [tower], rank=2, alpha=2.0, seed=0)
        for parameter in adapter.parameters():
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(3))
    elif method == "prefix":
        if family not in ("clip",):
            pytest.skip("prefixes know CLIP's attention")
        inject_prefix(encoder.model, "vision_model", length=2)
    trained = {n: p for n, p in encoder.model.named_parameters() if p.requires_grad and n.startswith("vision_model")}
    pixels, kept = batch(encoder)
    weights = torch.randn(3, 1000, generator=torch.Generator().manual_seed(2))

    def gradients(vectors):
        loss = (vectors * weights[:, : vectors.shape[1]]).sum()
        return torch.autograd.grad(loss, list(trained.values()), allow_unused=True)

    expected = gradients(by_hand(encoder, family, pixels, kept))
    found = gradients(encoder.encode_images(pixels, kept))
    for name, ours, theirs in zip(trained, found, expected, strict=True):
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)


def test_so_many_patches_are_kept():
    assert [count_kept(49, share) for share in (0.0, 0.25, 0.5, 0.75)] == [None, 37, 24, 12]
    assert count_kept(4, 0.99) == 1 and count_kept(1000, 0.001) == 999
    with pytest.raises(ConfigError, match=r"0\.001 of 49 patches is none") as caught:
        count_kept(49, 0.001)
    assert caught.value.key == "views.patch_dropout" and caught.value.remedy == "set it to 0.02 or more, or to 0"
