from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from vectoruniverse.data.views import Augmentation, augment, draw, to_input

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
ZERO, ONE = torch.zeros(3), torch.ones(3)


def noise(rows: int = 4, side: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (rows, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_draw_depends_on_row_and_not_on_its_place_in_the_batch():
    together = draw(1, 2, [11, 22, 33], 0)
    assert np.array_equal(together[[2, 0]], draw(1, 2, [33, 11], 0))


@pytest.mark.parametrize("other", [(0, 2, [11], 0), (1, 3, [11], 0), (1, 2, [12], 0), (1, 2, [11], 1)])
def test_a_draw_changes_with_seed_epoch_row_and_view(other):
    assert not np.array_equal(draw(1, 2, [11], 0), draw(*other))


def test_draws_are_uniform():
    numbers = draw(0, 0, range(4000), 0)
    assert np.abs(numbers.mean(0) - 0.5).max() < 0.02
    assert np.abs(numbers.var(0) - 1 / 12).max() < 0.005


def test_without_ranges_the_view_is_the_picture_itself():
    assert not Augmentation().is_random
    same = augment(noise(), draw(0, 0, range(4), 0), Augmentation(), 32, MEAN, STD)
    assert torch.allclose(same, to_input(noise(), 32, MEAN, STD), atol=1e-4)


def test_to_input_normalises_as_transformers_does():
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_mean=MEAN.tolist(),
        image_std=STD.tolist(),
    )
    theirs = processor([Image.fromarray(p.numpy()) for p in noise()], return_tensors="pt")["pixel_values"]
    assert torch.allclose(to_input(noise(), 32, MEAN, STD), theirs, atol=1e-5)


def test_a_crop_is_the_box_that_was_drawn():
    # a horizontal ramp: the mean of a crop tells where it was taken
    ramp = torch.arange(64, dtype=torch.uint8).mul(4).view(1, 1, 64, 1).expand(1, 64, 64, 3).contiguous()
    how = Augmentation(crop_scale=(0.25, 0.25))
    u = np.full((1, 8), 0.5)
    for x, first, last in ((0.0, 0, 31), (0.5, 16, 47), (1.0 - 1e-9, 32, 63)):
        u[0, 2] = x
        view = augment(ramp, u, how, 32, ZERO, ONE) * 255 / 4
        assert view[0, 0, 16, 0].item() == pytest.approx(first, abs=0.6)
        assert view[0, 0, 16, -1].item() == pytest.approx(last, abs=0.6)


def test_a_flip_mirrors_left_and_right_only():
    how = Augmentation(flip=True)
    u = np.full((4, 8), 0.5)
    u[:2, 4] = 0.1
    view = augment(noise(), u, how, 32, ZERO, ONE)
    straight = to_input(noise(), 32, ZERO, ONE)
    assert torch.allclose(view[:2], straight[:2].flip(-1), atol=1e-4)
    assert torch.allclose(view[2:], straight[2:], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "place", "enhance"),
    [
        ("brightness", 5, ImageEnhance.Brightness),
        ("contrast", 6, ImageEnhance.Contrast),
        ("saturation", 7, ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("u", [0.0, 0.8])
def test_colour_jitter_equals_pillow(name, place, enhance, u):
    draws = np.full((4, 8), 0.5)
    draws[:, place] = u
    view = augment(noise(), draws, Augmentation(**{name: 0.4}), 32, ZERO, ONE) * 255
    factor = 1 + 0.4 * (2 * u - 1)
    for ours, picture in zip(view, noise(), strict=True):
        theirs = np.asarray(enhance(Image.fromarray(picture.numpy())).enhance(factor), dtype=np.float32)
        # Pillow rounds to whole levels, and the mean grey too
        assert np.abs(ours.permute(1, 2, 0).numpy() - theirs).max() < 2.0


def test_views_are_in_range_and_differ_from_each_other():
    how = Augmentation((0.5, 1.0), (0.8, 1.25), 0.4, 0.4, 0.4, flip=True)
    first, second = (augment(noise(), draw(0, 0, range(4), view), how, 24, ZERO, ONE) for view in (0, 1))
    assert first.shape == (4, 3, 24, 24)
    assert first.min() >= 0 and first.max() <= 1
    assert (first - second).abs().mean() > 0.02
