"""One self-contained HTML page: no scripts, no network, readable on a phone, light and dark.

Everything that comes from data is text. Jinja escapes it, ``<bdi>`` keeps its writing direction to itself, control
characters are replaced, long titles are cut, and a Content-Security-Policy forbids whatever could still slip through:
nothing loads but ``data:`` images, and no style but the one whose hash stands in the policy.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from vectoruniverse.report.figures.album import Plate, Section
from vectoruniverse.report.figures.gallery import Gallery, Thumbnail, gallery_figure
from vectoruniverse.report.figures.style import png, save, svg
from vectoruniverse.report.tables import Table, write_csv
from vectoruniverse.report.verdict import Answer
from vectoruniverse.runs.durable import write_durably, write_errors_are_told

THUMBNAIL = 96
"""Side of a picture in the page, in pixels."""

TITLE_CHARACTERS = 300
"""A longer title is cut; nobody reads on, and one cell must not make the page large."""

SVG_BYTES = 400_000
"""A figure that is larger as SVG is put into the page as PNG."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """A part of the page between the answer and the settings.

    Attributes:
        section: of the plates that stand in it, and its anchor. ``health`` also has the verdict.
        heading: above it.
        said: sentences, before its figures.
        tables: below its figures, or beside where there is one figure.
    """

    section: Section
    heading: str
    said: Sequence[str] = ()
    tables: Sequence[Table] = ()


OF_A_RUN = (Chapter("curves", "Curves"), Chapter("health", "Health of the space"))
"""What a run's page has."""


def write_page(
    path: Path,
    *,
    title: str,
    answer: Answer | None,
    comparison: Table | None,
    verdict: Sequence[str],
    learning: Sequence[str] = (),
    plates: Sequence[Plate] = (),
    chapters: Sequence[Chapter] = OF_A_RUN,
    galleries: Sequence[Gallery] = (),
    facts: Mapping[str, str],
    tables: Sequence[Table] = (),
    listings: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
    beside: Path | None = None,
    frames: Mapping[str, pd.DataFrame] | None = None,
) -> None:
    """Write the page: the answer, then the chapters, retrievals, settings; parts without content are left out.

    Args:
        path: the file, replaced in one step.
        title: name of the run.
        answer: whether the metric that counts got better.
        comparison: metrics of base and adapted model.
        verdict: sentences about the health of the space, the worst first.
        learning: signs that the run did not learn, each with a command to try.
        plates: figures with their sections: ``answer``, or that of a chapter.
        chapters: in the order of reading.
        galleries: best and worst retrievals.
        facts: what was run, by name.
        tables: further tables, shown with the settings.
        listings: text to be shown as it is, by name, such as the config or how to load the adapter.
        warnings: what a reader must know before believing the page.
        beside: a folder for ``figures/`` (PNG and SVG) and ``tables/`` (CSV); None: only the page is written.
        frames: the tables that are written beside the page, by name.

    Raises:
        ConfigError: the page cannot be written.
        ResourceError: the disk is full; an earlier page is untouched.
    """
    galleries = [gallery for gallery in galleries if gallery.best or gallery.worst]
    if beside is not None:
        _write_beside(beside, plates, galleries, frames or {})
    chapters = [replace(chapter, tables=[one for one in chapter.tables if one.rows]) for chapter in chapters]
    environment = _environment()
    css = (files("vectoruniverse.report") / "templates" / "report.css").read_text(encoding="utf-8")
    html = environment.get_template("report.html.j2").render(
        title=title,
        answer=answer,
        comparison=comparison,
        verdict=verdict,
        learning=learning,
        figures=[(plate, _figure_uri(plate)) for plate in plates],
        chapters=chapters,
        galleries=galleries,
        facts=facts,
        tables=tables,
        listings=listings or {},
        warnings=warnings,
        style=css,
        style_hash=base64.b64encode(hashlib.sha256(css.encode()).digest()).decode(),
    )
    with write_errors_are_told(path):
        write_durably(path, html.encode("utf-8", errors="replace"))  # a lone surrogate in a title is no reason to fail


def _write_beside(
    folder: Path, plates: Sequence[Plate], galleries: Sequence[Gallery], frames: Mapping[str, pd.DataFrame]
) -> None:
    for plate in plates:
        save(plate.figure, folder / "figures", plate.name)
    for gallery in galleries:
        save(gallery_figure(gallery), folder / "figures", f"retrievals_{gallery.direction}")
    for name, frame in frames.items():
        write_csv(folder / "tables" / f"{name}.csv", frame)


def _figure_uri(plate: Plate) -> str:
    drawn = svg(plate.figure)
    if len(drawn) <= SVG_BYTES:
        return _data_uri("image/svg+xml", drawn)
    return _data_uri("image/png", png(plate.figure))


def _thumbnail_uri(picture: Thumbnail) -> str:
    image, stream = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    image.save(stream, "JPEG", quality=82, optimize=True)
    return _data_uri("image/jpeg", stream.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _cut(text: str) -> str:
    return text if len(text) <= TITLE_CHARACTERS else text[: TITLE_CHARACTERS - 1] + "…"


def _without_controls(value: object) -> object:
    """Control characters, which HTML forbids, as �; called by Jinja on whatever it prints."""
    return value.translate(_CONTROLS) if isinstance(value, str) and not isinstance(value, Markup) else value


_CONTROLS = {c: "\ufffd" for c in [*range(0x20), *range(0x7F, 0xA0)] if chr(c) not in "\t\n\r"}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("vectoruniverse.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_without_controls,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"thumbnail": _thumbnail_uri, "cut": _cut}
    return environment
