"""Shards: what other libraries write is read, what is written others read, and what is damaged or hostile is told."""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import pickle
import re
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from tests.data.packing import FORMATS, pack
from vectoruniverse.data.decoding import read_picture_file
from vectoruniverse.data.findings import FaultError
from vectoruniverse.data.shards import parquet, write
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.tasks.image_text.metadata import read_metadata
from vectoruniverse.tasks.image_text.settings import DataConfig


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def read(root, **data):
    return read_metadata(DataConfig(root=str(root), **data))


def facts(row):
    return row.id, row.title, row.labels, row.text


def of_folder(shapes):
    return {row.id: (facts(row), row.path.read_bytes()) for row in read(shapes).rows}


def write_tar(file, members):
    """A tar of (name, bytes) or ready headers."""
    with tarfile.open(file, "w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            head = tarfile.TarInfo(member[0])
            head.size = len(member[1])
            archive.addfile(head, io.BytesIO(member[1]))
    return file


def sample(key, shade=0, **cells):
    return [(f"{key}.png", png(shade)), (f"{key}.json", json.dumps({"text": f"title {key}", **cells}).encode())]


def table(file, columns, **options):
    pq.write_table(pa.table(columns), file, **options)
    return file


# reading back, and by the libraries of the field


@pytest.mark.parametrize("form", FORMATS)
def test_rows_and_the_very_bytes_of_their_pictures_come_back(shapes, tmp_path, form):
    found = read(pack(shapes, tmp_path / form, form))
    assert {row.id: (facts(row), row.path.read()) for row in found.rows} == of_folder(shapes)
    assert [row.line for row in found.rows] == list(range(1, 33)) and not found.bad


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it closes files by garbage
def test_webdataset_itself_reads_what_is_written(shapes, tmp_path):
    pack(shapes, tmp_path / "out", "webdataset")
    urls = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    found = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(found) == 32 and len({one["__key__"] for one in found}) == 32
    own = of_folder(shapes)
    for one in found:
        cells = json.loads(one["json"])
        assert (cells["Title"], one["png"]) == (own[cells["Id"]][0][1], own[cells["Id"]][1])
    gc.collect()


def test_datasets_itself_reads_what_is_written_and_finds_pictures(shapes, tmp_path):
    import datasets

    files = sorted(map(str, pack(shapes, tmp_path / "out", "parquet").glob("*.parquet")))
    found = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert isinstance(found.features["image"], datasets.Image) and found.num_rows == 32
    row = read(shapes).rows[3]
    assert found[3]["Id"] == row.id
    np.testing.assert_array_equal(np.array(found[3]["image"]), np.array(Image.open(row.path)))


def test_what_webdatasets_own_writer_makes_is_read(tmp_path):
    with webdataset.ShardWriter(str(tmp_path / "shard-%06d.tar"), maxcount=2, verbose=0) as writer:
        for i in range(5):
            writer.write(
                {"__key__": f"sub/{i}", "png": png(i), "txt": f"one {i}", "json": {"n": i, "tags": ["a", "b"]}}
            )
    found = read(tmp_path, columns={"labels": "tags"})
    assert [(row.id, row.text, row.labels, row.columns["n"]) for row in found.rows] == [
        (f"sub/{i}", f"one {i}", ("a", "b"), str(i)) for i in range(5)
    ]
    assert [row.path.read() for row in found.rows] == [png(i) for i in range(5)]
    assert str(found.rows[4].path) == "shard-000002.tar/sub/4.png"


def test_classes_and_lists_of_them_are_told_by_name_as_datasets_notes_them(tmp_path):
    import datasets

    names = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features(
        image=datasets.Image(), caption=datasets.Value("string"), kind=names, kinds=datasets.Sequence(names)
    )
    image = {"bytes": png(), "path": None}
    rows = {"image": [image, image], "caption": ["a", "b"], "kind": [1, 0], "kinds": [[0, 1], []]}
    made = datasets.Dataset.from_dict(rows, features=features)
    made.to_parquet(tmp_path / "a.parquet")
    found = read(tmp_path, columns={"labels": "kinds"})
    assert [(row.text, row.columns["kind"], row.labels) for row in found.rows] == [
        ("a", "dog", ("cat", "dog")),
        ("b", "cat", ()),
    ]


def test_the_parts_of_a_dictionary_of_data_sets_are_a_column_of_the_split(tmp_path):
    import datasets

    datasets.disable_progress_bars()

    def part(*titles):
        pictures = [{"bytes": png(), "path": f"{one}.png"} for one in titles]
        return datasets.Dataset.from_dict({"image": pictures, "text": titles}).cast_column("image", datasets.Image())

    datasets.DatasetDict(train=part("a", "b"), validation=part("c")).save_to_disk(tmp_path / "saved")
    found = read(tmp_path / "saved", split={"column": "split"}, columns={"id": "text"})
    assert [(row.text, row.split) for row in found.rows] == [("a", "train"), ("b", "train"), ("c", "val")]


def test_rows_of_a_data_set_that_was_filtered_are_read_in_its_order(tmp_path):
    import datasets

    datasets.disable_progress_bars()
    made = datasets.Dataset.from_dict({"image": [png(i) for i in range(4)], "text": list("abcd")})
    made.select([2, 0]).save_to_disk(tmp_path / "saved")
    assert [(row.text, row.path.read()) for row in read(tmp_path / "saved", columns={"id": "text"}).rows] == [
        ("c", png(2)),
        ("a", png(0)),
    ]


def test_plain_columns_of_bytes_are_pictures_too_and_the_column_can_be_named(tmp_path):
    columns = {"photo": [png(1), png(2)], "thumb": [b"a", b"b"], "text": ["x", "y"]}
    table(tmp_path / "a.parquet", columns)
    with pytest.raises(DataError, match="'photo', 'thumb' hold bytes") as fault:
        read(tmp_path)
    assert fault.value.key == "data.columns.image"
    found = read(tmp_path, columns={"image": "photo", "id": "text"})
    assert [row.path.read() for row in found.rows] == [png(1), png(2)]


def test_samples_without_any_name_are_called_by_shard_and_number(tmp_path):
    table(tmp_path / "train-0.parquet", {"image": [png(1), png(2)], "caption": ["x", "x"]})
    table(tmp_path / "train-1.parquet", {"image": [png(3)], "caption": ["x"]})
    assert [row.id for row in read(tmp_path).rows] == ["train-0.parquet/1", "train-0.parquet/2", "train-1.parquet/1"]


@pytest.mark.parametrize("pattern", ["shard-{000000..000003}.tar", "shard-*.tar", "shard-00000[0-3].tar", ""])
def test_a_pattern_names_its_files(shapes, tmp_path, pattern):
    out = pack(shapes, tmp_path / "out", "webdataset")
    assert len(read(out / pattern).rows) == 32
    assert len(read(out / "shard-{000000..000001}.tar").rows) == 18
    assert len(read(out / "shard-000000.tar").rows) == 9


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("shard-{000000..000009}.tar", "no such file"),
        ("other-*.tar", "no file has such a name"),
        ("shard-{0..100001}.tar", "more than 100,000 files"),
    ],
)
def test_a_pattern_that_names_what_is_not_there_is_refused(shapes, tmp_path, root, said):
    out = pack(shapes, tmp_path / "out", "webdataset")
    with pytest.raises((ConfigError, DataError), match=said) as fault:
        read(out / root)
    assert fault.value.key == "data.root"


