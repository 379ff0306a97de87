"""The formats that a run can be written in: each written, and read back, through the library that it is for.

Shapes: B batch, S side of the model's input picture, L tokens, E shared embedding.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vectoruniverse.api import LoadedRun
from vectoruniverse.errors import ConfigError
from vectoruniverse.export.check import Probe, Vectors
from vectoruniverse.models.dual import DualEncoder, image_vectors, text_vectors
from vectoruniverse.models.fusion import FUSION_FILE
from vectoruniverse.models.source import BUILT_IN
from vectoruniverse.runs.label_records import PROBES_FILE

CONFIG_FILE, BASE_FOLDER = "adapter_config.json", "base"
IMAGE_FILE, TEXT_FILE = "image.onnx", "text.onnx"

MAX_INLINE_BYTES = 3 * 2**29
"""A file in protobuf's format ends at 2 GiB; larger weights go into a file beside it."""


class Transformers:
    """A plain transformers folder: the adapter merged into the weights, tokenizer and image processor beside them.

    Attributes:
        name: what ``--to`` takes.
        reader: the package that the check reads it with.
        library: ``library_name`` of the card.
        tags: further tags of the card.
        relation: ``base_model_relation`` of the card.
        tolerance: largest difference allowed in any component of a unit vector.
    """

    name: ClassVar[str] = "transformers"
    reader: ClassVar[str] = "transformers"
    library: ClassVar[str] = "transformers"
    tags: ClassVar[tuple[str, ...]] = ("clip",)
    relation: ClassVar[str] = "finetune"
    tolerance: ClassVar[float] = 1e-5

    imports: ClassVar[str] = ""
    load: ClassVar[str] = (
        "model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)"
    )

    def write(self, loaded: LoadedRun, folder: Path) -> None:
        """Fill an empty folder, in the precision that the run was loaded in; the run's adapter may be merged."""
        merged_model(loaded).save_pretrained(folder)
        save_processor(loaded, folder)

    def embed(self, folder: Path, probe: Probe) -> Vectors:
        """Vectors of a probe, from the folder as anybody would read it with ``reader``."""
        from transformers import AutoModel

        return embed_with(AutoModel.from_pretrained(folder).eval(), folder, probe)

    def snippet(self, loaded: LoadedRun) -> str:
        """Python that reads the folder ``folder`` and embeds ``picture.jpg`` and a text."""
        return f"""
import torch
{self.imports}from PIL import Image
from transformers import AutoModel, AutoProcessor

{self.load.format(base=_base_argument(loaded.encoder))}
pixels = processor(images=[Image.open("picture.jpg")], return_tensors="pt")
tokens = processor(text=["a red circle"], padding={_padding(loaded)!r}, truncation=True, return_tensors="pt")
with torch.inference_mode():
    image = model.get_image_features(**pixels).pooler_output
    text = model.get_text_features(**tokens).pooler_output
image_vectors, text_vectors = (torch.nn.functional.normalize(rows, dim=-1).numpy() for rows in (image, text))
"""


class Peft(Transformers):
    """A peft folder: the adapter's own two files, the processor, and the base beside them where no hub has it."""

    name = reader = library = "peft"
    tags = ("lora", "clip")
    relation = "adapter"

    imports = "from peft import PeftModel\n"
    load = """base = AutoModel.from_pretrained({base}, dtype=torch.float32)
model, processor = PeftModel.from_pretrained(base, folder).eval(), AutoProcessor.from_pretrained(folder)"""

    def write(self, loaded: LoadedRun, folder: Path) -> None:
        """Fill an empty folder.

        Raises:
            ConfigError: the run trained every parameter, so there is no adapter.
        """
        if loaded.adapter is None:
            raise ConfigError(
                f"{loaded.run.name} trained every parameter, so there is no adapter", remedy="use --to transformers"
            )
        for file in sorted(loaded.run.adapter.glob("*.safetensors")):
            if file.name not in (FUSION_FILE, PROBES_FILE):
                shutil.copyfile(file, folder / file.name)
        config = json.loads((loaded.run.adapter / CONFIG_FILE).read_bytes())
        if loaded.encoder.name in BUILT_IN:
            shutil.copytree(BUILT_IN[loaded.encoder.name], folder / BASE_FOLDER)
            config["base_model_name_or_path"] = BASE_FOLDER
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_processor(loaded, folder)

    def embed(self, folder: Path, probe: Probe) -> Vectors:
        """Vectors of a probe, by ``PeftModel.from_pretrained`` on the base that the folder names."""
        from peft import PeftConfig, PeftModel
        from transformers import AutoModel

        config, beside = PeftConfig.from_pretrained(str(folder)), folder / BASE_FOLDER
        source = str(beside) if beside.is_dir() else config.base_model_name_or_path
        base = AutoModel.from_pretrained(source, revision=config.revision or "main", dtype=torch.float32)
        return embed_with(PeftModel.from_pretrained(base, str(folder)).eval(), folder, probe)


