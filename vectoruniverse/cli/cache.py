"""Commands about the cache of decoded pictures and hidden states: info, prune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vectoruniverse.cli.shell import JsonOption, print_json, print_table, tells_errors

app = typer.Typer(no_args_is_help=True, help="The cache of pictures and hidden states.", rich_markup_mode="rich")

FolderOption = Annotated[
    Path | None, typer.Option("--folder", help="Cache folder; without it $VU_CACHE or that of your user.")
]


@app.command("info", epilog="Example: vu cache info")
@tells_errors
def cache_info(folder: FolderOption = None, as_json: JsonOption = False) -> None:
    """List stores with their size and last use, least recently used first."""
    import dataclasses
    from datetime import datetime

    from vectoruniverse.data.caches import limit_of, stores
    from vectoruniverse.data.thumbnails import default_cache_dir

    place = folder or default_cache_dir()
    found = stores(place)
    limit = limit_of(place) if place.is_dir() else None
    if as_json:
        told = [{**dataclasses.asdict(one), "folder": str(one.folder)} for one in found]
        print_json({"folder": str(place), "limit": limit, "stores": told})
        return
    rows = [
        (
            one.folder.name,
            one.holds,
            f"{one.size / 2**20:,.1f} MiB",
            f"{datetime.fromtimestamp(one.used).astimezone():%Y-%m-%d %H:%M}",
            "in use" if one.busy else "",
        )
        for one in found
    ]
    if rows:
        print_table("", ("store", "holds", "size", "last use", ""), rows)
    total = sum(one.size for one in found) / 2**30
    within = "" if limit is None else f"; the limit is {limit / 2**30:,.1f} GiB ($VU_CACHE_LIMIT)"
    typer.echo(f"{place}: {len(found)} stores, {total:,.2f} GiB{within}")


@app.command("prune", epilog="Example: vu cache prune --to 10GB --yes")
@tells_errors
def cache_prune(
    to: Annotated[str | None, typer.Option(metavar="SIZE", help="What may stay, as in 10GB; else the limit.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is not in use.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this it is only told.")] = False,
    folder: FolderOption = None,
) -> None:
    """Remove stores, least recently used first, none that is in use; what is needed again is made again."""
    from vectoruniverse.data.caches import limit_of, parse_size, remove, stores, surplus
    from vectoruniverse.data.thumbnails import default_cache_dir

    place = folder or default_cache_dir()
    asked = None if to is None else parse_size(to, "--to")
    found = stores(place)
    limit = 0 if everything or not found else limit_of(place) if asked is None else asked
    going = surplus(found, limit)
    gone = [one for one in going if remove(one)] if yes else going
    for one in gone:
        typer.echo(f"{one.folder.name}: {one.holds}, {one.size / 2**20:,.1f} MiB")
    tail = "removed" if yes else "would go; add --yes to remove them"
    typer.echo(f"{len(gone)} of {len(found)} stores, {sum(one.size for one in gone) / 2**30:,.2f} GiB, {tail}")
