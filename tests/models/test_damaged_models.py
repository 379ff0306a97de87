"""Folders that are damaged, or made to harm: one clear line, soon, and in bounded memory."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.models import save_clip
from tests.models.text_models import load as load_text
from tests.models.text_models import save_encoder
from vectoruniverse.errors import ConfigError, UserError
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.dual import load_dual_encoder
from vectoruniverse.models.pretraining import load_bert_for_pretraining

CPU = Compute(torch.device("cpu"), torch.float32)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


class Evil:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return (open, (str(self.proof), "w"))


def load_dual(folder):
    return load_dual_encoder(str(folder), CPU)


def load_pretraining(folder):
    return load_bert_for_pretraining(str(folder), CPU)


LOADERS = {"dual": load_dual, "text": load_text, "pretraining": load_pretraining}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    bert = save_encoder(root / "text", "bert")
    shutil.copytree(bert, root / "pretraining")
    save_clip(root / "dual")
    return root


def setting(path, value, file="config.json"):
    """Change one setting of a JSON file."""

    def change(folder):
        settings = json.loads((folder / file).read_text())
        *parents, last = path.split(".")
        place = settings
        for parent in parents:
            place = place[parent]
        place[last] = value
        (folder / file).write_text(json.dumps(settings))

    return change


def tensors(change):
    """Write other tensors."""

    def write(folder):
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})

    return write


def content(data, file=WEIGHTS):
    """Write other bytes."""

    def write(folder):
        (folder / file).unlink(missing_ok=True)
        (folder / file).write_bytes(data)

    return write


def header(text, tail=b""):
    """A safetensors file of any header."""
    return content(struct.pack("<Q", len(text)) + text.encode() + tail)


def pickled(folder):
    (folder / WEIGHTS).write_bytes(pickle.dumps(Evil(folder.parent / "it_ran")))


def torch_zip(folder):
    (folder / WEIGHTS).unlink()
    torch.save({"x": Evil(folder.parent / "it_ran")}, folder / WEIGHTS)


def truncated(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-5])


def index_to(name):
    """An index that puts every tensor into one file."""

    def write(folder):
        (folder.parent / "outside.bin").write_bytes(pickle.dumps(Evil(folder.parent / "it_ran")))
        shutil.copy(folder / WEIGHTS, folder.parent / "outside.safetensors")
        keys = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(keys, name)}))

    return write


def fifo(name):
    def make(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return make


def directory(folder):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


def activation(name):
    """Name an activation for the model, or for the first of its towers."""

    def change(folder):
        towers = "vision_config" in json.loads((folder / "config.json").read_text())
        setting("vision_config.hidden_act" if towers else "hidden_act", name)(folder)

    return change


def without_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()


def adapter_beside(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere", "peft_type": "LORA"}')


def first_layer(change):
    """Change the name of a tensor in the first layer."""
    return tensors(lambda old: {(change(k) if ".layer.0." in k or ".layers.0." in k else k): v for k, v in old.items()})


def one_number(number):
    """Put one such number into the first weight."""

    def change(old):
        name = sorted(key for key in old if key.endswith(".weight"))[0]
        changed = old[name].clone()
        changed.view(-1)[-1] = number
        return {**old, name: changed}

    return tensors(change)


def wider(old):
    name = sorted(key for key in old if key.endswith(("layernorm.weight", "LayerNorm.weight")))[0]
    return {**old, name: torch.zeros(len(old[name]) + 1)}


EVERY = {
    "a pickle": (pickled, "no sound safetensors"),
    "a torch zip": (torch_zip, "no sound safetensors"),
    "empty": (content(b""), "no sound safetensors"),
    "truncated": (truncated, "no sound safetensors"),
    "header too long": (content(struct.pack("<Q", 2**62) + b"{}"), "no sound safetensors"),
    "header too deep": (header('{"a":' * 2000 + "1" + "}" * 2000), "no sound safetensors"),
    "tensor beyond the file": (
        header('{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}', bytes(4)),
        "no sound safetensors",
    ),
    "overlapping": (
        header(
            '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}',
            bytes(12),
        ),
        "no sound safetensors",
    ),
    "a shape that overflows": (
        header('{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}', bytes(4)),
        "no sound safetensors",
    ),
    "a folder in place of weights": (directory, "no regular file"),
    "a pipe in place of weights": (fifo(WEIGHTS), "no regular file"),
    "a pipe in place of the configuration": (fifo("config.json"), "no config.json"),
    "an index that leads outside": (index_to("../outside.safetensors"), "no safetensors file beside it"),
    "an index that leads to a pickle": (index_to("../outside.bin"), "no safetensors file beside it"),
    "an index of files that are absent": (index_to("model-00001-of-00001.safetensors"), "no regular file"),
    "an index without tensors": (lambda f: (index_to("x")(f), (f / INDEX).write_text("{}")), "no weight_map"),
    "weights of whole numbers": (
        tensors(lambda old: {k: v.to(torch.int8) for k, v in old.items()}),
        "nothing here can train",
    ),
    "a NaN among the weights": (one_number(float("nan")), "not finite"),
    "an infinity among the weights": (one_number(float("inf")), "not finite"),
    "a negative infinity among the weights": (one_number(float("-inf")), "not finite"),
    "a tensor of another shape": (tensors(wider), "config.json asks for"),
    "a prefix of torch.compile": (first_layer(lambda k: f"_orig_mod.{k}"), "no place for|lack"),
    "a layer without its weights": (first_layer(lambda k: k.replace(".0.", ".77.")), r"lack \d+ tensors"),
    "LoRA left in": (
        first_layer(lambda k: k.replace(".weight", ".base_layer.weight")),
        r"lack \d+ tensors, such as .*base_layer.*no place",
    ),
    "nested too deep": (setting("x", json.loads("[" * 60 + "]" * 60)), "nested deeper"),
    "a configuration that is no JSON": (content(b"{", "config.json"), "is no JSON"),
    "a configuration that is a list": (content(b"[]", "config.json"), "no JSON object"),
    "an activation that nobody knows": (activation("nope"), "hidden_act = 'nope', an activation that transformers"),
    "an activation with a slip": (activation("gelo"), "hidden_act = 'gelo', .*did you mean gelu"),
    "no type": (setting("model_type", None), "names no model_type"),
    "a dtype that is no dtype": (setting("dtype", "float99"), "cannot load"),
    "quantised": (setting("quantization_config", {"quant_method": "bitsandbytes"}), "quantised"),
    "a million million labels": (setting("num_labels", 10**9), "no model has"),
    "an adapter beside the base": (adapter_beside, "a base with an adapter"),
    "no tokenizer": (without_tokenizer, "cannot load|no tokenizer"),
    "a tokenizer that is no JSON": (content(b"{]", "tokenizer.json"), "cannot load"),
    "a tokenizer's settings that are no JSON": (content(b"{]", "tokenizer_config.json"), "is no JSON"),
    "texts of minus five tokens": (setting("model_max_length", -5, "tokenizer_config.json"), "texts of -5 tokens"),
    "texts of two tokens": (setting("model_max_length", 2, "tokenizer_config.json"), "texts of 2 tokens"),
    "texts of a word": (setting("model_max_length", "long", "tokenizer_config.json"), "cannot load|texts of 'long'"),
}

CLIP_ONLY = {
    "layers": (setting("text_config.num_hidden_layers", 10**6), "the weights hold"),
    "more layers": (setting("vision_config.num_hidden_layers", 3), r"lack \d+ tensors"),
    "fewer layers": (setting("vision_config.num_hidden_layers", 1), "no place for"),
    "width": (setting("text_config.hidden_size", 2**30), "the weights hold"),
    "no width": (setting("vision_config.hidden_size", 0), "hidden_size = 0"),
    "minus two heads": (setting("text_config.num_attention_heads", -2), "num_attention_heads = -2"),
    "three heads": (setting("text_config.num_attention_heads", 3), "cannot load"),
    "patch 0": (setting("vision_config.patch_size", 0), "patch_size = 0"),
    "image size as text": (setting("vision_config.image_size", "32"), "image_size = '32'"),
    "image size as a list": (setting("vision_config.image_size", [32, 32]), r"image_size = \[32, 32\]"),
    "a vast image": (setting("vision_config.image_size", 10**6), "asks for|the weights hold"),
    "EOS outside the vocabulary": (setting("text_config.eos_token_id", 10**6), "eos_token_id = 1000000"),
    "another EOS": (setting("text_config.eos_token_id", 5), "eos_token_id = 5"),
    "a tower that is a word": (setting("vision_config", "none"), "cannot load|'none'|names no size"),
    "a mean of one number": (setting("image_mean", [0.5], "preprocessor_config.json"), "image processor"),
    "a deviation of 0": (setting("image_std", [0.0, 0.1, 0.1], "preprocessor_config.json"), "image processor"),
    "an unknown filter": (setting("resample", 17, "preprocessor_config.json"), "image processor"),
    "no resizing": (setting("do_resize", False, "preprocessor_config.json"), "image processor"),
    "no crop": (setting("do_center_crop", False, "preprocessor_config.json"), "image processor"),
    "another crop": (setting("crop_size", {"height": 48, "width": 48}, "preprocessor_config.json"), "image processor"),
    "no processor": (lambda folder: (folder / "preprocessor_config.json").unlink(), "cannot load"),
}

TEXT_ONLY = {
    "layers": (setting("num_hidden_layers", 10**6), "the weights hold"),
    "fewer layers": (setting("num_hidden_layers", 1), "no place for"),
    "as many heads as there are atoms": (setting("num_attention_heads", 2**30), "the weights hold"),
    "a fraction of a layer": (setting("num_hidden_layers", 1.5), "num_hidden_layers = 1.5"),
    "vocabulary": (setting("vocab_size", 10**7), "the weights hold"),
    "positions": (setting("max_position_embeddings", 60_000), "config.json asks for"),
}

CASES = [
    *((kind, name, *case) for kind in LOADERS for name, case in EVERY.items()),
    *(("dual", name, *case) for name, case in CLIP_ONLY.items()),
    *((kind, name, *case) for kind in ("text", "pretraining") for name, case in TEXT_ONLY.items()),
]


@pytest.mark.parametrize(("kind", "name", "damage", "told"), CASES, ids=[f"{kind}: {name}" for kind, name, *_ in CASES])
def test_a_damaged_folder_is_refused_in_one_line(kind, name, damage, told, sound, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(sound / kind, folder)
    damage(folder)
    start = time.monotonic()
    with pytest.raises(UserError, match=told) as caught:
        LOADERS[kind](folder)
    assert time.monotonic() - start < 10
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("kind", LOADERS)
def test_a_model_in_several_files_loads_as_from_one(kind, sound, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(sound / kind, folder)
    whole = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    places = {}
    for i, part in enumerate((sorted(whole)[::2], sorted(whole)[1::2])):
        save_file({k: whole[k] for k in part}, folder / f"model-{i}.safetensors", metadata={"format": "pt"})
        places |= dict.fromkeys(part, f"model-{i}.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    state = {name: encoder.model.state_dict() for name, encoder in
             (("one", LOADERS[kind](sound / kind)), ("two", LOADERS[kind](folder)))}  # fmt: skip
    assert state["one"].keys() == state["two"].keys()
    assert all(torch.equal(state["one"][key], state["two"][key]) for key in state["one"])


def test_pickles_in_place_of_safetensors_come_with_the_way_out(sound, tmp_path):
    for kind, load in LOADERS.items():
        folder = tmp_path / kind
        shutil.copytree(sound / kind, folder)
        (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
        with pytest.raises(ConfigError, match=r"no model\.safetensors") as caught:
            load(folder)
        assert "pickled weights are never read" in str(caught.value.remedy)


def test_links_into_a_cache_are_followed(sound, tmp_path):
    """The hub's own cache consists of links."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "model").mkdir()
    for file in (sound / "dual").iterdir():
        shutil.copy(file, tmp_path / "blobs" / file.name)
        (tmp_path / "model" / file.name).symlink_to(tmp_path / "blobs" / file.name)
    assert load_dual(tmp_path / "model").max_tokens == 16