def test_both_kinds_of_files_in_a_folder_need_the_format_said(shapes, tmp_path):
    pack(shapes, tmp_path, "webdataset")
    table(tmp_path / "a.parquet", {"image": [png()], "text": ["x"]})
    with pytest.raises(ConfigError, match="both parquet and webdataset"):
        read(tmp_path)
    assert len(read(tmp_path, format="parquet", columns={"id": "text"}).rows) == 1


# hostile tar files


def special(name, kind, target=""):
    head = tarfile.TarInfo(name)
    head.type, head.linkname = kind, target
    return head


BAD_SAMPLES = {
    "absolute": ([("/etc/a.png", png())], "outside_root", "leads out of the shard"),
    "upwards": ([("../a.png", png())], "outside_root", "leads out of the shard"),
    "symlink": ([special("a.png", tarfile.SYMTYPE, "/etc/passwd")], "outside_root", "link to '/etc/passwd'"),
    "hard link": ([special("a.png", tarfile.LNKTYPE, "ok.png")], "outside_root", "link to 'ok.png'"),
    "device": ([special("a.png", tarfile.CHRTYPE)], "unusable_row", "not a plain file"),
    "pipe": ([special("a.png", tarfile.FIFOTYPE)], "unusable_row", "not a plain file"),
    "no picture": ([("a.json", b"{}"), ("a.pyd", b"x")], "missing_picture", "'a' holds no picture; it holds json, pyd"),
    "two pictures": ([("a.png", png()), ("a.jpg", png())], "ambiguous_id", "holds 2 pictures"),
    "wrong ending": ([("a.seg.png", png())], "missing_picture", "holds no picture"),
    "no JSON": ([("a.png", png()), ("a.json", b"{")], "unusable_row", "a.json is not JSON"),
    "deep JSON": ([("a.png", png()), ("a.json", b"[" * 100_000)], "unusable_row", "a.json is not JSON"),
    "JSON list": ([("a.png", png()), ("a.json", b"[1]")], "unusable_row", "no JSON object"),
    "long JSON": ([("a.png", png()), ("a.json", b" " * (2**20 + 1))], "unusable_row", "more than 1,048,576"),
    "not UTF-8": ([("a.png", png()), ("a.txt", b"\xff\xfe\xfa")], "unusable_row", "a.txt is not UTF-8"),
    "same key": (sample("ok", 9), "duplicate_id", "that of sample 1 of a.tar"),
}


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_a_bad_sample_is_set_aside_with_its_shard_and_member(tmp_path, case):
    members, kind, said = BAD_SAMPLES[case]
    write_tar(tmp_path / "a.tar", [*sample("ok"), *sample("fine"), *members, *sample("last")])
    found = read(tmp_path)
    assert [row.id for row in found.rows] == ["ok", "fine", "last"]
    (bad,) = (one.located(found.parts) for one in found.bad)
    assert (bad.kind, bad.file, bad.line) == (kind, "a.tar", 3) and said in bad.reason


