"""What a model's own image processor does to a picture is what a run does to it, from the file to the model's input."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from tests.models.models import SAVE
from vectoruniverse.data.decoding import decode_picture
from vectoruniverse.data.views import to_input
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.dual import load_dual_encoder
from vectoruniverse.tasks.image_text.model import picture_recipe
from vectoruniverse.tasks.image_text.settings import ImageTextExperiment

SQUASH = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
DECLARED = {
    "as it is": {},
    "squashed": SQUASH,
    "a part of the middle": {"size": {"shortest_edge": 37}},
    "not normalised": {"do_normalize": False},
    "scaled to -1 to 1": {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 1.0, 1.0]},
    "not scaled": {"do_rescale": False, "image_mean": [120.0, 110.0, 100.0], "image_std": [60.0, 61.0, 62.0]},
    "bilinear": {"resample": 2},
    "nearest": {"resample": 0},
    "box, squashed": {"resample": 4, **SQUASH},
    "lanczos, further in": {"resample": 1, "size": {"shortest_edge": 41}},
}


def load(folder):
    return load_dual_encoder(str(folder), Compute(torch.device("cpu"), torch.float32))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return {family: SAVE[family](tmp_path_factory.mktemp("models") / family) for family in ("clip", "siglip")}


def declare(folder, settings):
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def ours(encoder, file, **data):
    """A picture file on the way that a run takes it."""
    experiment = ImageTextExperiment.model_validate(
        {"name": "x", "task": "image_text", "model": "m", "data": {"root": "x", **data}}
    )
    square = decode_picture(file, picture_recipe(experiment, encoder))
    picture = encoder.picture
    mean, std = torch.tensor(picture.mean), torch.tensor(picture.std)
    return to_input(torch.from_numpy(square).unsqueeze(0), picture.size, mean, std)


def theirs(folder, file):
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return torch.as_tensor(np.asarray(processor(images=Image.open(file), return_tensors="np")["pixel_values"]))


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("declared", DECLARED)
def test_a_run_sees_what_the_model_s_own_processor_makes(declared, family, sound, tmp_path):
    if family == "siglip" and "shortest_edge" in str(DECLARED[declared]):
        pytest.skip("SigLIP's processor has no crop")
    folder = shutil.copytree(sound[family], tmp_path / "model")
    declare(folder, DECLARED[declared])
    encoder = load(folder)
    again = tmp_path / "again"
    encoder.save(again)
    for i, shape in enumerate([(45, 160), (90, 51), (20, 33)]):
        file = tmp_path / f"{i}.png"
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (*shape, 3), dtype=np.uint8)).save(file)
        expected = theirs(folder, file)
        scale = expected.abs().max() * 1e-5
        assert (ours(encoder, file) - expected).abs().max() <= scale
        assert (theirs(again, file) - expected).abs().max() <= scale, "a saved model's own processor does the same"


def test_an_experiment_may_choose_another_way_to_make_a_square(sound, tmp_path):
    encoder, file = load(sound["siglip"]), tmp_path / "wide.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 99, 3), dtype=np.uint8)).save(file)
    assert torch.equal(ours(encoder, file), ours(encoder, file, fit="squash"))
    assert not torch.allclose(ours(encoder, file), ours(encoder, file, fit="crop"), atol=0.1)
