"""Reads wandb's own file back: LevelDB's log format around wandb's protocol buffers."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class WandbFile:
    """What one run folder of wandb's holds."""

    folder: Path
    records: list[Any]

    def of_kind(self, kind: str) -> list[Any]:
        return [getattr(record, kind) for record in self.records if record.WhichOneof("record_type") == kind]

    def header(self) -> Any:
        return self.of_kind("run")[0]

    def config(self) -> Row:
        return {update.key: json.loads(update.value_json) for update in self.header().config.update}

    def history(self) -> list[Row]:
        return [_nested(row.item) for row in self.of_kind("history")]

    def points(self, metric: str) -> list[tuple[int, Any]]:
        """Of a metric, what a chart of it shows: step and value."""
        return [(row["step"], row[metric]) for row in self.history() if metric in row]

    def summary(self) -> Row:
        return _nested([item for update in self.of_kind("summary") for item in update.update])

    def artifact(self, name: str) -> Any:
        (artifact,) = [artifact for artifact in self.of_kind("artifact") if artifact.name == name]
        return artifact


def read_wandb(run: Path) -> WandbFile:
    """The latest offline file below a run folder."""
    import wandb

    wandb.teardown()  # the file is whole when wandb's service has gone, not when the run finishes
    return read_folder(sorted(run.glob("wandb/offline-run-*"))[-1])


def read_folder(folder: Path) -> WandbFile:
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("run-*.wandb")
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    offset, whole, records = 7, b"", []
    while offset + 7 <= len(data):
        if (left := 32768 - offset % 32768) < 7:
            offset += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, offset)
        whole += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):
            records.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return WandbFile(folder, records)


def _nested(items: list[Any]) -> Row:
    row: Row = {}
    for item in items:
        *path, last = [item.key] if item.key else item.nested_key
        place = row
        for part in path:
            place = place.setdefault(part, {})
        place[last] = json.loads(item.value_json)
    return row