def test_nothing_in_a_shard_is_unpickled_or_extracted(tmp_path, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    bomb = pickle.dumps(Bomb())
    members = [(f"a.{ending}", bomb) for ending in ("pyd", "pkl", "pickle", "pth", "npy")]
    folder = tmp_path / "data"
    folder.mkdir()
    write_tar(folder / "a.tar", [*members, *sample("a")])
    before = sorted(folder.rglob("*"))
    (row,) = read(folder).rows
    assert row.path.read() == png() and not (tmp_path / "ran").exists() and sorted(folder.rglob("*")) == before


def longest(file):
    """A header whose own extended header claims a gigabyte."""
    head = special("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    head.size = 2**30
    file.write_bytes(head.tobuf(tarfile.GNU_FORMAT) + b"a" * 4096)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda file: os.truncate(file, 3000), "damaged or cut off"),
        (lambda file: os.truncate(file, 2048), "damaged or cut off after 2 members"),
        (lambda file: file.write_bytes(b"no tar at all" * 100), "is not a tar file"),
        (lambda file: file.write_bytes(b""), "is not a tar file"),
        (lambda file: file.write_bytes(b"\x1f\x8b" + b"0" * 600), "is compressed"),
        (longest, "claims 1,073,741,824 bytes"),
        (lambda file: file.write_bytes(file.read_bytes()[:2048] + b"x" * 512 + file.read_bytes()[2560:]), "damaged"),
    ],
)
def test_a_damaged_tar_is_refused_with_its_name(tmp_path, harm, said):
    file = write_tar(tmp_path / "a.tar", [*sample("a"), *sample("b")])
    harm(file)
    with pytest.raises(FaultError, match=said) as fault:
        read(tmp_path)
    assert (fault.value.kind, fault.value.file, fault.value.exit_code) == ("broken_shard", file, 3)


def test_every_damaged_shard_is_named_at_once(tmp_path):
    for name in "abcd":
        write_tar(tmp_path / f"{name}.tar", sample(name))
    for name in "bd":
        os.truncate(tmp_path / f"{name}.tar", 700)
    with pytest.raises(FaultError, match=r"b\.tar.*d\.tar"):
        read(tmp_path)


def test_a_shard_that_is_a_link_out_of_the_folder_is_refused(tmp_path):
    file = write_tar(tmp_path / "outside.tar", sample("a"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").symlink_to(file)
    with pytest.raises(FaultError, match="link to a file elsewhere"):
        read(tmp_path / "in")


# hostile Parquet files, and data sets of `datasets`


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"text": ["a"]}, "no column of 'text' holds bytes"),
        ({"image": [[1, 2]], "text": ["a"]}, "no column of"),
        ({"image": [{"bytes": b"", "path": "", "more": 1}], "text": ["a"]}, "no column of"),
        ({"image": [png()], "title ": ["a"], "title": ["b"]}, "column 'title' occurs twice"),
    ],
)
def test_a_parquet_file_without_pictures_or_with_doubled_columns_is_refused(tmp_path, columns, said):
    table(tmp_path / "a.parquet", columns)
    with pytest.raises(DataError, match=said):
        read(tmp_path)