class SentenceTransformers(Transformers):
    """A sentence-transformers folder that encodes pictures and texts; written by that library's own classes."""

    name = reader = library = "sentence-transformers"
    tags = ("sentence-similarity", "clip")

    def write(self, loaded: LoadedRun, folder: Path) -> None:
        """Fill an empty folder; its vectors have length 1, as the run's have."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Normalize, Transformer

        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".plain-") as plain:
            super().write(loaded, Path(plain))
            processing = {"text": {"padding": "max_length"}} if loaded.encoder.pads_to_end else None
            tower = Transformer(plain, processing_kwargs=processing)
            model = SentenceTransformer(modules=[tower, Normalize()], device="cpu", similarity_fn_name="cosine")
            model.save(str(folder), create_model_card=False)

    def embed(self, folder: Path, probe: Probe) -> Vectors:
        """Vectors of a probe, by ``SentenceTransformer.encode``."""
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(folder), device="cpu")
        image, text = (model.encode(list(rows), show_progress_bar=False) for rows in (probe.images(), probe.texts))
        return Vectors(image, text)

    def snippet(self, loaded: LoadedRun) -> str:
        """Everything that differs between models is read from the folder."""
        del loaded
        return """
from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(str(folder))
image_vectors = model.encode([Image.open("picture.jpg")])
text_vectors = model.encode(["a red circle"])
"""


class Onnx(Transformers):
    """The image tower and the text tower as two files, from pixels and tokens to unit vectors.

    B and L are free in the files (L is fixed where the model reads every text padded to the same length).
    """

    name, reader, library = "onnx", "onnxruntime", "onnx"
    tags = ("onnxruntime", "clip")

    def write(self, loaded: LoadedRun, folder: Path) -> None:
        """Fill an empty folder."""
        model, encoder = merged_model(loaded), loaded.encoder
        size = encoder.picture.size
        # two rows and texts of two lengths: the exporter takes an axis of length 1 for a constant
        _save_onnx(
            _ImageTower(model), {"pixel_values": torch.randn(2, 3, size, size)}, {0: "batch"}, folder / IMAGE_FILE
        )
        batch = encoder.pad(encoder.tokenize(["one", "one two three four"]), range(2))
        inputs, free = {"input_ids": batch.ids, "attention_mask": batch.mask}, {0: "batch", 1: "length"}
        if encoder.pads_to_end:
            del inputs["attention_mask"], free[1]
        _save_onnx(_TextTower(model), inputs, free, folder / TEXT_FILE)
        save_processor(loaded, folder)

    def embed(self, folder: Path, probe: Probe) -> Vectors:
        """Vectors of a probe, by onnxruntime on the CPU."""
        import onnxruntime
        from transformers import AutoProcessor

        pixels, tokens = _inputs(AutoProcessor.from_pretrained(folder), probe, "np")
        image, text = (
            onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
            for name in (IMAGE_FILE, TEXT_FILE)
        )
        (image_rows,) = image.run(None, {"pixel_values": pixels["pixel_values"]})
        (text_rows,) = text.run(None, {each.name: tokens[each.name] for each in text.get_inputs()})
        return Vectors(image_rows, text_rows)

    def snippet(self, loaded: LoadedRun) -> str:
        """Python that reads the folder ``folder`` and embeds ``picture.jpg`` and a text."""
        return f"""
from pathlib import Path

import onnxruntime
from PIL import Image
from transformers import AutoProcessor

