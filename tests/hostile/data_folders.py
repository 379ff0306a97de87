"""Metadata tables and pictures."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
from PIL import Image

from tests.hostile.world import World, hostile

TABLE, PICTURE = "Metadata tables", "Pictures"


def check(world: World) -> list[str]:
    return ["data", "check", str(world.data)]


def table(what: str, content: bytes, command: tuple[str, ...] = ()) -> None:
    """A case of a table in the place of the sound one; ``@`` stands for the sound one's rows."""

    @hostile(TABLE, what)
    def case(world: World) -> list[str]:
        world.table.write_bytes(content.replace(b"@", world.table.read_bytes()))
        return [*check(world), *command]


HEADER = b"Id,Channel,Title,Category\n"
ROW = b"red-circle-left,red,a red circle,red\n"
table("a byte order mark", b"\xef\xbb\xbf@")
table("nothing", b"")
table("a header alone", HEADER)
table("a quote that is never closed", HEADER + b'red-circle-left,red,"a red circle,red\n' + ROW * 3)
table("rows of fewer or more cells", HEADER + b"red-circle-left,red\n" + b"a,b,c,d,e,f\n")
table("a column that occurs twice", b"Id,Id,Title\n1,2,3\n")
table("a column that is missing", b"Id;Channel;Title;Category\n1;2;3;4\n")
table("more columns than a table has", b",".join(b"c%d" % i for i in range(20_000)) + b"\n")
table("NUL bytes", HEADER + b"a\x00b,red,a\x00b,red\n")
table("bytes that are not UTF-8", HEADER + b"red-circle-left,red,caf\xe9,red\n")
table("UTF-16 without saying so", (HEADER + ROW).decode().encode("utf-16"))
table("a cell of a megabyte", HEADER + b"red-circle-left,red," + b"x" * 2**20 + b",red\n")
table("the same id twice", HEADER + ROW + ROW)
table("an encoding that decompresses or runs something", b"@", ("--encoding", "zlib_codec"))
table("an encoding that does not exist", b"@", ("--encoding", "klingon"))
table("an empty title", HEADER + b"red-circle-left,red,,red\n")
table("terminal codes in ids and titles", HEADER + b"\x1b[2J,red,\x1b]0;owned\x07,red\n")
table("a path out of the folder", b"file_name,text\n../../etc/passwd,a\n/etc/passwd,b\n")


@hostile(TABLE, "a FIFO in its place")
def _(world: World) -> list[str]:
    world.table.unlink()
    os.mkfifo(world.table)
    return check(world)


@hostile(TABLE, "a name of the table that climbs")
def _(world: World) -> list[str]:
    return ["train", "--config", str(world.config), "--set", "data.metadata=../../x.csv"]


def picture(what: str, content: bytes) -> None:
    """A case of other bytes in a picture's place."""

    @hostile(PICTURE, what)
    def case(world: World) -> list[str]:
        world.picture.write_bytes(content)
        return check(world)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that claims a size and holds what it is given."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


picture("a decompression bomb (50,000 x 50,000 pixels in 70 bytes)", png(50_000, 50_000))
picture("a bomb below Pillow's own limit (12,000 x 12,000)", png(12_000, 12_000))
picture("a strip that would be huge once resized", png(1, 60_000, b"\0" * 10))
picture("no bytes", b"")
picture("something else with a picture's ending", b"#!/bin/sh\necho owned\n")
picture("a format that is not read, such as TIFF or EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


@hostile(PICTURE, "a file cut off in the middle")
def _(world: World) -> list[str]:
    content = world.picture.read_bytes()
    world.picture.write_bytes(content[: len(content) // 2])
    return check(world)


@hostile(PICTURE, "16 bits a channel, an animation, a wrong ending: read as what they are")
def _(world: World) -> list[str]:
    Image.fromarray(np.arange(48 * 48, dtype=np.uint16).reshape(48, 48) * 28).save(world.picture)
    other = world.picture.with_name("red-circle-right.png")
    frames = [Image.new("RGB", (48, 48), colour) for colour in ("red", "blue")]
    frames[0].save(other, format="GIF", save_all=True, append_images=frames[1:])
    return check(world)


@hostile(PICTURE, "a FIFO in its place")
def _(world: World) -> list[str]:
    world.picture.unlink()
    os.mkfifo(world.picture)
    return check(world)


@hostile(PICTURE, "a folder in its place")
def _(world: World) -> list[str]:
    world.picture.unlink()
    world.picture.mkdir()
    return check(world)


@hostile(PICTURE, "a link out of the folder")
def _(world: World) -> list[str]:
    outside = world.root / "outside.png"
    world.picture.rename(outside)
    world.picture.symlink_to(outside)
    return check(world)


@hostile(PICTURE, "a circle of links")
def _(world: World) -> list[str]:
    world.picture.unlink()
    world.picture.symlink_to(world.picture)
    return check(world)


@hostile(PICTURE, "a bad one among few, in a training")
def _(world: World) -> list[str]:
    world.picture.write_bytes(b"")
    return ["train", "--config", str(world.config), "--runs-dir", str(world.runs)]
