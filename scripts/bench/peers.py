"""The same training by other libraries, as their own documentation has it: pictures are read at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import peft
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, Trainer, TrainerCallback, TrainingArguments

from bench.machine import FORMATS, clock, device
from bench.material import Material


def with_adapter(model: nn.Module, material: Material) -> Any:
    """The model with the adapter of the material, which alone is trained."""
    return peft.PeftModel.from_pretrained(model, material.adapter, is_trainable=True)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that are trained."""
    return [one for one in model.parameters() if one.requires_grad]


class Rows(torch.utils.data.Dataset):
    """Pictures as tensors and titles as token ids; titles are tokenized once."""

    def __init__(self, material: Material, **padding: Any) -> None:
        self._paths, titles = zip(*material.rows(), strict=True)
        self._processor = AutoImageProcessor.from_pretrained(material.model, backend="pil")
        self.tokenizer = AutoTokenizer.from_pretrained(material.model)
        self._tokens = self.tokenizer(list(titles), truncation=True, **padding)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> dict[str, Any]:
        with Image.open(self._paths[row]) as picture:
            pixels = self._processor(picture.convert("RGB"), return_tensors="pt").pixel_values[0]
        return {"pixel_values": pixels, **{key: values[row] for key, values in self._tokens.items()}}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch, padded to its longest title."""
        texts = [{key: value for key, value in row.items() if key != "pixel_values"} for row in rows]
        padded = self.tokenizer.pad(texts, return_tensors="pt")
        return {**padded, "pixel_values": torch.stack([row["pixel_values"] for row in rows]), "return_loss": True}


class HfTrainer:
    """Trainer and peft; ``max_length`` pads every title to the model's limit, as the contrastive-image-text example."""

    def __init__(self, material: Material, batch: int, number_format: str, *, max_length: bool = False) -> None:
        self._data = Rows(material, **({"padding": "max_length"} if max_length else {}))
        self._model = with_adapter(CLIPModel.from_pretrained(material.model), material)
        self._settings = {
            "output_dir": str(material.folder / "hf"),
            "per_device_train_batch_size": batch,
            "bf16": number_format == "bf16",
            "fp16": number_format == "fp16",
            "use_cpu": device().type == "cpu",
            "learning_rate": 1e-4,
            "report_to": "none",
            "save_strategy": "no",
            "logging_strategy": "no",
            "disable_tqdm": True,
            "remove_unused_columns": False,
        }

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Of these rows."""
        batch = self._data.collate([self._data[row] for row in rows])
        self._model.to(device())
        return self._model(**_sent(batch)).loss

    def trained(self) -> list[nn.Parameter]:
        """Parameters."""
        return trainable(self._model)

    def epochs(self, count: int) -> list[float]:
        """Seconds of each."""
        clock = Clock()
        arguments = TrainingArguments(num_train_epochs=count, **self._settings)
        Trainer(
            self._model, arguments, train_dataset=self._data, data_collator=self._data.collate, callbacks=[clock]
        ).train()
        return clock.seconds


class Clock(TrainerCallback):
    """Notes how long each epoch takes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """An epoch begins."""
        self._started = clock()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """It ends."""
        self.seconds.append(clock() - self._started)


class SentenceTransformers:
    """Its CLIP, preprocessing and MultipleNegativesRankingLoss in both directions, in a plain loop.

    Its own trainer is transformers' Trainer and wants the package `datasets`; a plain loop costs no more. Its
    `add_adapter` refuses the peft of the lock, so peft puts the adapter on.
    """

    def __init__(self, material: Material, batch: int, number_format: str) -> None:
        import sentence_transformers
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        self._rows, self._batch, self._format = material.rows(), batch, number_format
        self._model = sentence_transformers.SentenceTransformer(str(material.model), device=device().type)
        clip = self._model[0].model
        with_adapter(clip, material).to(device())  # in place
        self._loss = MultipleNegativesRankingLoss(
            self._model,
            scale=float(clip.logit_scale.exp()),
            directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction",
        )

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Of these rows."""
        paths, texts = zip(*(self._rows[row] for row in rows), strict=True)
        pictures = [Image.open(path) for path in paths]
        features = [self._model.preprocess(pictures), self._model.preprocess(list(texts))]
        return self._loss([_sent(one) for one in features], None)

    def trained(self) -> list[nn.Parameter]:
        """Parameters."""
        return trainable(self._model)

    def epochs(self, count: int) -> list[float]:
        """Seconds of each."""
        self._model.train()
        return list(plain_epochs(self.loss, self.trained(), len(self._rows), self._batch, self._format, count))


def plain_epochs(
    loss: Callable[[Sequence[int]], Tensor],
    trained: list[nn.Parameter],
    rows: int,
    batch: int,
    number_format: str,
    count: int,
) -> Iterator[float]:
    """Seconds of each epoch of a loop as everybody writes it: shuffle, loss under autocast, clip, AdamW."""
    optimizer, generator = torch.optim.AdamW(trained, lr=1e-4), np.random.default_rng(0)
    kind, dtype = device().type, FORMATS[number_format]
    scaler = torch.amp.GradScaler(kind, enabled=dtype == torch.float16)
    for _ in range(count):
        started = clock()
        order = generator.permutation(rows)
        for begin in range(0, rows, batch):
            with torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32):
                value = loss(order[begin : begin + batch].tolist())
            optimizer.zero_grad()
            scaler.scale(value).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(trained, 1.0)
            scaler.step(optimizer)
            scaler.update()
        yield clock() - started


def _sent(batch: dict[str, Any]) -> dict[str, Any]:
    """Its tensors on the device that models train on."""
    return {key: value.to(device()) if torch.is_tensor(value) else value for key, value in batch.items()}
