"""Task ``text_pairs``: one text encoder on pairs of texts that belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vectoruniverse.adapters.apply import draws_dropout
from vectoruniverse.data.pair_items import same_texts
from vectoruniverse.data.splits import by_part
from vectoruniverse.errors import ConfigError
from vectoruniverse.evaluation.comparison import Comparison
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.losses.build import build_loss
from vectoruniverse.losses.negatives import Negatives
from vectoruniverse.metrics.geometry import spectrum
from vectoruniverse.models.source import find_source
from vectoruniverse.models.text import TextEncoder
from vectoruniverse.report.figures.album import Plate
from vectoruniverse.report.figures.space import spectra
from vectoruniverse.report.run import Findings
from vectoruniverse.tasks.base import Prepared, Shared
from vectoruniverse.tasks.rows import RowChoice, refuse_lone_rows, reported_part
from vectoruniverse.tasks.sharing import sharing_key
from vectoruniverse.tasks.text_encoders import base_words, load_encoder, load_named, put_adapters
from vectoruniverse.tasks.text_pairs.encoders import EncoderComparison, compare_encoders
from vectoruniverse.tasks.text_pairs.figures import Scored, cosine_histograms, share_histograms
from vectoruniverse.tasks.text_pairs.settings import TextPairsExperiment
from vectoruniverse.tasks.text_pairs.task import SIDES, TextPairs, TextPairsTask
from vectoruniverse.tasks.text_rows import TextRows, read_text_rows, tell_truncated
from vectoruniverse.tasks.text_settings import EncoderConfig
from vectoruniverse.terminal import Display
from vectoruniverse.training.device import choose_compute

SNIPPETS = {
    "transformers": """
from sentence_transformers import SentenceTransformer  # pip install sentence-transformers

model = SentenceTransformer("adapter")
""",
    "peft": """
from peft import PeftModel  # pip install peft
from transformers import AutoModel

