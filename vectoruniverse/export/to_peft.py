"""A peft folder: the adapter's own two files, the processor, and the base beside them where no hub has it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from vectoruniverse.api import LoadedRun
from vectoruniverse.errors import ConfigError
from vectoruniverse.export.contract import Format, Probe, Vectors
from vectoruniverse.export.processing import pads_to_end, save_processor
from vectoruniverse.export.to_transformers import embed_with
from vectoruniverse.models.source import BUILT_IN

CONFIG_FILE = "adapter_config.json"
BASE_FOLDER = "base"

SNIPPET = """
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModel, AutoProcessor

base = AutoModel.from_pretrained({base}, dtype=torch.float32)
model, processor = PeftModel.from_pretrained(base, folder).eval(), AutoProcessor.from_pretrained(folder)
pixels = processor(images=[Image.open("picture.jpg")], return_tensors="pt")
tokens = processor(text=["a red circle"], padding={padding!r}, truncation=True, return_tensors="pt")
with torch.inference_mode():
    image = model.get_image_features(**pixels).pooler_output
    text = model.get_text_features(**tokens).pooler_output
image_vectors, text_vectors = (torch.nn.functional.normalize(rows, dim=-1).numpy() for rows in (image, text))
"""


def write(loaded: LoadedRun, folder: Path) -> None:
    """Fill ``folder``.

    Raises:
        ConfigError: the run trained every parameter, so there is no adapter.
    """
    if loaded.adapter is None:
        raise ConfigError(
            f"{loaded.run.name} trained every parameter, so there is no adapter", remedy="use --to transformers"
        )
    for file in sorted(loaded.run.adapter.glob("*.safetensors")):
        shutil.copyfile(file, folder / file.name)
    config = json.loads((loaded.run.adapter / CONFIG_FILE).read_bytes())
    if loaded.encoder.name in BUILT_IN:
        shutil.copytree(BUILT_IN[loaded.encoder.name], folder / BASE_FOLDER)
        config["base_model_name_or_path"] = BASE_FOLDER
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_processor(loaded, folder)


def embed(folder: Path, probe: Probe) -> Vectors:
    """Vectors of a folder, by ``PeftModel.from_pretrained`` on the base that the folder names."""
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoModel, AutoProcessor

    config = PeftConfig.from_pretrained(str(folder))
    beside = folder / BASE_FOLDER
    source = str(beside) if beside.is_dir() else config.base_model_name_or_path
    base = AutoModel.from_pretrained(source, revision=config.revision or "main", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(folder)).eval()
    return embed_with(model, AutoProcessor.from_pretrained(folder), probe)


def snippet(loaded: LoadedRun) -> str:
    """How to load it."""
    encoder = loaded.encoder
    base = f"{encoder.name!r}, revision={encoder.commit!r}" if encoder.commit else repr(encoder.name)
    if encoder.name in BUILT_IN:
        base = f'f"{{folder}}/{BASE_FOLDER}"'
    return SNIPPET.format(base=base, padding="max_length" if pads_to_end(loaded) else True)


PEFT = Format(
    name="peft",
    reader="peft",
    tolerance=1e-5,
    library="peft",
    tags=("lora", "clip"),
    relation="adapter",
    write=write,
    embed=embed,
    snippet=snippet,
)
