"""What many tests share: a small folder of real pictures, a small model, and a cache of their own."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image, ImageDraw

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test may wait for a network
os.environ["WANDB_MODE"] = "offline"
os.environ.pop("WANDB_API_KEY", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a GPU are skipped, and counted, where there is none."""
    for item in items:
        if item.get_closest_marker("cuda") is not None:
            item.add_marker(pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="needs a GPU"))


# the same examples every time, none kept on disk; scripts/fuzz is for finding new ones
settings.register_profile(
    "vectoruniverse",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("vectoruniverse")

COLOURS = {"red": (220, 40, 40), "green": (30, 160, 60), "blue": (40, 80, 220), "yellow": (235, 200, 30)}
SHAPES = ("circle", "square", "triangle", "cross")
PLACES = ("left", "right")


def draw_shape(colour: str, shape: str, place: str, size: int = 48) -> Image.Image:
    """A coloured shape on white, in the left or the right half."""
    image = Image.new("RGB", (size, size), "white")
    pen, fill = ImageDraw.Draw(image), COLOURS[colour]
    x = 2 if place == "left" else size // 2
    box = (x, size // 4, x + size // 2 - 4, size // 4 + size // 2 - 4)
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "square":
        pen.rectangle(box, fill=fill)
    elif shape == "triangle":
        pen.polygon([(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) // 2, box[1])], fill=fill)
    else:
        middle_x, middle_y = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
        pen.rectangle((middle_x - 3, box[1], middle_x + 3, box[3]), fill=fill)
        pen.rectangle((box[0], middle_y - 3, box[2], middle_y + 3), fill=fill)
    return image


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ``write_shapes``."""
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes")


def write_shapes(root: Path) -> Path:
    """32 pictures in the owner's layout: Id, Channel, Title, Category and images/<Channel>/<Id>.png."""
    rows = []
    for colour in COLOURS:
        (root / "images" / colour).mkdir(parents=True)
        for shape in SHAPES:
            for place in PLACES:
                identity = f"{colour}-{shape}-{place}"
                draw_shape(colour, shape, place).save(root / "images" / colour / f"{identity}.png")
                rows.append((identity, colour, f"a {colour} {shape} on the {place}", f"{colour},{shape}"))
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("Id", "Channel", "Title", "Category"), *rows])
    return root


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of decoded pictures for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, shared_cache: Path, tmp_path: Path) -> None:
    """No test reads or writes the person's own cache, runs or home; none waits for the disk, for no power is cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setenv("VU_CACHE", str(shared_cache))
    monkeypatch.setenv("VU_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))  # where schedules are


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what a page says: figures are made and stand in it, but hold nothing.

    Drawing a dozen of them takes nine tenths of a small run's time; tests of the figures and of whole pages draw them.
    """
    from vectoruniverse.report.figures import style

    stream = io.BytesIO()
    Image.new("RGB", (1, 1)).save(stream, "PNG")
    blank = {"png": stream.getvalue(), "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>'}
    monkeypatch.setattr(style, "_render", lambda figure, kind, *, first: blank[kind])
