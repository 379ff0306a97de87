"""The readers of strangers' bytes, by name: what the tests with hypothesis and ``scripts/fuzz`` feed.

A reader is given bytes and reads them or raises a ``UserError``; anything else that it raises is a find. Where what was
read can be written, it is, and read again.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from PIL import Image

from vectoruniverse.adapters.peft_config import read_peft_config
from vectoruniverse.config.loading import dump_experiment
from vectoruniverse.config.strict_yaml import parse, write
from vectoruniverse.data.decoding import PictureRecipe, decode_content, pillow_warnings_silenced
from vectoruniverse.data.table import read_table
from vectoruniverse.errors import UserError
from vectoruniverse.models.weights import open_tensors, read_object
from vectoruniverse.runs.base_record import BaseRecord
from vectoruniverse.runs.files import Record, parse_record, record_text
from vectoruniverse.runs.label_records import LabelsFile
from vectoruniverse.runs.records import EvaluationRecord, RunState
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.recorded_rows import RowRecord
from vectoruniverse.tracking.jsonl import read_metrics
from vectoruniverse.training.checkpoint import Manifest, Pointers
from vectoruniverse.unattended.cron_time import CronTime
from vectoruniverse.unattended.schedule import Schedule

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECORDS: tuple[type[Record], ...] = (
    *(RunState, EvaluationRecord, BaseRecord, RowRecord, LabelsFile),
    *(Manifest, Pointers, Schedule),
)


@dataclass(frozen=True)
class Reader:
    """A reader and sound input for it.

    Attributes:
        read: raises nothing but a ``UserError``.
        seeds: what it reads without any.
    """

    read: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


@contextlib.contextmanager
def file_of(content: bytes, name: str) -> Iterator[Path]:
    """A file with this content."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(content)
        yield file


def read_yaml(content: bytes) -> None:
    text = content.decode("utf-8", "surrogateescape")
    value = parse(text, "x.yaml").value
    if isinstance(value, dict):
        assert repr(parse(write(value), "x.yaml").value) == repr(value)  # so that nan equals nan


def read_experiment(content: bytes) -> None:
    with file_of(content, "x.yaml") as file:
        experiment = load_experiment(str(file))
        file.write_text(dump_experiment(experiment), encoding="utf-8")
        assert load_experiment(str(file)) == experiment


def read_csv(content: bytes) -> None:
    with file_of(content, "t.csv") as file:
        table = read_table(file)
        written = io.StringIO()
        csv.writer(written, quoting=csv.QUOTE_ALL).writerows([table.header, *(one.cells for one in table.records)])
        file.write_text(written.getvalue(), encoding="utf-8", newline="")
        again = read_table(file)
        assert again.header == table.header
        assert [one.cells for one in again.records] == [one.cells for one in table.records]


def read_tsv(content: bytes) -> None:
    with file_of(content, "t.tsv") as file:
        read_table(file)


def read_picture(content: bytes) -> None:
    with pillow_warnings_silenced():
        pixels = decode_content(content, Path("x.png"), PictureRecipe(16, max_pixels=1_000_000))
    assert pixels.shape == (16, 16, 3)


def read_records(content: bytes) -> None:
    refused: UserError | None = None
    for kind in RECORDS:
        try:
            record = parse_record(content, kind, file=Path("x.json"))
        except UserError as error:
            refused = error
        else:
            text = record_text(record)
            assert record_text(parse_record(text.encode("utf-8"), kind, file=Path("x.json"))) == text
    if refused is not None:
        raise refused


def read_metric_lines(content: bytes) -> None:
    with file_of(content, "metrics.jsonl") as file:
        for record in read_metrics(file):
            assert isinstance(record["step"], int)


def read_tensors(content: bytes) -> None:
    with file_of(content, "model.safetensors") as file:
        for tensor in open_tensors(file).values():
            assert tensor.handle[...].shape == tensor.shape


def read_adapter_config(content: bytes) -> None:
    with file_of(content, "adapter_config.json") as file:
        read_peft_config(file).targeted(["text_model.layers.0.q_proj", "vision_model.layers.1.fc1"])


def read_model_config(content: bytes) -> None:
    with file_of(content, "config.json") as file:
        read_object(file)


def read_cron(content: bytes) -> None:
    time = CronTime.parse(content.decode("utf-8", "surrogateescape"))
    assert CronTime.parse(time.text).words == time.words


def picture_seeds() -> tuple[bytes, ...]:
    """A small picture in each format that is read."""
    image = Image.linear_gradient("L").resize((24, 16)).convert("RGB")
    found = []
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        stream = io.BytesIO()
        image.save(stream, format=form)
        found.append(stream.getvalue())
    return tuple(found)


def record_seeds() -> tuple[bytes, ...]:
    digest = {"bytes": 3, "sha256": "0" * 64}
    return tuple(
        json.dumps(one).encode()
        for one in (
            {"state": "running", "started": "2026-01-01T00:00:00+00:00", "pid": 1, "best": 0.5, "epoch": 2},
            {"version": 1, "model": "m", "commit": None, "files": {"a.json": "0"}, "settings": "0"},
            {"version": 1, "place": "d", "beside": None, "train": [["a", "b", "c", ""]], "val": [], "test": []},
            {"version": 1, "step": 3, "files": {"state.json": digest}},
            {"version": 1, "last": "step-00000001", "previous": None, "best": None},
            {"name": "n", "at": "0 3 * * *", "program": "/vu", "arguments": ["train"], "folder": "/"},
        )
    )


READERS: Mapping[str, Reader] = {
    "yaml": Reader(read_yaml, (b"a: [1, 1e-4, 'x']\nb: {c: null, d: .nan, e: 0x1F}\n", b"'1:30': no\n")),
    "experiment": Reader(
        read_experiment,
        tuple(file.read_bytes() for file in sorted(CONFIGS.glob("*.yaml")) if file.stat().st_size < 4000),
    ),
    "csv": Reader(read_csv, (b'Id,Title\n1,"a ""b"", c"\n2,d\n', b"\xef\xbb\xbfa,b\r\n1,\r\n")),
    "tsv": Reader(read_tsv, (b'Id\tTitle\n1\t"a\tb"\n', b'a\tb\n"x\ty"\n')),
    "picture": Reader(read_picture, picture_seeds()),
    "records": Reader(read_records, record_seeds()),
    "metrics": Reader(read_metric_lines, (b'{"step": 1, "train/loss": 0.5}\n{"step": 2}\n',)),
    "tensors": Reader(read_tensors, (safetensors.torch.save({"a": torch.ones(2, 3), "b": torch.zeros(1)}),)),
    "adapter": Reader(
        read_adapter_config,
        (
            b'{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "rank_pattern": {"fc1": 2}}',
            b'{"peft_type": "LORA", "r": 4, "target_modules": ".*fc[12]", "layers_to_transform": [0, 1]}',
        ),
    ),
    "model": Reader(read_model_config, (b'{"model_type": "clip", "text_config": {"hidden_size": 32}}',)),
    "cron": Reader(read_cron, (b"0 3 * * *", b"*/15 22-23 1,15 JAN-MAR *", b"30 22 * * FRI")),
}
