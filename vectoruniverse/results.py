"""What a run found, and what stays of it: evaluation.json, model card, report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

from vectoruniverse import __version__
from vectoruniverse.adapters.svd import singular_values, tower_spectra
from vectoruniverse.assembly.prepared import Prepared
from vectoruniverse.assembly.rows import ImageTextData
from vectoruniverse.comparison import Comparison, Judged, compare, evaluation_record
from vectoruniverse.config.loading import dump_experiment, fingerprint
from vectoruniverse.config.schema import Experiment
from vectoruniverse.encoders.dual import TEXT_TOWER, VISION_TOWER, local_source
from vectoruniverse.figures.gallery import Gallery
from vectoruniverse.reporting import Rows, write_card, write_report
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.tasks.image_text import ImageTextTask
from vectoruniverse.tracking.contract import DataSet, Trackers

PER_QUERY_FILE = "per_query.safetensors"
"""Outcome of each held-out row, in the run folder."""

LORA_SNIPPET = """
from peft import PeftModel  # pip install peft
from transformers import {model}

model = PeftModel.from_pretrained({model}.from_pretrained("{base}"), "adapter")
"""

FULL_SNIPPET = """
from transformers import {model}

model = {model}.from_pretrained("adapter")
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a training found on the held-out rows.

    Attributes:
        run: the run.
        comparison: the kept checkpoint beside the base.
        monitor: the metric that picked the best checkpoint.
        best_epoch: epoch of the best checkpoint; 0 is the base itself.
        seconds: wall-clock time of this process's part of the run.
        step_seconds: of these, in training steps.
        evaluation_seconds: of these, in evaluations between steps.
        earlier: the best earlier run of the same experiment on the same data, if there is one.
    """

    run: Run
    comparison: Comparison
    monitor: str
    best_epoch: int
    seconds: float
    step_seconds: float
    evaluation_seconds: float
    earlier: Earlier | None

    @property
    def score(self) -> float:
        """The monitored metric of the kept checkpoint."""
        return self.adapted[self.monitor]

    @property
    def base(self) -> Mapping[str, float]:
        """Metrics of the base."""
        return self.comparison.base.metrics

    @property
    def adapted(self) -> Mapping[str, float]:
        """Metrics of the kept checkpoint."""
        return self.comparison.adapted.metrics


@dataclass(frozen=True, slots=True)
class Earlier:
    """The best earlier run of the same experiment on the same data."""

    name: str
    score: float


def best_earlier(run: Run, metric: str, data: str) -> Earlier | None:
    """The finished run with the same experiment name, metric and data that scored best; damaged ones do not count."""
    found = []
    for summary in list_runs(run.path.parent):
        if summary.run.experiment != run.experiment or summary.run.name == run.name or summary.state != "finished":
            continue
        record = summary.run.read_evaluation()
        scores = record.get("adapted")
        score = scores.get(metric) if isinstance(scores, dict) else None
        if record.get("data") == data and isinstance(score, float) and math.isfinite(score):
            found.append(Earlier(summary.run.name, score))
    return max(found, key=lambda earlier: earlier.score, default=None)


def beside_base(
    task: ImageTextTask, base: Judged, experiment: Experiment, data: ImageTextData, split: str
) -> Comparison:
    """The task's model, as it is now, beside its base on the same rows."""
    pairs, column = task.part(split), experiment.data.split.group_by
    adapted = Judged(*task.judge(pairs))
    units = data.units(split, column)
    return compare(base, adapted, split, row_groups=pairs.groups, units=units, drawn_by=column)


def write_results(prepared: Prepared, outcome: Outcome) -> list[Gallery]:
    """evaluation.json, per_query.safetensors, the model card, and the report with its figures and galleries."""
    run, comparison, data = outcome.run, outcome.comparison, prepared.data
    facts = card_facts(prepared, outcome)
    snippet = load_snippet(prepared)
    record = evaluation_record(
        comparison,
        data=data.fingerprint(),
        experiment=fingerprint(prepared.experiment),
        monitor=prepared.experiment.eval.monitor,
        best_epoch=outcome.best_epoch,
        trained_parameters=trained_parameters(prepared),
        adapter=adapter_spectra(prepared),
    )
    write_per_query(run, prepared, comparison)
    run.write_json("evaluation.json", record)
    tags = ("transformers" if prepared.adapter is None else "peft", "clip", "image-text", "vectoruniverse")
    write_card(run, comparison, facts=facts, snippet=snippet, tags=tags)
    if not prepared.experiment.eval.report:
        return []
    return write_report(
        run,
        comparison,
        Rows([data.rows[i].text for i in data.split.val], data.thumbnails("val")),
        facts=facts,
        config=dump_experiment(prepared.experiment),
        monitor=prepared.experiment.eval.monitor,
        snippet=snippet,
    )


