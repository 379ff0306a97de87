"""What a run found, and what stays of it: evaluation.json, model card, report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import transformers

from vectoruniverse import __version__
from vectoruniverse.assembly.image_text import build_task
from vectoruniverse.assembly.prepared import Prepared, load_base
from vectoruniverse.comparison import Comparison, compare, evaluation_record
from vectoruniverse.config.loading import dump_experiment, fingerprint
from vectoruniverse.encoders.dual import local_source
from vectoruniverse.reporting import Rows, write_card, write_report
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import list_runs

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
        earlier: the best earlier run of the same experiment on the same data, if there is one.
    """

    run: Run
    comparison: Comparison
    monitor: str
    best_epoch: int
    seconds: float
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
    """The finished run with the same experiment name, metric and data that scored best."""
    found = []
    for summary in list_runs(run.path.parent):
        if summary.run.experiment != run.experiment or summary.run.name == run.name or summary.state != "finished":
            continue
        record = summary.run.read_evaluation()
        scores = record.get("adapted")
        if record.get("data") == data and isinstance(scores, dict) and isinstance(scores.get(metric), float):
            found.append(Earlier(summary.run.name, scores[metric]))
    return max(found, key=lambda earlier: earlier.score, default=None)


def beside_base(prepared: Prepared, split: str) -> Comparison:
    """The prepared model, as it is now, beside its base loaded afresh."""
    experiment, data = prepared.experiment, prepared.data
    base = build_task(experiment, load_base(experiment, prepared.compute, data), data)
    column = experiment.data.split.group_by
    return compare(base, prepared.task, split, units=data.units(split, column), drawn_by=column)


def write_results(prepared: Prepared, outcome: Outcome) -> None:
    """evaluation.json, the model card, and the report with its figures."""
    run, comparison, data = outcome.run, outcome.comparison, prepared.data
    facts = card_facts(prepared, outcome)
    snippet = load_snippet(prepared)
    record = evaluation_record(
        comparison,
        data=data.fingerprint(),
        experiment=fingerprint(prepared.experiment),
        monitor=prepared.experiment.eval.monitor,
        best_epoch=outcome.best_epoch,
    )
    run.write_json("evaluation.json", record)
    tags = ("transformers" if prepared.adapter is None else "peft", "clip", "image-text", "vectoruniverse")
    write_card(run, comparison, facts=facts, snippet=snippet, tags=tags)
    if prepared.experiment.eval.report:
        rows = Rows([data.rows[i].text for i in data.split.val], data.thumbnails("val"))
        write_report(
            run,
            comparison,
            rows,
            facts=facts,
            config=dump_experiment(prepared.experiment),
            monitor=prepared.experiment.eval.monitor,
            snippet=snippet,
        )


def card_facts(prepared: Prepared, outcome: Outcome) -> dict[str, str]:
    """What the model card and the report tell of a run."""
    experiment, encoder, data = prepared.experiment, prepared.encoder, prepared.data
    trained = sum(p.numel() for p in prepared.task.trained().values())
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
