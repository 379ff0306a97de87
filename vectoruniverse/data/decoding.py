"""A picture file, which anybody may have made, becomes a square of RGB bytes or a one-line refusal.

Formats: JPEG, PNG, WebP, GIF and BMP (first frame only): what the web and cameras deliver. TIFF is refused on purpose:
its decoder is the widest door Pillow has (dozens of codecs behind one header), its float and 32-bit greyscales have no
agreed white, and a PNG can hold what a model needs of it.

Limits are checked on the header, before pixels are allocated: bytes of the file, width x height, and the aspect ratio
(a 1 x 60,000 strip is small, but resized to 224 on its short side it would take 9 GB).
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from vectoruniverse.data.findings import FaultError
from vectoruniverse.data.shards.base import Packed, Stamp
from vectoruniverse.errors import printable

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_FILE_BYTES = 128 * 2**20
MAX_ASPECT = 32

# A symlink, or a pipe that would block for ever, may stand where a picture should; flags that a system lacks count 0.
_OPEN_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))

_UPRIGHT = {  # EXIF orientation → what puts the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


PictureFile = Path | Packed
"""Where the bytes of a picture are: a file of its own, or a sample of a shard."""


class PictureError(FaultError):
    """One picture cannot be used; the message is one line and begins with the file's name."""

    def __init__(self, source: PictureFile, reason: str, kind: str = "unusable_row") -> None:
        super().__init__(printable(reason, keep=""), kind=kind, file=printable(str(source), keep=""))


Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
"""Pillow's filters."""


@dataclass(frozen=True, slots=True)
class PictureRecipe:
    """How a picture becomes a square.

    Args:
        size: side of the square, pixels.
        fit: ``crop``: short side to ``size``, then the middle, exactly as Hugging Face's CLIP image processor (PIL)
            does; ``squash``: both sides to ``size``; ``pad``: long side to ``size``, black around it.
        resample: Pillow's filter.
        max_pixels: refuse pictures of more pixels (width x height). Pillow itself refuses above 178,956,970.
        short_side: with ``crop``, where the short side goes instead of to ``size``: the middle is then a part of it.
    """

    size: int
    fit: Literal["crop", "squash", "pad"] = "crop"
    resample: Resample = "bicubic"
    max_pixels: int = 64_000_000
    short_side: int | None = None

    @property
    def key(self) -> str:
        """Name of everything that determines the pixels: equal keys, equal bytes. Fit to name a folder."""
        pillow = PIL.__version__.partition(".")[0]
        fit = self.fit if self.short_side is None else f"{self.fit}{self.short_side}"
        return f"{fit}-{self.size}-{self.resample}-pillow{pillow}-v1"  # raise v when this file draws differently


def decode_picture(source: PictureFile, recipe: PictureRecipe) -> NDArray[np.uint8]:
    """Decode one picture file into RGB bytes of shape (size, size, 3).

    The EXIF rotation is applied, transparency lies on white, greyscale is repeated into three channels (16 bits are
    scaled by 1/257), CMYK is taken as inverted in JPEG as Adobe writes it, and colour profiles are ignored.

    Raises:
        PictureError: the file is no regular file, no picture of a known format, too large, or broken.
    """
    content, _ = read_picture_file(source)
    with pillow_warnings_silenced():
        return decode_content(content, source, recipe)


def read_picture_file(source: PictureFile) -> tuple[bytes, Stamp]:
    """Read a regular file, or a picture in a shard, of at most ``MAX_FILE_BYTES``; also returns its stamp then.

    Raises:
        PictureError: it is missing, unreadable, a symbolic link (resolve paths first), a folder, a pipe, or too large.
    """
    if isinstance(source, Packed):
        try:
            return source.read(), source.stamp()
        except FaultError as error:
            raise PictureError(source, error.message, error.kind) from error
    try:
        with open(source, "rb", opener=lambda name, _: os.open(name, _OPEN_FLAGS)) as handle:
            status = os.fstat(handle.fileno())
            usable = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_FILE_BYTES
            content = handle.read(status.st_size) if usable else b""
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        symlink = isinstance(error, OSError) and error.errno == errno.ELOOP
        reason = "is a symbolic link" if symlink else f"cannot be read ({getattr(error, 'strerror', error)})"
        raise PictureError(source, reason) from error
    if not usable:
        regular = stat.S_ISREG(status.st_mode)
        raise PictureError(source, f"is larger than {MAX_FILE_BYTES >> 20} MiB" if regular else "is not a regular file")
    return content, _stamp(status)


def picture_place(source: PictureFile) -> str:
    """A name that no other picture has."""
    return source.place if isinstance(source, Packed) else str(source.absolute())


def picture_suffix(source: PictureFile) -> str:
    """How its name ends, in small letters, with the dot; empty where it has no such end."""
    return (Path(source.name) if isinstance(source, Packed) else source).suffix.lower()