def test_columns_of_nested_types_are_no_text_and_are_passed_over(tmp_path):
    nested = {"box": [{"x": 1}], "points": [[[1, 2]]], "when": pa.array([0], pa.timestamp("s"))}
    table(tmp_path / "a.parquet", {"image": [png()], "text": ["a"], "n": [1.5], **nested})
    (row,) = read(tmp_path).rows
    assert row.columns.keys() == {"text", "n", "__key__"} and row.columns["n"] == "1.5"
    with pytest.raises(ConfigError, match=re.escape("no {box} in this file")):
        read(tmp_path, text="{box}")


@pytest.mark.parametrize("harm", [lambda b: b[:-300], lambda b: b"PAR1" + b[500:], lambda b: b"", lambda b: b[:-8] * 2])
def test_a_damaged_parquet_file_is_refused_with_its_name(tmp_path, harm):
    file = table(tmp_path / "a.parquet", {"image": [png()] * 9, "text": list("abcdefghi")})
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(FaultError, match="damaged, or not a Parquet file") as fault:
        read(tmp_path)
    assert (fault.value.kind, fault.value.file) == ("broken_shard", file)


def test_rows_without_bytes_have_a_path_that_is_never_opened(tmp_path, shapes):
    secret = next((shapes / "images").rglob("*.png"))
    image = pa.array(
        [{"bytes": None, "path": str(secret)}, None], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    table(tmp_path / "a.parquet", {"image": image, "text": ["a", "b"]})
    assert [row.path.read() for row in read(tmp_path).rows] == [b"", b""]


@pytest.mark.parametrize("order", ["forth", "back"])
def test_a_row_group_too_large_to_hold_is_read_on_and_any_row_found(tmp_path, monkeypatch, order):
    monkeypatch.setattr(parquet, "MAX_BLOCK", 1000)
    pictures = [png(i % 256) + bytes([i % 251]) for i in range(500)]
    table(tmp_path / "a.parquet", {"image": pictures, "id": [str(i) for i in range(500)], "text": ["a"] * 500})
    rows = read(tmp_path, columns={"id": "id"}).rows
    places = range(0, 500, 37) if order == "forth" else range(499, 0, -111)
    assert [rows[i].path.read() for i in places] == [pictures[i] for i in places]


def test_row_groups_are_kept_up_to_so_many_bytes():
    kept = parquet.Kept(limit=100)
    for i in range(5):
        kept.put(("a", i), np.zeros(40, np.uint8))
    assert [i for i in range(5) if kept.get(("a", i)) is not None] == [3, 4]


def test_a_data_set_whose_state_names_files_elsewhere_is_refused(shapes, tmp_path):
    root = pack(shapes, tmp_path / "in", "datasets")
    state = root / "state.json"
    held = json.loads(state.read_text())
    held["_data_files"][0]["filename"] = "../outside.arrow"
    state.write_text(json.dumps(held))
    with pytest.raises(DataError, match="names a file elsewhere"):
        read(root)
    state.write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        read(root)


def test_a_damaged_arrow_file_is_refused(shapes, tmp_path):
    root = pack(shapes, tmp_path / "in", "datasets")
    next(root.glob("*.arrow")).write_bytes(b"no arrow")
    with pytest.raises(FaultError, match="is not what `datasets` saves"):
        read(root)


# the manifest, and writing


def harm_length(out):
    os.truncate(out / "shard-000001.tar", 1024)


def harm_missing(out):
    (out / "shard-000001.tar").unlink()


def harm_more(out):
    write_tar(out / "zzz.tar", sample("z"))


def harm_rows(out):
    file = out / "shard-000001.tar"
    size = file.stat().st_size
    write_tar(file, sample("only"))
    os.truncate(file, size)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (harm_length, "holds 1,024 bytes; shards.json says"),
        (harm_missing, "is missing; shards.json names it"),
        (harm_more, "is not named in shards.json"),
        (harm_rows, "holds 1 rows; shards.json says 9"),
    ],
)
def test_shards_are_held_to_their_manifest(shapes, tmp_path, harm, said):
    out = pack(shapes, tmp_path / "out", "webdataset")
    harm(out)
    with pytest.raises(FaultError, match=said) as fault:
        read(out)
    assert fault.value.kind == "broken_shard"


