"""Event files hold what was told, read back by TensorBoard's own reader."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata

from vectoruniverse.errors import ConfigError
from vectoruniverse.tracking.contract import DataSet, Trackers
from vectoruniverse.tracking.tensorboard import TensorBoardTracker


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance=dict.fromkeys(("scalars", "images", "tensors"), 0)).Reload()


def points(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(name)]


def session(folder: Path, tag: str) -> object:
    content = read(folder).SummaryMetadata(tag).plugin_data.content
    return (
        metadata.parse_session_start_info_plugin_data(content)
        if "start" in tag
        else (metadata.parse_session_end_info_plugin_data(content))
    )


def test_numbers_texts_and_the_summary_are_read_back(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path, {})
    tracker.log(1, {"train/loss": 0.5, "train/rows": 3})
    tracker.log(20, {"train/loss": math.nan, "note": "색"})
    tracker.summary({"best/recall@5": 0.25})
    tracker.finish("finished")
    (first, (step, lost)) = points(tmp_path, "train/loss")
    assert first == (1, 0.5) and step == 20 and math.isnan(lost)
    assert points(tmp_path, "train/rows") == [(1, 3.0)]
    assert points(tmp_path, "best/recall@5") == [(20, 0.25)]
    (note,) = read(tmp_path).Tensors("note/text_summary")
    assert (note.step, note.tensor_proto.string_val[0].decode()) == (20, "색")


def test_figures_are_the_pictures_themselves(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "drawn.png")
    tracker = TensorBoardTracker(tmp_path / "tensorboard", {})
    tracker.log_figures(7, {"spectrum": tmp_path / "drawn.png"})
    tracker.finish("finished")
    (image,) = read(tmp_path / "tensorboard").Images("figures/spectrum")
    with Image.open(io.BytesIO(image.encoded_image_string)) as found:
        assert image.step == 7 and np.array_equal(np.asarray(found), pixels)


def test_the_config_becomes_hyperparameters_under_dotted_keys(tmp_path: Path) -> None:
    config = {"seed": 0, "adapter": {"rank": 8, "dora": False, "targets": ["q", "v"], "alpha": None}, "name": "x"}
    tracker = TensorBoardTracker(tmp_path, config)
    with pytest.raises(KeyError):
        session(tmp_path, metadata.SESSION_END_INFO_TAG)
    tracker.finish("finished")
    told = session(tmp_path, metadata.SESSION_START_INFO_TAG).hparams
    found = {key: getattr(value, value.WhichOneof("kind")) for key, value in told.items()}
    assert found == {
        "seed": 0.0, "adapter.rank": 8.0, "adapter.dora": False, "adapter.targets": '["q", "v"]', "name": "x"
    }  # fmt: skip
    assert session(tmp_path, metadata.SESSION_END_INFO_TAG).status == api_pb2.STATUS_SUCCESS


def test_a_resumed_run_shows_every_step_once_after_a_kill_with_a_torn_record(tmp_path: Path) -> None:
    killed = TensorBoardTracker(tmp_path, {"seed": 1})
    for step in (10, 20, 30):
        killed.log(step, {"loss": 1.0 + step})  # each is on the disk when log returns, as the reader sees
        assert points(tmp_path, "loss")[-1] == (step, 1.0 + step)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    killed.finish("interrupted")
    file.write_bytes(whole[:-9])

    resumed = TensorBoardTracker(tmp_path, {"seed": 1}, resume_step=10)
    for step in (20, 30, 40):
        resumed.log(step, {"loss": 2.0 + step})
    resumed.finish("finished")
    assert len(list(tmp_path.iterdir())) == 2
    assert points(tmp_path, "loss") == [(10, 11.0), (20, 22.0), (30, 32.0), (40, 42.0)]
    assert session(tmp_path, metadata.SESSION_START_INFO_TAG).hparams["seed"].number_value == 1
    assert session(tmp_path, metadata.SESSION_END_INFO_TAG).status == api_pb2.STATUS_SUCCESS


def test_it_takes_part_among_other_trackers(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path / "tensorboard", {})
    together = Trackers([tracker], pytest.fail)
    together.each(lambda one: one.log_retrievals(1, []))
    together.each(lambda one: one.log_adapter(tmp_path, {}, DataSet("d", "f00d", 1)))
    together.finish("failed")


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="not installed") as caught:
        TensorBoardTracker(tmp_path / "tensorboard", {})
    assert "vectoruniverse[tensorboard]" in (caught.value.remedy or "") and caught.value.key == "tensorboard"
    assert not (tmp_path / "tensorboard").exists()
