"""Nothing but an untouched earlier export is ever replaced."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from vectoruniverse.errors import ConfigError
from vectoruniverse.export.folder import MANIFEST, exported_files, new_folder


def fill(out, text="weights"):
    with new_folder(out, {"format": "test"}) as folder:
        (folder / "base").mkdir()
        (folder / "base" / "model").write_text(text)
        (folder / "README.md").write_text("card")


def test_a_folder_appears_whole_with_its_manifest_and_nothing_beside_it(tmp_path):
    out = tmp_path / "deep" / "out"
    fill(out)
    assert list(exported_files(out)) == ["README.md", "base/model", MANIFEST]
    assert json.loads((out / MANIFEST).read_text())["format"] == "test"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_weights_may_be_read_by_whoever_may_read_the_other_files(tmp_path):
    with new_folder(tmp_path / "out", {}) as folder:
        save_file({"w": np.zeros(2)}, folder / "model.safetensors")
        (folder / "README.md").write_text("card")
    assert len({file.stat().st_mode for file in (tmp_path / "out").iterdir()}) == 1


def test_an_untouched_export_is_replaced(tmp_path):
    fill(tmp_path / "out")
    fill(tmp_path / "out", "new")
    assert (tmp_path / "out" / "base" / "model").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def edited(out):
    fill(out)
    (out / "README.md").write_text("my own words")


def with_a_guest(out):
    fill(out)
    (out / "notes.txt").write_text("mine")


def a_link(out):
    fill(out.with_name("elsewhere"))
    out.symlink_to(out.with_name("elsewhere"))


def with_a_false_manifest(out):
    out.mkdir()
    (out / MANIFEST).write_text('{"files": {"../precious": "' + "0" * 64 + '"}}')


CONTENT = [edited, with_a_guest, a_link, with_a_false_manifest, lambda out: out.mkdir(), lambda out: out.write_text("")]


@pytest.mark.parametrize("make", CONTENT)
def test_anything_else_is_refused_before_any_work_and_stays(make, tmp_path):
    make(tmp_path / "out")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    with (
        pytest.raises(ConfigError, match="is there already"),
        new_folder(tmp_path / "out", {}),
    ):
        pytest.fail("no work may begin")
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_what_fails_halfway_leaves_the_earlier_export(tmp_path):
    fill(tmp_path / "out")
    with contextlib.suppress(RuntimeError), new_folder(tmp_path / "out", {}) as folder:
        (folder / "half").write_text("half")
        raise RuntimeError("halfway")
    assert (tmp_path / "out" / "base" / "model").read_text() == "weights"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"), new_folder(tmp_path / "file" / "out", {}):
        pytest.fail("no work may begin")