def test_a_manifest_may_not_name_files_elsewhere(shapes, tmp_path):
    out = pack(shapes, tmp_path / "out", "webdataset")
    text = (out / "shards.json").read_text()
    (out / "shards.json").write_text(text.replace("shard-000000.tar", "../../etc/passwd"))
    with pytest.raises(DataError, match=r"shards\.0\.name"):
        read(out)


def test_a_shard_that_was_written_and_not_yet_noted_is_written_again(shapes, tmp_path, monkeypatch):
    whole = pack(shapes, tmp_path / "whole", "webdataset")

    def killed(file):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(write, "sha256_of", killed)
        with pytest.raises(KeyboardInterrupt):
            pack(shapes, tmp_path / "cut", "webdataset")
    assert (tmp_path / "cut" / "shard-000000.tar").exists()
    pack(shapes, tmp_path / "cut", "webdataset")
    assert (whole / "shards.json").read_bytes() == (tmp_path / "cut" / "shards.json").read_bytes()


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_writing_that_was_stopped_goes_on_and_ends_in_the_same_bytes(shapes, tmp_path, form, monkeypatch):
    whole = pack(shapes, tmp_path / "whole", form)
    taken = []

    def read_until(source):
        taken.append(source)
        if len(taken) == 23:
            raise KeyboardInterrupt
        return read_picture_file(source)

    with monkeypatch.context() as patch:
        patch.setattr(write, "read_picture_file", read_until)
        with pytest.raises(KeyboardInterrupt):
            pack(shapes, tmp_path / "cut", form)
    with pytest.raises(FaultError, match="not all written yet"):
        read(tmp_path / "cut")
    assert len(list((tmp_path / "cut").glob("shard-*"))) == 2
    taken.clear()
    with monkeypatch.context() as patch:
        patch.setattr(
            "vectoruniverse.data.shards.write.read_picture_file",
            lambda source: taken.append(source) or read_picture_file(source),
        )
        pack(shapes, tmp_path / "cut", form)
    assert len(taken) == 32 - 2 * 9
    names = sorted(file.name for file in whole.iterdir())
    assert names == sorted(file.name for file in (tmp_path / "cut").iterdir())
    assert all((whole / name).read_bytes() == (tmp_path / "cut" / name).read_bytes() for name in names)


def test_a_second_call_writes_nothing_and_other_data_or_files_are_never_overwritten(shapes, tmp_path):
    out = pack(shapes, tmp_path / "out", "webdataset")
    times = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    pack(shapes, out, "webdataset")
    assert times == {file: file.stat().st_mtime_ns for file in out.iterdir()}
    with pytest.raises(ConfigError, match="shards of other data, or cut otherwise"):
        pack(shapes, out, "webdataset", rows=5)
    (tmp_path / "own").mkdir()
    write_tar(tmp_path / "own" / "a.tar", sample("a"))
    with pytest.raises(ConfigError, match="not written here"):
        pack(shapes, tmp_path / "own", "webdataset")


def test_shards_are_written_of_shards_and_hold_the_same(shapes, tmp_path):
    first = pack(shapes, tmp_path / "first", "parquet", rows=7)
    second = read(pack(first, tmp_path / "second", "webdataset", rows=11))
    assert {row.id: (facts(row), row.path.read()) for row in second.rows} == of_folder(shapes)


def test_rows_whose_picture_is_missing_or_unreadable_are_left_out_within_the_share(tmp_path):
    (tmp_path / "in" / "images").mkdir(parents=True)
    with (tmp_path / "in" / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("Id", "Title"), *((f"p{i}", f"t{i}") for i in range(10))])
    for i in range(9):
        (tmp_path / "in" / "images" / f"p{i}.png").write_bytes(png(i))
    with pytest.raises(DataError, match="1 of 10 rows"):
        pack(tmp_path / "in", tmp_path / "out", "parquet")
    out = pack(tmp_path / "in", tmp_path / "out", "parquet", max_bad_share=0.2)
    assert json.loads((out / "shards.json").read_text())["left_out"] == 1
    assert [row.id for row in read(out).rows] == [f"p{i}" for i in range(9)]
