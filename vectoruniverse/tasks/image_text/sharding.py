"""`vu data shard`: the rows of a data folder, with their pictures, in few large files."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from vectoruniverse.data.shards.find import refuse_absent
from vectoruniverse.data.shards.manifest import Format, ShardManifest
from vectoruniverse.data.shards.write import Cut, Source, write_shards
from vectoruniverse.tasks.image_text.new_rows import new_rows
from vectoruniverse.tasks.image_text.settings import DataConfig
from vectoruniverse.tasks.rows import tell_doubts
from vectoruniverse.terminal import Display


def shard(data: DataConfig, out: Path, form: Format, cut: Cut, display: Display) -> ShardManifest:
    """Write every row that has a picture, whatever the filters; all its columns, and the picture's bytes as they are.

    Raises:
        ConfigError: a package is absent, or ``out`` holds something else or cannot be written.
        DataError: the data cannot be read, or more rows than ``data.max_bad_share`` have no picture.
    """
    refuse_absent(form, key="--format")
    found = new_rows(data, needs=("picture",), takes=("picture",))
    tell_doubts(found.read.doubts, found.table.file, display)
    found.read.refuse_bad(data.max_bad_share)
    lines = {row.line: row.picture for row in found.read.rows if row.picture is not None}
    kept = [record for record in found.table.records if record.line in lines]
    left_out = len(found.table.records) - len(kept)
    source = Source(
        columns=found.table.written,
        cells=[record.cells for record in kept],
        pictures=[lines[record.line] for record in kept],
        left_out=left_out,
        allowed=math.floor(data.max_bad_share * len(found.table.records)) - left_out,
    )
    return write_shards(out, form, source, cut, partial(display.advance, "rows"))