model = PeftModel.from_pretrained(AutoModel.from_pretrained("{base}"), "adapter")  # then {pooling} pooling
""",
}
"""Python that loads what a run made, by the library that reads it."""


@dataclass(slots=True)
class TextPairsShared(Shared):
    """The base and the pairs that runs of it share.

    Attributes:
        data: pairs and their division.
        encoder: the base; whoever puts an adapter on it takes it off again.
        pairs: the pairs as the task reads them, by split.
    """

    data: TextRows
    encoder: TextEncoder
    pairs: Mapping[str, TextPairs]


def share(experiment: TextPairsExperiment, display: Display, choice: RowChoice | None = None) -> TextPairsShared:
    """Config → pairs → encoder."""
    train = experiment.train
    compute = choose_compute(train.device, train.precision, sharded=train.shard_base)
    data = read_pairs(experiment, display, choice)
    encoder = load_encoder(experiment, compute, data.train_texts, choice.trained if choice else None)
    return TextPairsShared(sharing_key(experiment), compute, data, {}, encoder, tokenize_pairs(encoder, data, display))


def read_pairs(experiment: TextPairsExperiment, display: Display, choice: RowChoice | None = None) -> TextRows:
    """The pairs of an experiment."""
    config = experiment.data
    data = read_text_rows(config, {"first": config.first, "second": config.second}, display=display, choice=choice)
    refuse_lone_rows(data, choice)
    return data


def tokenize_pairs(encoder: TextEncoder, data: TextRows, display: Display) -> dict[str, TextPairs]:
    """The pairs as one encoder reads them, by split."""
    texts = {side: data.column(side) for side in SIDES}
    tokens = {side: encoder.tokenize(column) for side, column in texts.items()}
    tell_truncated(tokens, encoder.max_tokens, display)

    items = same_texts(texts["first"], texts["second"])

    def of(part: np.ndarray) -> TextPairs:
        return TextPairs(tokens["first"].select(part), tokens["second"].select(part), items.select(part))

    return by_part(data.split, of)


def evaluate_base(experiment: TextPairsExperiment, shared: TextPairsShared, split: str) -> Evaluation:
    """What the base reaches."""
    return build_task(experiment, shared.encoder, shared.pairs).evaluate(split)


def prepare(experiment: TextPairsExperiment, shared: TextPairsShared, trained: Path | None = None) -> PreparedTextPairs:
    """Adapter → task, on what is shared; ``release`` undoes it."""
    assert shared.key == sharing_key(experiment), "prepared on another base or other data"
    encoder = shared.encoder
    if trained is None:
        Negatives(shared.pairs["train"].items).refuse_masked(experiment.loss.negatives.max_masked)
    return PreparedTextPairs(
        experiment,
        shared.compute,
        shared.data,
        encoder.module,
        put_adapters({"": encoder}, experiment, shared.compute, trained),
        build_task(experiment, encoder, shared.pairs),
        starts_as_base=experiment.adapter.starts_as_base,
        encoder=encoder,
    )


def evaluate_encoders(
    experiment: TextPairsExperiment, *, split: str | None, display: Display
) -> tuple[str, EncoderComparison]:
    """Evaluate the experiment's encoder and those beside it, one after another, each loaded once.

    Args:
        experiment: names them, and the pairs.
        split: part that is evaluated; None: what a run would report. The part is returned, too.
        display: what a person sees.

    Raises:
        ConfigError: two encoders have the same name, one cannot be loaded, or there are no test rows.
    """
    compute = choose_compute(experiment.train.device, experiment.train.precision)
    data = read_pairs(experiment, display)
    split = split or reported_part(experiment, data.split.reported)
    data.refuse_missing(split)
    found: dict[str, Evaluation] = {}
    for name, config in named_encoders(experiment).items():
        display.say(f"encoder {name}")
        if config is None:
            encoder = load_encoder(experiment, compute, data.train_texts)
        else:
            encoder = load_named(config, compute, seed=experiment.seed)
        found[name] = build_task(experiment, encoder, tokenize_pairs(encoder, data, display)).evaluate(split)
    part = getattr(data.split, split)
    first, second = ([data.column(side)[i] for i in part] for side in SIDES)
    return split, compare_encoders(found, first, second, metric=experiment.eval.monitor)


def named_encoders(experiment: TextPairsExperiment) -> dict[str, EncoderConfig | None]:
    """The encoders by the names that tables call them; None is one from scratch.

    Raises:
        ConfigError: two have the same name.
    """
    own = None
    if isinstance(experiment.model, str):
        own = EncoderConfig(model=experiment.model, revision=experiment.revision, pooling=experiment.pooling)
    named: dict[str, EncoderConfig | None] = {"scratch" if own is None else encoder_name(own): own}
    for position, config in enumerate(experiment.beside):
        name = encoder_name(config)
        if name in named:
            raise ConfigError(
                f"{name} is the name of another encoder too", key=f"beside[{position}].name", remedy="name it otherwise"
            )
        named[name] = config
    return named


def encoder_name(config: EncoderConfig) -> str:
    """What tables call an encoder."""
    if config.name is not None:
        return config.name
    random = "random weights" if config.random_weights else ""
    return ", ".join(filter(None, (config.model.rstrip("/").rpartition("/")[2], config.pooling, random)))


def build_task(
    experiment: TextPairsExperiment,
    encoder: TextEncoder,
    pairs: Mapping[str, TextPairs],
    kind: type[TextPairsTask] = TextPairsTask,
) -> TextPairsTask:
    """Bind encoder, pairs and loss to the task, or to another ``kind`` of it."""
    return kind(
        encoder,
        train=pairs["train"],
        val=pairs["val"],
        test=pairs.get("test"),
        loss=build_loss(experiment.loss, None),
        text_is_random=draws_dropout(encoder.module, encoder.module.config),
        recall_at=experiment.eval.recall_at,
        eval_batch=experiment.eval.batch_size,
        micro_batch=experiment.train.micro_batch,
    )


@dataclass(frozen=True, slots=True)
class PreparedTextPairs(Prepared):
    """A text encoder with what is trained on it, and its pairs."""

    experiment: TextPairsExperiment
    data: TextRows
    task: TextPairsTask
    encoder: TextEncoder

    def base_model(self) -> str:
        """The base in words."""
        return base_words(self.encoder)

    def snippet(self) -> str:
        """Python that loads what the run made."""
        return SNIPPETS[self.library].format(base=find_source(self.encoder.name), pooling=self.encoder.pooling)

    def facts(self) -> dict[str, str]:
        """The loss."""
        return {"loss": self.experiment.loss.name}

    def findings(self, comparison: Comparison) -> Findings:
        """Cosines and shares of right pairs, and the spectra, before and after."""
        return pair_findings({"base": comparison.base, "adapted": comparison.adapted})


def pair_findings(models: Mapping[str, Evaluation]) -> Findings:
    """Of several models on the same pairs: cosines, row and column scores, and spectra."""
    scored = {name: scores_of(found) for name, found in models.items()}
    shares = {
        name: spectrum(torch.cat([found.vectors[side] for side in SIDES])).numpy() for name, found in models.items()
    }
    caption = "Cosine of the two texts of each pair; alone it says little, since one point for all texts would have 1."
    plates = [Plate("pair_cosines", "Cosines of the pairs", "health", caption, cosine_histograms(scored))]
    caption = "A pair's share of the cosines in its row and in its column, as a multiple of chance, 1/N."
    plates.append(Plate("pair_shares", "How far pairs stand out", "health", caption, share_histograms(scored)))
    caption = "How the variance of all texts (not centred) is spread over directions; a steep line uses few."
    plates.append(Plate("spectrum", "Eigenvalue spectrum", "health", caption, spectra(shares)))
    return Findings(plates)


def scores_of(found: Evaluation) -> Scored:
    """What the figures show of an evaluated model."""
    return Scored(*(found.per_query[name] for name in ("pair_cosine", "row_uniformity", "column_uniformity")))
