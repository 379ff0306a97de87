"""What a run found, and what stays of it: evaluation.json, model card, report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

from vectoruniverse import __version__
from vectoruniverse.adapters.methods import lora_layers
from vectoruniverse.adapters.svd import (
    INTRUDER_COSINE,
    INTRUDER_TOP,
    intruders,
    is_within,
    singular_values,
    tower_spectra,
)
from vectoruniverse.config.loading import dump_experiment, fingerprint
from vectoruniverse.config.sections import Experiment
from vectoruniverse.evaluation.comparison import (
    Comparison,
    EvaluatedOn,
    compare_rows,
    evaluation_record,
    selection_record,
    with_values,
)
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.evaluation.rivals import beside_rivals
from vectoruniverse.metrics.catalogue import ARROWS_READ, describe
from vectoruniverse.report.figures.style import undrawn
from vectoruniverse.report.ledger import ledger_chapter, ledger_frame, ledger_line, ledger_plate
from vectoruniverse.report.page import write_page
from vectoruniverse.report.run import Findings, compared, page_chapters, run_plates
from vectoruniverse.report.run_verdict import blend_words, kept_epochs, verdict_of
from vectoruniverse.report.tables import grounds, model_card, rivals_told
from vectoruniverse.report.verdict import kept_words
from vectoruniverse.runs.base_record import recorded_base
from vectoruniverse.runs.durable import share_as_other_files
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.runs.outcomes import PER_QUERY_FILE
from vectoruniverse.runs.records import BlendRecord, EvaluationRecord, ForgettingRecord
from vectoruniverse.tasks.base import Prepared
from vectoruniverse.tasks.rows import Data, reported_part
from vectoruniverse.terminal import counted
from vectoruniverse.tracking.contract import DataSet, Tracker, Trackers


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a training found.

    Attributes:
        run: the run.
        comparison: the kept checkpoint beside the base, on the rows that are reported.
        selection: the same on the rows that picked the checkpoint; None where those are the reported ones.
        trained_parameters: number of parameters that were trained.
        monitor: the metric that picked the best checkpoint.
        best_epoch: epoch that reached the most; 0 is the model before the first step.
        epoch: epoch of the kept checkpoint, which all numbers are of: the best one, or the last one if that was asked
            for or the best one is damaged.
        seconds: wall-clock time of all processes of the run until its model was evaluated; writing the report comes on
            top.
        step_seconds: of this process, in training steps.
        evaluation_seconds: of this process, in evaluations between steps.
        earlier: the best earlier run of the same experiment on the same data, if there is one.
        blend: which scale of the adapter is kept; None where it is kept as it was trained.
        forgetting: what was gained and lost along the adapter's scale; None where nobody said what the base knew.
    """

    run: Run
    comparison: Comparison
    selection: Comparison | None
    trained_parameters: int
    monitor: str
    best_epoch: int
    epoch: int
    seconds: float
    step_seconds: float
    evaluation_seconds: float
    earlier: Earlier | None
    blend: BlendRecord | None = None
    forgetting: ForgettingRecord | None = None

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
        if record is not None and record.data == data and metric in record.adapted:
            found.append(Earlier(summary.run.name, record.adapted[metric]))
    sign = -1 if describe(metric).better == "lower" else 1
    return max(found, key=lambda earlier: sign * earlier.score, default=None)


def beside_base(prepared: Prepared, base: Evaluation, split: str, adapted: Evaluation | None = None) -> Comparison:
    """The task's model beside its base on the same rows; ``adapted`` where it has been evaluated already."""
    units = prepared.units(split)
    column = None if units is None else prepared.data.grouped_by
    rows: EvaluatedOn = "held-out" if split != "train" and prepared.data.holds_out else "training"
    found = adapted or prepared.task.evaluate(split)
    rivals = beside_rivals(base, found, units, picked=split == "val")
    record = None
    if (labels := prepared.label_report(base, found, split)) is not None:
        record = labels.record
        base, found = (with_values(one, labels.values[name]) for name, one in (("base", base), ("adapted", found)))
    paired = compare_rows({"adapted": found.per_query, "base": base.per_query}, "base", groups=units)
    return Comparison(split, base, found, paired, column, rows, rivals=rivals, labels=record)