def picture_stamp(source: PictureFile) -> Stamp:
    """What changes when the file that holds the picture changes, or is not looked at.

    Raises:
        OSError, ValueError: there is no such file.
    """
    return source.stamp() if isinstance(source, Packed) else _stamp(os.lstat(source))


def _stamp(status: os.stat_result) -> Stamp:
    """Size and times; the ctime changes also where a copy restored size and mtime."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def decode_content(content: bytes, source: PictureFile, recipe: PictureRecipe) -> NDArray[np.uint8]:
    """Decode the bytes of a picture file; safe in threads, which must run inside ``pillow_warnings_silenced``.

    Returns:
        RGB bytes of shape (size, size, 3).

    Raises:
        PictureError: the bytes are no picture of a known format, too large, or broken; names ``source``.
    """
    with _refused(source):
        return np.array(fit_picture(upright_picture(content, source, recipe.max_pixels), recipe))


def upright_picture(content: bytes, source: PictureFile, max_pixels: int) -> Image.Image:
    """Decode the bytes of a picture file to RGB, rotated as its EXIF data asks, in its own size.

    Raises:
        PictureError: as ``decode_content``.
    """
    if not content:
        raise PictureError(source, "has no bytes", "empty_file")
    with _refused(source), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        refuse_extremes(*image.size, source, max_pixels)
        image.load()
        return _upright(_to_rgb(image), image)


@contextlib.contextmanager
def _refused(source: PictureFile) -> Iterator[None]:
    try:
        yield
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        reason = f"is not one of {', '.join(FORMATS)}, or its header is broken"
        raise PictureError(source, reason, "not_a_picture") from error
    except Image.DecompressionBombError as error:
        raise PictureError(source, f"cannot be decoded ({error})", "too_many_pixels") from error
    except Exception as error:  # broken files make Pillow raise anything, from SyntaxError to KeyError and MemoryError
        raise PictureError(source, f"cannot be decoded ({error or type(error).__name__})", "broken_picture") from error


@contextlib.contextmanager
def pillow_warnings_silenced() -> Iterator[None]:
    """Ignore Pillow's warnings, which concern single files and turn into refusals here.

    Warning filters belong to the process, so one thread enters this around all the threads that decode.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        yield


def picture_size(content: bytes) -> tuple[int, int]:
    """Width and height of a picture that can be decoded, in pixels, as its header gives them."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return image.size


def refuse_extremes(width: int, height: int, source: PictureFile, max_pixels: int) -> None:
    """Hold a picture of this size to the limits.

    Raises:
        PictureError: it has too many pixels, or is a thin strip.
    """
    if width * height > max_pixels:
        reason = f"has {width} x {height} pixels, more than data.max_pixels allows ({max_pixels:,})"
        raise PictureError(source, reason, "too_many_pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        reason = f"has {width} x {height} pixels: longer than {MAX_ASPECT} times its width or height"
        raise PictureError(source, reason, "extreme_shape")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow's own conversion turns every 16-bit grey above 255 into white
        return _wide_grey_to_rgb(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _wide_grey_to_rgb(image: Image.Image) -> Image.Image:
    """16-bit greyscale to RGB: round(value / 257), so that 0 → 0 and 65535 → 255."""
    grey = np.asarray(image).clip(0, 65535).astype(np.uint32)
    eight_bits = ((grey + 128) // 257).astype(np.uint8)
    if "transparency" in image.info:
        eight_bits[grey == image.info["transparency"]] = 255
    return Image.fromarray(eight_bits).convert("RGB")


def _upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """Rotate or mirror ``pixels`` as the EXIF data of ``image`` asks."""
    orientation = None
    with contextlib.suppress(Exception):  # broken EXIF beside sound pixels is common, and raises anything
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    return pixels.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else pixels


def fit_picture(image: Image.Image, recipe: PictureRecipe) -> Image.Image:
    """Make an upright RGB picture the recipe's square."""
    size, resample = recipe.size, Image.Resampling[recipe.resample.upper()]
    (width, height), short, long = image.size, min(image.size), max(image.size)
    if recipe.fit == "squash":
        return image.resize((size, size), resample)
    if recipe.fit == "pad":
        inner = (max(1, round(size * width / long)), max(1, round(size * height / long)))
        square = Image.new("RGB", (size, size))
        square.paste(image.resize(inner, resample), ((size - inner[0]) // 2, (size - inner[1]) // 2))
        return square
    edge = recipe.short_side or size
    outer = (int(edge * width / short), int(edge * height / short))  # rounded down, as transformers does
    left, top = (outer[0] - size) // 2, (outer[1] - size) // 2
    return image.resize(outer, resample).crop((left, top, left + size, top + size))
