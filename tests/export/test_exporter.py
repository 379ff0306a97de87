"""Each format, for each family of models, through the library that reads it; and the card's snippet as it stands."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import draw_shape
from tests.export.runs import train_shapes
from tests.models.models import SAVE
from vectoruniverse.api import load_run
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.export.check import ExportError, Probe, Vectors, compare, make_probe
from vectoruniverse.export.exporter import export_run
from vectoruniverse.export.formats import FORMATS, embed_with
from vectoruniverse.export.packages import PACKAGES

CHECKOUT = Path(__file__).resolve().parents[2]

PAIRS = [
    *(
        (to, family)
        for to in ("peft", "sentence-transformers", "transformers")
        for family in [*sorted(SAVE), "tiny-clip"]
    ),
    ("onnx", "clip"),
    ("onnx", "siglip"),  # one is enough of each kind of text input: a mask, or one length
]


@pytest.fixture(scope="module")
def runs(shapes, tmp_path_factory):
    """Runs of each family, trained when a test first asks for them."""
    folders = {}

    def run(model):
        if model not in folders:
            folders[model] = train_shapes(tmp_path_factory.mktemp("run"), shapes, model)
        return folders[model]

    return run


def execute_snippet(folder, beside):
    """Run the card's Python in ``folder`` as a person would, on a picture that lies there."""
    readme = (folder / "README.md").read_text(encoding="utf-8")
    code = readme.split("```python\n")[1].split("```")[0]
    work = beside / "work"
    shutil.copytree(folder, work)
    draw_shape("red", "circle", "left").save(work / "picture.jpg", quality=95)
    names: dict[str, object] = {}
    with contextlib.chdir(work), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other libraries', about themselves
        exec(code, names)
    return work / "picture.jpg", names["image_vectors"], names["text_vectors"]


@pytest.mark.parametrize(("to", "family"), PAIRS)
def test_every_format_gives_the_run_s_vectors(to, family, runs, tmp_path):
    run = runs(family)
    exported = export_run(str(run), to, out=tmp_path / "out")
    assert 0.0 <= max(exported.agreement.image, exported.agreement.text) <= FORMATS[to].tolerance
    assert exported.agreement.source == "8 rows of the run's data"
    picture, image, text = execute_snippet(exported.folder, tmp_path)
    loaded = load_run(run, device="cpu", precision="fp32")
    np.testing.assert_allclose(image, loaded.embed_images([picture]), atol=1e-5)
    np.testing.assert_allclose(text, loaded.embed_texts(["a red circle"]), atol=1e-5)
    assert np.abs(image - loaded.base.embed_images([picture])).max() > 1e-3, "the base alone would not pass"
    if to != "peft":
        tell_no_paths(exported, tmp_path)


def tell_no_paths(exported, root):
    """Nothing in an export tells where this machine keeps things."""
    for name in exported.files:
        content = (exported.folder / name).read_bytes()
        assert not any(str(place).encode() in content for place in (root.parent, sys.prefix, CHECKOUT)), name


