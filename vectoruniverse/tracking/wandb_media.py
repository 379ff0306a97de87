"""Tables and artifacts in Weights & Biases' own terms."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vectoruniverse.runs.files import strict
from vectoruniverse.tracking.contract import DataSet, Found, Retrieval

if TYPE_CHECKING:
    import wandb

_LONGEST_TITLE = 500
_LONGEST_NAME = 100  # wandb allows 128 characters
_TURNS_TEXT_AROUND = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def retrieval_tables(retrievals: Sequence[Retrieval]) -> dict[str, wandb.Table]:
    """A table of each direction: the query's picture and text, its rank, and its answers, best first.

    Answers to a picture are texts, answers to a text are pictures with the text as caption; right ones have a ✓.
    Keys have no slash: wandb would give such a table's artifact a random name, another one in every run.
    """
    directions = dict.fromkeys(row.direction for row in retrievals)
    return {
        f"retrievals_{direction}": _table([row for row in retrievals if row.direction == direction])
        for direction in directions
    }


def _table(rows: Sequence[Retrieval]) -> wandb.Table:
    import wandb

    count = max(len(row.answers) for row in rows)
    columns = ["picture", "text", "rank", "among", *(f"answer {i + 1}" for i in range(count))]
    table = wandb.Table(columns=columns)
    for row in rows:
        show = _told if row.direction == "image_to_text" else _pictured
        answers = [show(answer) for answer in row.answers]
        missing = [None] * (count - len(answers))
        table.add_data(wandb.Image(row.picture), inert(row.title), row.rank, row.among, *answers, *missing)
    return table


def _told(answer: Found) -> str:
    return f"{'✓' if answer.right else '·'} {answer.cosine:.2f} {inert(answer.title)}"


def _pictured(answer: Found) -> wandb.Image:
    import wandb

    return wandb.Image(answer.picture, caption=_told(answer))


def inert(title: str) -> str:
    """A title as text that does nothing: no control characters, nothing that turns the line around, 500 characters.

    A table cell that begins with ``=``, ``+``, ``-`` or ``@`` gets an apostrophe, since wandb exports tables as CSV
    and spreadsheets take such cells for formulas. Markup needs no more: wandb shows strings as they are.
    """
    shown = "".join(" " if _acts(character) else character for character in title).strip()[:_LONGEST_TITLE]
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def _acts(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _TURNS_TEXT_AROUND


def adapter_artifact(run_name: str, folder: Path, metadata: Mapping[str, object]) -> wandb.Artifact:
    """The adapter's files where they lie; wandb makes no copy, so that an offline run keeps them until it is synced."""
    import wandb

    plain: Any = strict(metadata)
    artifact = wandb.Artifact(_artifact_name("adapter", run_name), "model", metadata=plain)
    artifact.add_dir(str(folder), policy="immutable")
    return artifact


def data_artifact(data: DataSet) -> wandb.Artifact:
    """The data as its fingerprint alone: no picture and no path leaves, and the same data is the same version."""
    import wandb

    facts = {"fingerprint": data.fingerprint, "rows": data.rows}
    artifact = wandb.Artifact(_artifact_name("data", data.name), "dataset", metadata=facts)
    with artifact.new_file("fingerprint.json", encoding="utf-8") as stream:
        json.dump(facts, stream)
    return artifact


def _artifact_name(kind: str, name: str) -> str:
    return f"{kind}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}"[:_LONGEST_NAME]
