"""The README of an export: what it is, how good it is, how it was checked, how to load it; in the hub's form."""

from __future__ import annotations

import re
from pathlib import Path

from vectoruniverse import __version__
from vectoruniverse.api import LoadedRun
from vectoruniverse.config.losses import loss_words
from vectoruniverse.export.check import Agreement
from vectoruniverse.export.formats import Transformers
from vectoruniverse.models.source import BUILT_IN
from vectoruniverse.report.tables import comparison_table, grounds, markdown_table, rivals_told
from vectoruniverse.runs.records import EvaluationRecord

FROM_HERE = 'folder = "."'
FROM_HUB = 'from huggingface_hub import snapshot_download\n\nfolder = snapshot_download("{repo}")'


def hub_name(loaded: LoadedRun) -> str | None:
    """Name of the base model on the hub; None where it is built in, a folder, or random weights."""
    model = loaded.experiment.model
    if not isinstance(model, str) or model in BUILT_IN or Path(model).expanduser().exists():
        return None
    return model if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", model) else None


def write_card(loaded: LoadedRun, form: Transformers, agreement: Agreement, folder: Path, repo: str | None) -> None:
    """Write README.md.

    Args:
        loaded: the run.
        form: what was written.
        agreement: how the check went.
        folder: where.
        repo: where it will be on the hub, if it goes there.
    """
    start = FROM_HERE if repo is None else FROM_HUB.format(repo=repo)
    where = "Run in this folder, beside a `picture.jpg`:" if repo is None else "Run beside a `picture.jpg`:"
    parts = [
        _front_matter(loaded, form),
        f"# {loaded.run.name}",
        "\n".join(f"- {key}: {value}" for key, value in _facts(loaded).items()),
        f"Vectors are unit rows: their dot product is the cosine. {agreement}.".replace(". checked", ". Checked"),
        *_notes(loaded),
        *_metrics(loaded.run.read_evaluation()),
        "## Load it",
        f"Needs {' and '.join(f'`{name}`' for name in dict.fromkeys((form.reader, 'transformers')))}. {where}",
        f"```python\n{start}\n\n{form.snippet(loaded).strip()}\n```",
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8", newline="\n")


def _front_matter(loaded: LoadedRun, form: Transformers) -> str:
    from huggingface_hub import ModelCardData

    base = hub_name(loaded)
    data = ModelCardData(library_name=form.library, tags=[*form.tags, "image-text", "vectoruniverse"], base_model=base)
    if base:
        data["base_model_relation"] = form.relation
    return f"---\n{data.to_yaml()}\n---"


def _facts(loaded: LoadedRun) -> dict[str, str]:
    experiment, encoder = loaded.experiment, loaded.encoder
    record, model, adapter = loaded.run.read_evaluation(), experiment.model, loaded.adapter
    if not isinstance(model, str):
        base = "random weights"
    else:
        base = f"`{model if hub_name(loaded) or model in BUILT_IN else Path(model).name}`"
        base += f" at commit `{encoder.commit}`" if encoder.commit else ""
        base += f", its blocks in {experiment.quantization}" if experiment.quantization else ""
    fingerprint = record.data if record else ""
    known = re.fullmatch(r"[0-9a-f]{64}", fingerprint)
    return {
        "base model": base,
        "data": f"`{Path(experiment.data.root).name}`" + (f", fingerprint `{fingerprint}`" if known else ""),
        "trained": "every parameter" if adapter is None else adapter.words,
        "loss": loss_words(experiment.loss),
        "pictures": f"{encoder.picture.size} x {encoder.picture.size} pixels, {loaded.recipe.fit}",
        "texts": f"up to {encoder.max_tokens} tokens, from the template `{experiment.data.text}`",
        "made with": f"vectoruniverse {__version__}",
    }


def _notes(loaded: LoadedRun) -> list[str]:
    """Where another library cannot do what training did."""
    notes = []
    if loaded.recipe.fit == "pad":
        notes.append("Pad pictures to a square in black first, as in training: the image processor would squash them.")
    if loaded.recipe.size != loaded.encoder.picture.size:
        notes.append(
            f"In training, pictures went through {loaded.recipe.size} x {loaded.recipe.size} pixels on their way to "
            "the model's size; the image processor resizes them at once."
        )
    return notes


def _metrics(record: EvaluationRecord | None) -> list[str]:
    """The table beside the base, where evaluation.json can be read."""
    bounds = {
        metric: {"difference": found["difference"]}
        for metric, found in (record.intervals.items() if record else ())
        if len(found.get("difference", ())) == 3  # estimate, low, high
    }
    table = comparison_table(record.base, record.adapted, bounds) if record else None
    if record is None or table is None or not table.rows:
        return ["The run holds no evaluation."]
    told = f"{grounds(f'{record.rows} {record.rows_are} rows', record.intervals_drawn_by)}:"
    return [told, markdown_table(table), *filter(None, [rivals_told(record.rivals, record.split)])]