def rewrite_report(run: Run, experiment: Experiment, comparison: Comparison, data: ImageTextData) -> None:
    """The report of a run that ended before, with what its folder still tells."""
    state, record = run.read_state(), run.read_evaluation()
    facts = {
        "base model": str(experiment.model),
        "data": f"`{experiment.data.root}`, fingerprint `{data.fingerprint()[:16]}`",
        "loss": experiment.loss.name,
        "best epoch": f"{record.get('best_epoch', 'unknown')} of {experiment.train.epochs}, "
        f"by {experiment.eval.monitor}",
        "time": f"{state.get('seconds', 'unknown')} s on {state.get('device', 'unknown')}",
    }
    write_report(
        run,
        comparison,
        Rows([data.rows[i].text for i in data.split.val], data.thumbnails("val")),
        facts=facts,
        config=dump_experiment(experiment),
        monitor=experiment.eval.monitor,
        snippet="from vectoruniverse import load_run\n\nrun = load_run('.')",
    )


def track_results(
    trackers: Trackers, prepared: Prepared, outcome: Outcome, galleries: Sequence[Gallery], step: int
) -> None:
    """Tell the trackers what the run found: the kept checkpoint's metrics, figures, retrievals, and the adapter."""
    experiment, data, metrics = prepared.experiment, prepared.data, dict(outcome.adapted)
    trackers.summary({f"best/{name}": value for name, value in metrics.items()})
    trackers.log_figures(step, {path.stem: path for path in sorted((outcome.run.path / "figures").glob("*.png"))})
    if galleries:
        trackers.log_retrievals(step, [row for gallery in galleries for row in (*gallery.best, *gallery.worst)])
    facts = {
        "method": experiment.adapter.method,
        "rank": None if prepared.adapter is None else prepared.adapter.rank,
        "base_model": prepared.encoder.name,
        "base_commit": prepared.encoder.commit,
        "data": data.fingerprint(),
        "best_epoch": outcome.best_epoch,
        "metrics": metrics,
        "base_metrics": dict(outcome.base),
    }
    trackers.log_adapter(
        outcome.run.adapter,
        facts,
        DataSet(Path(experiment.data.root).name, data.fingerprint(), len(data.rows)),
        aliases=("best", "latest") if experiment.eval.keep == "best" else ("latest",),
    )


def trained_parameters(prepared: Prepared) -> int:
    """Number of parameters that are trained."""
    return sum(p.numel() for p in prepared.task.trained().values())


def adapter_spectra(prepared: Prepared) -> dict[str, dict[str, object]] | None:
    """What the adapter says of itself, by tower (see ``adapters.svd.TowerSpectrum``); None without LoRA."""
    if prepared.adapter is None:
        return None
    towers = tower_spectra(singular_values(prepared.adapter), (VISION_TOWER, TEXT_TOWER))
    return {tower: asdict(spectrum) for tower, spectrum in towers.items()}


def write_per_query(run: Run, prepared: Prepared, comparison: Comparison) -> None:
    """What the metrics are means of, row by row of the held-out rows, so that other statistics can be made of it.

    ``per_query.safetensors`` holds ``base/<metric>`` and ``adapted/<metric>``, (N,) float32, NaN where a metric does
    not apply to a row; and ``drawn``, (N,) int64: the bootstrap draws rows of equal number together.
    """
    units = prepared.data.units(comparison.split, comparison.drawn_by)
    drawn = np.arange(comparison.rows) if units is None else np.unique(np.array(units), return_inverse=True)[1]
    arrays = {
        f"{model}/{metric}": np.ascontiguousarray(values, np.float32)
        for model, judged in (("base", comparison.base), ("adapted", comparison.adapted))
        for metric, values in judged.evaluation.per_query.items()
    }
    save_file({**arrays, "drawn": drawn.astype(np.int64)}, run.path / PER_QUERY_FILE)


def card_facts(prepared: Prepared, outcome: Outcome) -> dict[str, str]:
    """What the model card and the report tell of a run."""
    experiment, encoder, data = prepared.experiment, prepared.encoder, prepared.data
    trained = trained_parameters(prepared)
    adapter = experiment.adapter
    split = experiment.data.split
    facts = {
        "base model": f"`{encoder.name}`" + (f" at commit `{encoder.commit}`" if encoder.commit else ""),
        "data": f"`{experiment.data.root}`, fingerprint `{data.fingerprint()[:16]}`",
        "split": f"{len(data.split.train)} training and {len(data.split.val)} held-out rows, seed {split.seed}, "
        + (f"grouped by `{split.group_by}`" if split.group_by else "identical pictures together"),
        "set aside": f"{len(data.metadata.bad)} rows",
        "trained": (adapter.method if adapter.method == "full" else f"LoRA of rank {adapter.rank}")
        + f", {trained:,} parameters",
        "loss": experiment.loss.name,
        "best epoch": f"{outcome.best_epoch} of {experiment.train.epochs}, by {experiment.eval.monitor}",
        "time": f"{outcome.seconds:.0f} s on {prepared.compute}",
        "made with": f"vectoruniverse {__version__}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
    }
    return {key: value for key, value in facts.items() if not (key == "set aside" and not data.metadata.bad)}


def load_snippet(prepared: Prepared) -> str:
    """Python that loads what the run made, in the run folder."""
    if prepared.adapter is None:
        return FULL_SNIPPET.format(model=type(prepared.encoder.model).__name__)
    return LORA_SNIPPET.format(model=type(prepared.encoder.model).__name__, base=local_source(prepared.encoder.name))
