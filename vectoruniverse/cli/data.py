"""Commands about data sets: demo, texts, check, stats."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, TextIO

import typer

from vectoruniverse.cli.shell import (
    JsonOption,
    QuietOption,
    SetOption,
    open_display,
    print_json,
    print_table,
    tells_errors,
)
from vectoruniverse.errors import ConfigError, ResourceError, UserError, printable

MetadataEncoding = Annotated[
    str | None, typer.Option("--encoding", metavar="NAME", help="data.encoding, as in cp949 or utf-16.")
]


app = typer.Typer(no_args_is_help=True, help="Data sets.", rich_markup_mode="rich")


@app.command("demo", epilog="Example: vu data demo --out data/openmoji")
@tells_errors
def data_demo(
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("data/openmoji"),
    quiet: QuietOption = False,
) -> None:
    """Build a real data set offline: OpenMoji pictograms, their names and groups."""
    from vectoruniverse.demo.openmoji import build_demo
    from vectoruniverse.terminal import Display

    display = Display(quiet=quiet)
    try:
        summary = build_demo(out, on_progress=lambda done, total: display.advance("pictograms", done, total))
    finally:
        display.close()
    typer.echo(f"{summary.rows} pictures in {summary.channels} channels in {summary.root}")
    typer.echo(summary.attribution)


@app.command("texts", epilog="Example: vu data texts emoji_groups")
@tells_errors
def data_texts(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Which texts; without it they are listed.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the table and its attribution.")] = Path("data/texts"),
) -> None:
    """Build real texts offline, one set for each text task: names of emoji, documentation of Python."""
    from vectoruniverse.demo.texts import DEMO_TEXTS

    if name is None:
        rows = [(one, (build.__doc__ or "").partition("\n")[0]) for one, build in DEMO_TEXTS.items()]
        print_table("", ("name", "texts"), rows)
        return
    if name not in DEMO_TEXTS:
        raise ConfigError(f"there are no texts {name!r}", remedy=f"choose one of {', '.join(DEMO_TEXTS)}")
    made = DEMO_TEXTS[name](out)
    typer.echo(f"{made.rows} rows in {made.file}")
    typer.echo(made.attribution)


@app.command("check", epilog="Example: vu data check data/youtube_thumbnails --csv faults.csv")
@tells_errors
def data_check(
    root: Annotated[str | None, typer.Argument(help="Data folder with a metadata.csv.")] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", help="Check the data of an experiment, with its split and its model."),
    ] = None,
    overrides: SetOption = [],
    as_json: JsonOption = False,
    encoding: MetadataEncoding = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Also write every finding to this CSV file.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Find what is wrong with a data folder: every finding with file, line and reason; exit code 3 above the share."""
    from vectoruniverse.tasks.image_text import check as datasets
    from vectoruniverse.tasks.image_text.audit.report import report_csv, report_json, summary_rows

    table = None if csv_file is None else _open_table(csv_file)
    display = open_display(quiet)
    try:
        report, allowed = datasets.check(root, config, overrides, display, encoding)
    finally:
        display.close()
    if csv_file is not None and table is not None:
        with _write_errors_told(csv_file), table:
            if csv_file.is_file():  # not a pipe or a device
                table.truncate(0)
            table.write(report_csv(report))
    if as_json:
        typer.echo(report_json(report))
    else:
        parts = report.part_rows
        print_table(f"{report.metadata}", ("finding", "count", "severity", "first"), summary_rows(report))
        typer.echo(
            f"{report.rows_usable} usable rows ({parts['train']} training, {parts['val']} validation, "
            f"{parts['test']} test), "
            f"{report.rows_unusable} unusable ({report.bad_share:.1%}, allowed {allowed:.1%})"
        )
        if (remark := report.stats.label_remark) is not None:
            typer.echo(printable(remark))
    if report.bad_share > allowed or "broken_shard" in report.counts:
        raise typer.Exit(3)


