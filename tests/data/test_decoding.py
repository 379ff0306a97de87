"""Every kind of picture file, sound and hostile, made on the spot."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vectoruniverse.data.decoding import MAX_FILE_BYTES, PictureError, PictureRecipe, decode_picture

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)
RECIPE = PictureRecipe(8)


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


def middle(path: Path, recipe: PictureRecipe = RECIPE) -> tuple[int, ...]:
    return tuple(int(value) for value in decode_picture(path, recipe)[recipe.size // 2, recipe.size // 2])


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


@pytest.mark.parametrize(("width", "height"), [(37, 23), (23, 37), (20, 20), (9, 61), (301, 200), (16, 17)])
@pytest.mark.parametrize("size", [16, 17])
def test_crop_equals_the_clip_image_processor_byte_for_byte(tmp_path: Path, width: int, height: int, size: int) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, do_rescale=False, do_normalize=False
    )
    image = noise(width, height)
    ours = decode_picture(save(image, tmp_path / "a.png"), PictureRecipe(size))
    theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
    assert theirs.dtype == np.uint8
    np.testing.assert_array_equal(ours, theirs.transpose(1, 2, 0))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.bmp"])
def test_each_allowed_format_gives_square_rgb_bytes(tmp_path: Path, name: str) -> None:
    pixels = decode_picture(save(Image.new("RGB", (20, 12), RED), tmp_path / name), RECIPE)
    assert (pixels.shape, pixels.dtype) == ((8, 8, 3), np.uint8)
    assert np.abs(pixels.astype(int) - RED).max() <= 3  # JPEG and WebP are lossy


@pytest.mark.parametrize("name", ["a.tiff", "a.ppm", "a.ico", "a.jp2"])
def test_other_formats_are_refused_whatever_their_name(tmp_path: Path, name: str) -> None:
    path = save(Image.new("RGB", (32, 32), RED), tmp_path / name).rename(tmp_path / "picture.jpg")
    with pytest.raises(PictureError, match="is not one of JPEG, PNG, WEBP, GIF, BMP"):
        decode_picture(path, RECIPE)


@pytest.mark.parametrize(("format_", "extra"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("MPO", {})])
def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path, format_: str, extra: dict[str, bool]) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN)]
    frames[0].save(tmp_path / "a", format=format_, save_all=True, append_images=frames[1:], **extra)
    assert np.abs(np.subtract(middle(tmp_path / "a"), RED)).max() <= 3


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (255, 1), (256, 1), (257, 1), (32768, 128), (65278, 254), (65535, 255)]
)
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, value: int, expected: int) -> None:
    path = save(Image.fromarray(np.full((8, 8), value, np.uint16)), tmp_path / "a.png")
    with Image.open(path) as image:
        assert image.mode == "I;16"
    assert middle(path) == (expected,) * 3


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, WHITE),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 255), (77, 77, 77)),
        ("LA", (0, 0), WHITE),
        ("RGBA", (*RED, 255), RED),
        ("RGBA", (*RED, 0), WHITE),
        ("RGBA", (255, 0, 0, 51), (255, 204, 204)),  # one fifth red over white
    ],
)
def test_modes_become_rgb_and_transparency_lies_on_white(
    tmp_path: Path, mode: str, colour: object, expected: tuple[int, ...]
) -> None:
    assert middle(save(Image.new(mode, (8, 8), colour), tmp_path / "a.png")) == expected


@pytest.mark.parametrize(
    ("mode", "transparent"), [("L", 9), ("RGB", (9, 9, 9)), ("P", 9), ("P", bytes([255] * 9 + [0])), ("I;16", 9)]
)
@pytest.mark.parametrize("value", [9, 5])
def test_a_transparent_colour_lies_on_white(tmp_path: Path, mode: str, transparent: object, value: int) -> None:
    colours = {"RGB": (value,) * 3, "I;16": value}
    image = Image.new(mode, (8, 8), colours.get(mode, value))
    if mode == "P":
        image.putpalette([channel for grey in range(256) for channel in (grey,) * 3])
    expected = 255 if value == 9 else {"I;16": 0}.get(mode, 5)
    path = save(image, tmp_path / "a.png", transparency=transparent)
    assert middle(path) == (expected,) * 3


def test_cmyk_jpeg_as_adobe_writes_it_inverted_keeps_its_colours(tmp_path: Path) -> None:
    path = save(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=95)
    assert b"Adobe" in path.read_bytes()
    assert np.abs(np.subtract(middle(path), RED)).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(noise(24, 16), tmp_path / "a.jpg", exif=exif, quality=95)
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    recipe = PictureRecipe(8, fit="squash")
    expected = decode_picture(save(upright, tmp_path / "b.png", exif=b""), recipe)
    np.testing.assert_array_equal(decode_picture(path, recipe), expected)


def test_broken_exif_does_not_spoil_a_sound_picture(tmp_path: Path) -> None:
    path = save(
        Image.new("RGB", (16, 16), RED), tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff", quality=95
    )
    assert np.abs(np.subtract(middle(path), RED)).max() <= 3


def test_pad_puts_black_around_and_squash_keeps_everything(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 16), GREEN)
    ImageDraw.Draw(image).rectangle((0, 0, 15, 15), fill=RED)
    path = save(image, tmp_path / "a.png")
    padded = decode_picture(path, PictureRecipe(8, fit="pad"))
    assert (padded[[0, 1, 6, 7]] == 0).all()
    assert (padded[2:6, 0] == RED).all()
    assert (padded[2:6, 7] == GREEN).all()
    squashed = decode_picture(path, PictureRecipe(8, fit="squash"))
    assert (squashed[:, 0] == RED).all()
    assert (squashed[:, 7] == GREEN).all()


def test_the_key_tells_what_determines_pixels_and_nothing_else() -> None:
    keys = {PictureRecipe(8, fit, how).key for fit in ("crop", "pad", "squash") for how in ("bicubic", "lanczos")}
    assert len(keys | {PictureRecipe(9).key}) == 7
    assert PictureRecipe(8, max_pixels=5).key == PictureRecipe(8).key


@pytest.mark.parametrize("side", [8001, 10_000, 30_000], ids=["above the cap", "Pillow warns", "Pillow refuses"])
def test_a_bomb_is_refused_by_its_header_without_taking_memory(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side, (b"IDAT", zlib.compress(bytes(1000)))))
    tracemalloc.start()
    try:
        with pytest.raises(PictureError, match="pixels"):
            decode_picture(path, RECIPE)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_long_strip_is_refused_since_its_resized_form_would_be_huge(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="has 1 x 60000 pixels"):
        decode_picture(save(Image.new("RGB", (1, 60_000)), tmp_path / "a.png"), RECIPE)
    assert middle(save(Image.new("RGB", (1, 32), RED), tmp_path / "b.png")) == RED


def test_max_pixels_is_a_limit_inclusive(tmp_path: Path) -> None:
    path = save(Image.new("RGB", (10, 10), RED), tmp_path / "a.png")
    assert middle(path, PictureRecipe(8, max_pixels=100)) == RED
    with pytest.raises(PictureError, match=r"10 x 10 pixels, more than data\.max_pixels allows \(99\)"):
        decode_picture(path, PictureRecipe(8, max_pixels=99))


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7])
def test_a_truncated_file_is_refused(tmp_path: Path, format_: str, share: float) -> None:
    buffer = io.BytesIO()
    noise(64, 48).save(buffer, format_)
    path = tmp_path / "a.jpg"
    path.write_bytes(buffer.getvalue()[: int(share * buffer.tell())])
    with pytest.raises(PictureError, match=r"a\.jpg: "):
        decode_picture(path, RECIPE)


def test_any_damage_ends_in_a_picture_or_a_refusal_of_one_line(tmp_path: Path) -> None:
    g, path = np.random.default_rng(0), tmp_path / "a"
    for format_ in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        buffer = io.BytesIO()
        noise(16, 16).quantize(16).convert("RGB").save(buffer, format_)
        for _ in range(60):
            content = np.frombuffer(buffer.getvalue(), np.uint8).copy()
            content[g.integers(0, min(len(content), 200), 4)] = g.integers(0, 256, 4)
            path.write_bytes(content.tobytes())
            try:
                assert decode_picture(path, PictureRecipe(8, max_pixels=10_000)).shape == (8, 8, 3)
            except PictureError as error:
                assert str(error).isprintable()  # noqa: PT017 (either outcome is right)


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"\xff\xd8\xff", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"RIFF\x04\x00\x00\x00WEBP"]
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=r"a\.jpg: "):
        decode_picture(path, RECIPE)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    real = save(Image.new("RGB", (8, 8)), tmp_path / "real.png")
    (tmp_path / "link.png").symlink_to(real)
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "huge.png").touch()
    os.truncate(tmp_path / "huge.png", MAX_FILE_BYTES + 1)
    reasons = {
        "link.png": "is a symbolic link",
        "folder.png": "directory",
        "pipe.png": "is not a regular file",
        "huge.png": "larger than 128 MiB",
        "gone.png": "No such file",
        "x" * 5000: "too long",
        "nul\0.png": "null byte",
    }
    for name, reason in reasons.items():
        with pytest.raises(PictureError, match=reason):
            decode_picture(tmp_path / name, RECIPE)


def test_the_message_is_one_harmless_line_even_for_a_hostile_name(tmp_path: Path) -> None:
    path = tmp_path / "a\n\x1b[31mb.jpg"
    path.write_bytes(b"no picture")
    with pytest.raises(PictureError) as caught:
        decode_picture(path, RECIPE)
    assert str(caught.value).isprintable()
    assert r"a\n\x1b[31mb.jpg" in str(caught.value)


def test_warning_filters_are_as_before(tmp_path: Path) -> None:
    before = list(warnings.filters)
    middle(save(Image.new("RGB", (8, 8)), tmp_path / "a.png"))
    assert warnings.filters == before