processor = AutoProcessor.from_pretrained(folder)
image_tower, text_tower = (onnxruntime.InferenceSession(Path(folder) / f"{{name}}.onnx") for name in ("image", "text"))
pixels = processor(images=[Image.open("picture.jpg")], return_tensors="np")
tokens = processor(text=["a red circle"], padding={_padding(loaded)!r}, truncation=True, return_tensors="np")
(image_vectors,) = image_tower.run(None, {{"pixel_values": pixels["pixel_values"]}})
(text_vectors,) = text_tower.run(None, {{each.name: tokens[each.name] for each in text_tower.get_inputs()}})
"""


FORMATS = {form.name: form for form in (Peft(), Transformers(), SentenceTransformers(), Onnx())}
"""What a run can be written as."""


def merged_model(loaded: LoadedRun) -> Any:
    """The run's model with the update added to its weights and no layer of ours left in it; in place."""
    model = loaded.encoder.model
    if loaded.adapter is not None:
        loaded.adapter.merge()
    return model


def save_processor(loaded: LoadedRun, folder: Path) -> None:
    """Write tokenizer and image processor so that ``AutoProcessor.from_pretrained(folder)`` loads them.

    A picture is resized by the run's own recipe. ``fit: pad`` has no image processor in the CLIP family: pictures that
    are square already come out right, others are squashed (the card says so).

    Raises:
        ConfigError: transformers knows no processor for this kind of model.
    """
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    encoder, recipe = loaded.encoder, loaded.recipe
    config: Any = encoder.model.config
    name = PROCESSOR_MAPPING_NAMES.get(config.model_type)
    if name is None:
        raise ConfigError(f"transformers has no processor for {config.model_type}", remedy="export it with --to peft")
    images, tokenizer = encoder.picture.processor("crop" if recipe.fit == "crop" else "squash"), encoder.tokenizer
    tokenizer.model_max_length = tokenizer.init_kwargs["model_max_length"] = encoder.max_tokens
    if encoder.pads_to_end:
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids"]
    getattr(transformers, name)(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)


def embed_with(model: Any, folder: Path, probe: Probe) -> Vectors:
    """Vectors of any model with transformers' feature methods, and the processor of a folder."""
    from transformers import AutoProcessor

    pixels, tokens = _inputs(AutoProcessor.from_pretrained(folder), probe, "pt")
    with torch.inference_mode():
        image, text = image_vectors(model, **pixels), text_vectors(model, **tokens)
    return Vectors(image.numpy(), text.numpy())


def _inputs(processor: Any, probe: Probe, tensors: Literal["pt", "np"]) -> tuple[Any, Any]:
    padding = "max_length" if processor.tokenizer.model_input_names == ["input_ids"] else True
    pixels = processor(images=probe.images(), return_tensors=tensors)
    return pixels, processor(text=list(probe.texts), padding=padding, truncation=True, return_tensors=tensors)


def _padding(loaded: LoadedRun) -> str | bool:
    return "max_length" if loaded.encoder.pads_to_end else True


def _base_argument(encoder: DualEncoder) -> str:
    if encoder.name in BUILT_IN:
        return f'f"{{folder}}/{BASE_FOLDER}"'
    return f"{encoder.name!r}, revision={encoder.commit!r}" if encoder.commit else repr(encoder.name)


class _ImageTower(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return image_vectors(self.model, pixel_values=pixel_values)


class _TextTower(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = {} if attention_mask is None else {"attention_mask": attention_mask}
        return text_vectors(self.model, input_ids=input_ids, **mask)


def _save_onnx(tower: nn.Module, inputs: dict[str, Tensor], free: dict[int, str], file: Path) -> None:
    program = torch.onnx.export(
        tower.eval(),
        tuple(inputs.values()),
        dynamo=True,
        input_names=list(inputs),
        output_names=["vectors"],
        dynamic_shapes=dict.fromkeys(inputs, free),
        verbose=False,
    )
    assert program is not None
    # the exporter notes beside each operation which file and line of this machine it comes from
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    weights = sum(p.numel() * p.element_size() for p in tower.parameters())
    program.save(file, external_data=weights > MAX_INLINE_BYTES)