def write_results(prepared: Prepared, outcome: Outcome) -> Findings:
    """evaluation.json, per_query.safetensors, the model card, and the report with its figures."""
    run, comparison, data = outcome.run, outcome.comparison, prepared.data
    record = EvaluationRecord.model_validate(
        evaluation_record(
            comparison,
            data=data.fingerprint(),
            experiment=fingerprint(prepared.experiment),
            monitor=outcome.monitor,
            best_epoch=outcome.best_epoch,
            epoch=outcome.epoch,
            has_space=prepared.has_space,
            trained_parameters=outcome.trained_parameters,
            adapter=adapter_spectra(prepared),
            blend=outcome.blend,
            forgetting=outcome.forgetting,
            picked=prepared.experiment.picks_epoch,
            selection=None if outcome.selection is None else selection_record(outcome.selection),
        )
    )
    write_per_query(run, prepared, comparison)
    run.write_record("evaluation.json", record)
    facts = card_facts(prepared, run, outcome.seconds)
    told = {"kept": blend_words(record), "forgotten": outcome.forgetting and ledger_line(outcome.forgetting)}
    card = model_card(
        name=run.name,
        facts=facts | {name: said for name, said in told.items() if said},
        grounds=grounds(comparison.rows_are.capitalize(), comparison.drawn_by),
        table=compared(comparison),
        snippet=prepared.snippet(),
        tags=prepared.tags,
        rivals=rivals_told(comparison.rivals, comparison.split),
    )
    run.write_text("README.md", card)
    if not prepared.experiment.eval.report:
        return Findings()
    return report(run, prepared, comparison, facts)


def report(run: Run, prepared: Prepared, comparison: Comparison, facts: Mapping[str, str]) -> Findings:
    """Write report.html and ``figures/`` (PNG and SVG) into the run folder; ``facts`` as ``card_facts`` has them."""
    findings, monitor, has_space = prepared.findings(comparison), prepared.experiment.eval.monitor, prepared.has_space
    told, record = verdict_of(run, comparison, monitor=monitor, has_space=has_space), run.read_evaluation()
    ledger = None if record is None else record.forgetting
    plates = [*run_plates(run, comparison, monitor=monitor, has_space=has_space), *findings.plates]
    plates += [] if ledger is None else [ledger_plate(ledger)]
    base = recorded_base(run.path)
    changed = {} if base is None or base.since is None else {"changed": base.since}
    write_page(
        run.report_file,
        title=run.name,
        answer=told.answer,
        comparison=compared(comparison, f"{comparison.rows_are.capitalize()}. {ARROWS_READ}"),
        verdict=told.health,
        learning=told.learning,
        plates=plates,
        chapters=[*page_chapters(run, comparison), ledger_chapter(ledger, "the adapter")],
        galleries=findings.galleries,
        facts=changed | {name: said.replace("`", "") for name, said in facts.items()},  # Markdown's, for the card
        tables=findings.tables,
        warnings=[said for said in [undrawn()] if said],
        listings={"Experiment": dump_experiment(prepared.experiment), "Load the adapter": prepared.snippet().strip()},
        beside=run.path,
        frames={} if ledger is None else {"forgetting": ledger_frame(ledger)},
    )
    return findings


def track_results(trackers: Trackers, prepared: Prepared, outcome: Outcome, findings: Findings, step: int) -> None:
    """Tell the trackers what the run found: the kept checkpoint's metrics, figures, retrievals, and the adapter."""
    experiment, data, metrics = prepared.experiment, prepared.data, dict(outcome.adapted)
    kept, counts = "best" if outcome.epoch == outcome.best_epoch else "last", data.counts()
    figures = {path.stem: path for path in sorted((outcome.run.path / "figures").glob("*.png"))}
    retrieved = [row for one in findings.galleries for row in (*one.best, *one.worst)]
    rows = counts["training"] + counts["validation"] + counts.get("test", 0)
    source = DataSet(Path(data.source).name, data.fingerprint(), rows)
    facts = {
        "method": experiment.adapter.method,
        "rank": max((layers.rank for layers in lora_layers(prepared.adapters.values())), default=None),
        "base_model": prepared.base_model(),
        "data": data.fingerprint(),
        "best_epoch": outcome.best_epoch,
        "epoch": outcome.epoch,
        "metrics": metrics,
        "base_metrics": dict(outcome.base),
    }

    def tell(tracker: Tracker) -> None:
        tracker.summary({f"{kept}/{name}": value for name, value in metrics.items()})
        tracker.log_figures(step, figures)
        if retrieved:
            tracker.log_retrievals(step, retrieved)
        aliases = ("best", "latest") if kept == "best" else ("latest",)
        tracker.log_adapter(outcome.run.adapter, facts, source, aliases)

    trackers.each(tell)


