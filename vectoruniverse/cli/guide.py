"""Command ``vu guide``: the pages that come with the package, in the terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from vectoruniverse.cli.shell import tells_errors
from vectoruniverse.errors import UserError

FIRST = ("pictures", "training", "experiments", "evaluation", "sweeps", "losses", "texts", "exports", "unattended")
"""Pages in the order in which a newcomer needs them; the others follow by name."""


def pages() -> dict[str, str]:
    """Markdown of every page, by topic."""
    from importlib.resources import files

    found = {
        page.name.removesuffix(".md"): page.read_text(encoding="utf-8")
        for page in files("vectoruniverse").joinpath("guide").iterdir()
        if page.name.endswith(".md")
    }
    order = [*FIRST, *sorted(set(found) - set(FIRST))]
    return {topic: found[topic] for topic in order}


@tells_errors
def guide(
    topic: Annotated[str | None, typer.Argument(help="Page to read; without one, the list of pages.")] = None,
) -> None:
    """Read the guide: one page a subject, from your own pictures to troubleshooting."""
    found = pages()
    if topic is None:
        from vectoruniverse.cli.shell import print_table

        rows = [(name, text.splitlines()[0].removeprefix("# "), text.splitlines()[2]) for name, text in found.items()]
        print_table("", ("topic", "page", "what it answers"), rows)
        typer.echo("read one with: vu guide TOPIC")
        return
    if topic not in found:
        import difflib

        near = difflib.get_close_matches(topic, found, n=1)
        raise UserError(
            f"the guide has no page {topic!r}",
            remedy=f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(found)}",
        )
    _show(found[topic])


def _show(markdown: str) -> None:
    """Rendered in a terminal; in a pipe as it was written, for other programs."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    if not console.is_terminal:
        typer.echo(markdown, nl=False)
        return
    with console.pager(styles=True):
        console.print(Markdown(markdown))
