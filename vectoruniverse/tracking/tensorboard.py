"""Event files for TensorBoard, through torch's writer; ``tensorboard --logdir runs`` shows all runs side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vectoruniverse.errors import ConfigError
from vectoruniverse.tracking.contract import Status, Tracker, Value

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardTracker(Tracker):
    """Writes scalars, texts, figures and hyperparameters as event files; it has no tables and keeps no files.

    Every call is on the disk when it returns, so that a process that is killed takes nothing with it. A resumed run
    begins a further file, whose first event has TensorBoard pass over what earlier files hold of the steps that will
    be told again; the files themselves stay as they are.

    Args:
        folder: where the event files go, a folder of their own below the run folder.
        config: the resolved configuration; its values become hyperparameters under their dotted keys.
        resume_step: the last step to keep of an earlier part of this run; None for a new one.

    Raises:
        ConfigError: the package ``tensorboard`` is not installed.
    """

    def __init__(self, folder: Path, config: Mapping[str, object], resume_step: int | None = None) -> None:
        self._writer = _open(folder, None if resume_step is None else resume_step + 1)
        self._step = resume_step or 0
        if resume_step is None:
            _write_hyperparameters(self._writer, dict(_flat(config)))
            self._writer.flush()

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Write the values of one step: numbers as scalars, the rest as texts."""
        self._step = step
        for name, value in values.items():
            if isinstance(value, str):
                self._writer.add_text(name, value, step)
            else:
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def summary(self, values: Mapping[str, Value]) -> None:
        """Write values that describe the run as a whole at its last step; TensorBoard has no other place for them."""
        self.log(self._step, values)

    def log_figures(self, step: int, figures: Mapping[str, Path]) -> None:
        """Write PNG files as ``figures/<name>``."""
        for name, path in figures.items():
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self._writer.add_image(f"figures/{name}", pixels, step, dataformats="HWC")
        self._writer.flush()

    def finish(self, status: Status) -> None:
        """Close the file; only a finished run is told to be at its end, since any other may be resumed."""
        if status == "finished":
            _write_success(self._writer)
        self._writer.close()


def _open(folder: Path, purge_step: int | None) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "the package tensorboard is not installed",
            key="tensorboard",
            remedy="pip install 'vectoruniverse[tensorboard]', or set tensorboard: false",
        ) from error
    return SummaryWriter(str(folder), purge_step=purge_step)


def _flat(config: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, bool | float | str]]:
    """Values under dotted keys; lists as JSON, and nothing for null, which TensorBoard does not know."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            yield f"{prefix}{key}", value
        elif value is not None:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)


def _write_hyperparameters(writer: SummaryWriter, values: Mapping[str, bool | float | str]) -> None:
    """Begin a session of the hyperparameters' page, which takes every scalar of this run for a metric of it.

    Not ``writer.add_hparams``: that makes a second run of it, in a folder that is called by the time.
    """
    from tensorboard.plugins.hparams import summary_v2

    _add(writer, summary_v2.hparams_pb(dict(values), start_time_secs=time.time()))


def _write_success(writer: SummaryWriter) -> None:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
    content = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
    value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=content, tensor=metadata.NULL_TENSOR)
    _add(writer, Summary(value=[value]))


def _add(writer: SummaryWriter, summary: Any) -> None:
    file: Any = writer.file_writer  # torch tells its type as None, which it is before the first and after the last word
    file.add_summary(summary)