def adapter_spectra(prepared: Prepared) -> dict[str, dict[str, object]] | None:
    """What LoRA says of itself, by tower (``adapters.svd.TowerSpectrum``, intruders by layer); None without LoRA."""
    found: dict[str, dict[str, object]] = {}
    for part, adapter in prepared.adapters.items():
        if (layers := adapter.low_rank) is None:
            continue
        counts = {path: len(new) for path, new in intruders(layers).items()}
        for tower, spectrum in tower_spectra(singular_values(layers), prepared.towers).items():
            within = {path: count for path, count in counts.items() if is_within(path, tower)}
            told = {"intruders": within, "intruder_top": INTRUDER_TOP, "intruder_cosine": INTRUDER_COSINE}
            found["/".join(filter(None, (part, tower))) or "encoder"] = asdict(spectrum) | told
    return found or None


def write_per_query(run: Run, prepared: Prepared, comparison: Comparison) -> None:
    """What the metrics are means of, row by row of the reported rows, so that other statistics can be made of it.

    ``per_query.safetensors`` holds ``base/<metric>`` and ``adapted/<metric>``, (N,) float32, NaN where a metric does
    not apply to a row; and ``drawn``, (N,) int64: rows of equal number count as one draw.
    """
    units = prepared.units(comparison.split)
    drawn = np.arange(comparison.rows) if units is None else np.unique(np.array(units), return_inverse=True)[1]
    arrays = {
        f"{model}/{metric}": np.ascontiguousarray(values, np.float32)
        for model, found in (("base", comparison.base), ("adapted", comparison.adapted))
        for metric, values in found.per_query.items()
    }
    save_file({**arrays, "drawn": drawn.astype(np.int64)}, run.path / PER_QUERY_FILE)
    share_as_other_files(run.path / PER_QUERY_FILE)


def card_facts(prepared: Prepared, run: Run, seconds: float | None) -> dict[str, str]:
    """What the model card and the report tell of a run that has its evaluation.json; ``seconds`` None: unknown."""
    experiment, data, counts = prepared.experiment, prepared.data, prepared.data.counts()
    record = run.read_evaluation()
    trained = None if record is None else record.trained_parameters
    trained = prepared.trained_parameters() if trained is None else trained
    facts = {
        "base model": prepared.base_model() + (f", its blocks in {kept}" if (kept := experiment.quantization) else ""),
        "data": f"`{data.source}`, fingerprint `{data.fingerprint()[:16]}`",
        "split": f"{data.counted_parts()}, {data.division()}",
        "reported": reported_words(data, experiment),
        "set aside": counted(counts["set aside"], "row") if counts["set aside"] else "",
        "trained": f"{prepared.adapter_words}, {trained:,} parameters",
        **prepared.facts(),
        "epoch": _epoch_words(*kept_epochs(run), experiment),
        "time": f"{'unknown' if seconds is None else f'{seconds:.0f} s'} on {prepared.compute}",
        "made with": f"vectoruniverse {__version__}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
    }
    return {name: text for name, text in facts.items() if text}


def reported_words(data: Data[Any, Any], experiment: Experiment) -> str:
    """Which rows the numbers are of, and whether those picked anything."""
    if not data.holds_out:
        return ""
    if reported_part(experiment, data.split.reported) == "test":
        return "the test rows, which nothing was chosen on and which were evaluated once, at the end"
    if not experiment.picks_epoch:
        return "the validation rows"
    why = "there are no test rows" if experiment.eval.test else "the test rows are sealed: eval.test is false"
    return f"the validation rows, which also picked the epoch, so the numbers are optimistic ({why})"


def _epoch_words(epoch: int | None, best_epoch: int | None, experiment: Experiment) -> str:
    """Whose weights and numbers these are."""
    if epoch is None:
        return f"unknown, of {experiment.train.epochs}"
    kept = kept_words(epoch, best_epoch)
    return f"{epoch} of {experiment.train.epochs}, " + (kept or f"the best by {experiment.eval.monitor}")