@app.command("shard", epilog="Example: vu data shard data/openmoji --out data/openmoji-shards --format webdataset")
@tells_errors
def data_shard(
    out: Annotated[Path, typer.Option(help="Folder of the shards; the same command goes on where it was stopped.")],
    root: Annotated[str | None, typer.Argument(help="Data folder with a metadata.csv, or other shards.")] = None,
    config: Annotated[str | None, typer.Option("--config", "-c", help="Read the data of an experiment.")] = None,
    overrides: SetOption = [],
    form: Annotated[Literal["parquet", "webdataset"], typer.Option("--format", help="Of the files.")] = "parquet",
    rows: Annotated[int | None, typer.Option("--rows-per-shard", min=1, help="End a shard after so many rows.")] = None,
    size: Annotated[
        str | None, typer.Option("--shard-size", metavar="SIZE", help="End a shard after so much; 256MB if not told.")
    ] = None,
    encoding: MetadataEncoding = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Pack rows and pictures into few large files, which training reads like the folder: same rows, same numbers."""
    from vectoruniverse.data.shards.write import Cut
    from vectoruniverse.tasks.image_text import check as datasets
    from vectoruniverse.tasks.image_text.sharding import shard

    cut = Cut(rows, None if size is None and rows is not None else parse_size(size or "256MB"))
    data = datasets.data_of(root, config, overrides, encoding)
    with open_display(quiet) as display:
        found = shard(data, out, form, cut, display)
    if as_json:
        print_json(found.model_dump())
        return
    left_out = f"; {found.left_out} rows without a picture were left out" if found.left_out else ""
    typer.echo(f"{found.rows:,} rows in {len(found.shards):,} shards, {found.bytes:,} bytes, in {out}{left_out}")
    typer.echo(f"train on them: vu train --config FILE --set data.root={out}")


def parse_size(text: str) -> int:
    """Bytes of a size such as ``256MB`` or ``1.5GiB``.

    Raises:
        UserError: it is none, or less than one byte.
    """
    units = {"": 1, "b": 1, **{f"{c}b": 1000**i for i, c in enumerate("kmgt", 1)}}
    units |= {f"{c}ib": 1024**i for i, c in enumerate("kmgt", 1)}
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) *([a-z]*)", text.strip().lower(), re.ASCII)
    size = int(float(found[1]) * units[found[2]]) if found and found[2] in units else 0
    if size < 1:
        raise UserError(f"--shard-size {text!r} is no size", remedy="write it as in 256MB or 1GiB")
    return size


@app.command("stats", epilog="Example: vu data stats data/openmoji --out stats")
@tells_errors
def data_stats(
    root: Annotated[str | None, typer.Argument(help="Data folder with a metadata.csv.")] = None,
    config: Annotated[str | None, typer.Option("--config", "-c", help="Describe the data of an experiment.")] = None,
    overrides: SetOption = [],
    as_json: JsonOption = False,
    encoding: MetadataEncoding = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the figures (PNG and SVG).")] = None,
) -> None:
    """Describe a data folder: how often each label occurs in each part, how long the texts are."""
    from vectoruniverse.tasks.image_text import check as datasets
    from vectoruniverse.terminal import Display

    stats = datasets.describe(root, config, overrides, Display(), encoding)
    if as_json:
        print_json(stats.summary())
        return
    if stats.parts:
        print_table("parts", ("", "rows", "groups", "labels"), datasets.part_rows(stats))
    parts = [datasets.PARTS[part] for part in stats.parts]
    print_table("labels", ("label", "rows", *parts), datasets.label_rows(stats))
    print_table("lengths", ("", "min", "p25", "median", "p75", "p95", "max"), datasets.length_rows(stats))
    if stats.unusable:
        typer.echo(f"{stats.unusable} rows cannot be used and are not counted; `vu data check` names them")
    if out is not None:
        for path in datasets.draw(stats, out):
            typer.echo(path)


def _open_table(path: Path) -> TextIO:
    """A file to write, opened before the work whose result it is for; what it holds stays until then."""
    with _write_errors_told(path):
        return path.open("a", encoding="utf-8", newline="")


@contextlib.contextmanager
def _write_errors_told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = ResourceError if error.errno in (errno.ENOSPC, errno.EDQUOT) else ConfigError
        raise kind(f"cannot be written: {error.strerror}", file=path, key="--csv") from None