def test_the_built_in_base_goes_along_with_its_adapter(runs, tmp_path):
    built_in = export_run(str(runs("tiny-clip")), "peft", out=tmp_path / "peft")
    config = json.loads((built_in.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base"
    assert "base/model.safetensors" in built_in.files
    tell_no_paths(built_in, tmp_path)


def test_the_snippet_of_a_wide_picture_too(runs, tmp_path):
    """What is cut off and how it is resized is the image processor's work, and the same as in training."""
    run = runs("clip")
    exported = export_run(str(run), "transformers", out=tmp_path / "out")
    wide = np.random.default_rng(0).integers(0, 256, (47, 91, 3), np.uint8)
    from PIL import Image
    from transformers import AutoModel

    probe = Probe(wide[None], ["a red circle"], "")
    theirs = embed_with(AutoModel.from_pretrained(exported.folder), exported.folder, probe)
    ours = load_run(run, device="cpu", precision="fp32").embed_images([Image.fromarray(wide)])
    np.testing.assert_allclose(theirs.image, ours, atol=1e-5)


def test_trained_projections_and_scalars_go_along(shapes, tmp_path):
    adapter = {"method": "lora", "rank": 2, "train_projections": True, "train_logit_scale": True}
    run = train_shapes(tmp_path, shapes, adapter=adapter, loss={"name": "info_nce"})
    for to in ("peft", "transformers"):
        exported = export_run(str(run), to)
        assert exported.folder == run / "export" / to
    from safetensors.torch import load_file

    merged = load_file(run / "export" / "transformers" / "model.safetensors")
    trained = load_file(run / "adapter" / "logit_scalars.safetensors")
    assert merged["logit_scale"] == trained["logit_scale"]
    assert "logit_scalars.safetensors" in export_run(str(run), "peft").files


def test_a_run_of_which_everything_was_trained_has_no_adapter_to_give(shapes, tmp_path):
    run = train_shapes(tmp_path, shapes, adapter={"method": "full"})
    with pytest.raises(ConfigError, match="no adapter"):
        export_run(str(run), "peft", out=tmp_path / "peft")
    assert not (tmp_path / "peft").exists()
    assert export_run(str(run), "transformers", out=tmp_path / "plain").agreement.image <= 1e-5


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_other_ways_to_make_a_picture_square(fit, shapes, tmp_path):
    data = {"root": str(shapes), "fit": fit, "cache_size": 40, "split": {"val_fraction": 0.25, "test_fraction": 0}}
    run = train_shapes(tmp_path, shapes, data=data)
    exported = export_run(str(run), "transformers", out=tmp_path / "out")
    readme = (exported.folder / "README.md").read_text()
    assert ("Pad pictures to a square in black first" in readme) == (fit == "pad")
    assert "went through 40 x 40 pixels" in readme
    settings = json.loads((exported.folder / "processor_config.json").read_text())["image_processor"]
    assert settings["do_center_crop"] is False and settings["size"] == {"height": 32, "width": 32}


def test_without_the_data_the_check_uses_noise(runs, tmp_path):
    run = tmp_path / runs("clip").name
    shutil.copytree(runs("clip"), run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["root"] = str(tmp_path / "gone")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    exported = export_run(str(run), "transformers")
    assert exported.agreement.source.startswith("generated noise")
    probe = make_probe(load_run(run, device="cpu", precision="fp32"))
    assert probe.squares.shape == (8, 32, 32, 3) and len(set(probe.texts)) == 9


def test_the_check_asks_for_a_text_that_is_cut(runs):
    loaded = load_run(runs("siglip"), device="cpu", precision="fp32")
    assert loaded.encoder.tokenize(make_probe(loaded).texts).truncated == [8]


def test_other_vectors_are_refused_and_nothing_is_left(runs, tmp_path):
    loaded = load_run(runs("clip"), device="cpu", precision="fp32")
    probe, how = make_probe(loaded), {"reader": "transformers", "tolerance": 1e-5, "source": "a test"}
    good = Vectors(loaded.embed_squares(probe.squares), loaded.embed_texts(probe.texts))
    off = Vectors(good.image + 2e-5, good.text)
    for wrong in (off, Vectors(good.image, good.text * np.nan), Vectors(good.image[:1], good.text)):
        with pytest.raises(ExportError, match="largest difference"):
            compare(good, wrong, **how)
    assert compare(good, good, **how).image == 0.0

    broken = tmp_path / runs("clip").name
    shutil.copytree(runs("clip"), broken)
    (broken / "adapter" / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="adapter_model"):
        export_run(str(broken), "transformers", out=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [broken.name]


@pytest.mark.parametrize("package", ["peft", "sentence_transformers", "onnx", "onnxruntime", "onnxscript"])
def test_an_absent_package_is_told_with_the_command_that_installs_it(package, runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # what python itself does with a package that cannot be imported
    (to,) = [name for name, packages in PACKAGES.items() if package.replace("_", "-") in packages]
    with pytest.raises(ConfigError, match=f"--to {to} needs {package.replace('_', '-')}") as told:
        export_run(str(runs("clip")), to, out=tmp_path / "out")
    assert told.value.remedy.startswith("pip install ")


def test_an_unknown_format_is_told():
    with pytest.raises(ConfigError, match="no format 'gguf'") as told:
        export_run("latest", "gguf")
    assert "sentence-transformers" in told.value.remedy
