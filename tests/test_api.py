"""A run as a library: its vectors are those that its evaluation evaluated."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import vectoruniverse
from tests.conftest import COLOURS, draw_shape
from tests.export.runs import train_shapes
from vectoruniverse.api import load_run
from vectoruniverse.data.decoding import PictureError
from vectoruniverse.errors import ConfigError
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.finished import evaluate_run
from vectoruniverse.terminal import Display


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    return train_shapes(tmp_path_factory.mktemp("library"), shapes)


@pytest.fixture(scope="module")
def loaded(run):
    return load_run(run, device="cpu", precision="fp32")


def held_out(run):
    """Paths and texts of the held-out rows, in the order of the evaluation."""
    from vectoruniverse.data.decoding import PictureRecipe
    from vectoruniverse.tasks.image_text.data import decode
    from vectoruniverse.tasks.image_text.metadata import read_rows

    experiment = load_experiment(run / "config.yaml")
    data = decode(experiment.data, read_rows(experiment.data), PictureRecipe(32), Display(quiet=True))
    rows = [data.rows[i] for i in data.split.val]
    return [row.path for row in rows], [row.text for row in rows]


def test_importing_the_package_does_not_import_torch():
    code = "import sys, vectoruniverse; print({'torch', 'numpy', 'PIL'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert vectoruniverse.load_run is load_run
    with pytest.raises(AttributeError, match="load_runs"):
        _ = vectoruniverse.load_runs


def test_vectors_are_those_of_the_evaluation(run, loaded):
    _, comparison = evaluate_run(str(run), runs_dir=run.parent, split="val", display=Display(quiet=True))
    files, texts = held_out(run)
    adapted, base = comparison.adapted.vectors, comparison.base.vectors
    images = loaded.embed_images(files, batch_size=3)
    np.testing.assert_allclose(images, adapted["image"].numpy(), atol=1e-6)
    np.testing.assert_allclose(loaded.embed_texts(texts, batch_size=3), adapted["text"].numpy(), atol=1e-6)
    np.testing.assert_allclose(loaded.base.embed_images(files), base["image"].numpy(), atol=1e-6)
    np.testing.assert_allclose(loaded.base.embed_texts(texts), base["text"].numpy(), atol=1e-6)
    assert np.abs(adapted["image"].numpy() - base["image"].numpy()).max() > 0.01, "or the adapter is not on"
    assert images.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1.0, atol=1e-6)


def test_a_run_of_which_everything_was_trained_loads_too(shapes, tmp_path):
    run = train_shapes(tmp_path, shapes, adapter={"method": "full"})
    _, comparison = evaluate_run(str(run), runs_dir=run.parent, split="val", display=Display(quiet=True))
    loaded = load_run(run.name, runs_dir=run.parent, device="cpu", precision="fp32")
    files, _ = held_out(run)
    np.testing.assert_allclose(loaded.embed_images(files), comparison.adapted.vectors["image"].numpy(), atol=1e-6)
    np.testing.assert_allclose(loaded.base.embed_images(files), comparison.base.vectors["image"].numpy(), atol=1e-6)


def test_files_open_images_and_arrays_are_one_picture(loaded, tmp_path):
    picture = draw_shape("red", "cross", "left", size=50)
    picture.save(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    kinds = [tmp_path / "a.png", str(tmp_path / "a.png"), tmp_path / "link.png", picture, np.asarray(picture)]
    rows = loaded.embed_images(kinds)
    for row in rows[1:]:
        np.testing.assert_allclose(row, rows[0], atol=1e-6)


def test_open_images_are_turned_upright_and_laid_on_white_as_files_are(loaded, tmp_path):
    upright = draw_shape("blue", "triangle", "right", size=48)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated by a quarter
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    clear = upright.convert("RGBA")
    pixels = np.array(clear)
    pixels[(pixels == 255).all(axis=2)] = (9, 9, 9, 0)
    clear = Image.fromarray(pixels)
    grey16 = Image.fromarray((np.arange(48 * 48).reshape(48, 48) * 20).astype(np.uint16))
    grey16.save(tmp_path / "grey.png")
    with Image.open(tmp_path / "turned.png") as turned:
        rows = loaded.embed_images([upright, turned, tmp_path / "turned.png", clear])
    np.testing.assert_allclose(rows, rows[:1].repeat(4, axis=0), atol=1e-6)
    as_file, as_image = loaded.embed_images([tmp_path / "grey.png", grey16])
    np.testing.assert_allclose(as_file, as_image, atol=1e-6)
    assert loaded.embed_images([upright.convert("CMYK"), upright.convert("L"), upright.convert("P")]).shape == (3, 16)


def test_what_is_no_picture_is_named(loaded, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    fine = draw_shape("red", "circle", "left")
    whole = io.BytesIO()
    fine.save(whole, "JPEG")
    cases = [
        (tmp_path / "torn.png", "torn.png"),
        (tmp_path / "nothing.png", "nothing.png"),
        ("a\0b.png", "cannot be read"),
        (tmp_path, "not a regular file|cannot be read"),
        (Image.new("RGB", (9000, 8000)), "picture 1: has 9000 x 8000 pixels"),
        (Image.new("RGB", (400, 4)), "picture 1"),
        (Image.open(io.BytesIO(whole.getvalue()[:700])), "picture 1: cannot be decoded"),
        (np.zeros((4, 4, 3), np.float32), "picture 1: is neither"),
        (np.zeros((0, 4, 3), np.uint8), "picture 1: is neither"),
        (np.zeros((4, 4), np.uint8), "picture 1: is neither"),
        (None, "picture 1: is neither"),
    ]
    for picture, says in cases:
        with pytest.raises(PictureError, match=says):
            loaded.embed_images([fine, picture])


def test_one_picture_or_one_text_in_the_place_of_many_is_refused(loaded):
    with pytest.raises(TypeError, match="sequence of texts"):
        loaded.embed_texts("red")
    with pytest.raises(TypeError, match="sequence of pictures"):
        loaded.embed_images("red.png")
    with pytest.raises(ValueError, match="batch_size 0"):
        loaded.embed_texts(["red"], batch_size=0)


def test_nothing_gives_no_rows_of_the_right_width(loaded):
    assert loaded.embed_texts([]).shape == loaded.embed_images([]).shape == (0, 16)


def test_texts_may_come_in_any_order_and_any_length(loaded):
    texts = ["one", "two three four one two", "", "red circle", "the " * 60, "<|endoftext|> red"]
    together = loaded.embed_texts(texts, batch_size=2)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(loaded.embed_texts([text])[0], row, atol=1e-6)


def test_a_run_without_an_adapter_and_one_that_is_not_there_are_told(run, tmp_path):
    bare = tmp_path / "runs" / "bare-20260101-0000-abcd"
    bare.mkdir(parents=True)
    with pytest.raises(ConfigError, match="no adapter yet"):
        load_run("bare", runs_dir=tmp_path / "runs")
    with pytest.raises(ConfigError, match="no run is called"):
        load_run("nothing", runs_dir=run.parent)
    with pytest.raises(ConfigError, match="no cuda:7 here"):
        load_run(run, device="cuda:7")


def test_random_weights_are_no_base(shapes, tmp_path):
    scratch = {
        "scratch": "clip", "image_size": 32, "patch_size": 16, "width": 32, "heads": 2, "vision_layers": 1,
        "text_layers": 1, "projection_dim": 16, "vocab_size": 560, "max_text_tokens": 16,
    }  # fmt: skip
    run = train_shapes(tmp_path, shapes, model=scratch, adapter={"method": "full"})
    loaded = load_run(run, device="cpu", precision="fp32")
    assert loaded.embed_images([draw_shape(next(iter(COLOURS)), "circle", "left")]).shape == (1, 16)
    with pytest.raises(ConfigError, match="random weights"):
        _ = loaded.base
