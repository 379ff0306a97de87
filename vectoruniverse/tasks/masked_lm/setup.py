"""Task ``masked_lm``: BERT pre-training on documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vectoruniverse.adapters.base import Host
from vectoruniverse.adapters.methods import put_on
from vectoruniverse.data.corpus import Corpus, Document, divide_corpus, fingerprint_corpus, group_documents, read_corpus
from vectoruniverse.data.sentence_pairs import TokenizedDocuments, collect_documents
from vectoruniverse.data.splits import by_part, count_shared
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.pretraining import (
    PretrainingBert,
    load_bert_for_pretraining,
    parameter_counts,
    tokenize_sentences,
)
from vectoruniverse.models.scratch import build_bert_for_pretraining
from vectoruniverse.models.sizes import ScratchBert
from vectoruniverse.models.source import find_source
from vectoruniverse.tasks.base import Prepared, Shared
from vectoruniverse.tasks.masked_lm.settings import CorpusData, MaskedLmExperiment
from vectoruniverse.tasks.masked_lm.task import MaskedLmTask
from vectoruniverse.tasks.rows import Data, NamedRow, RowChoice, shares, tell_doubts, tell_marked
from vectoruniverse.tasks.sharing import sharing_key
from vectoruniverse.tasks.text_encoders import text_targets
from vectoruniverse.terminal import Display
from vectoruniverse.training.device import choose_compute

TABLES = (".csv", ".tsv")

SNIPPETS = {
    "transformers": """
from transformers import AutoTokenizer, BertForPreTraining

tokenizer, model = AutoTokenizer.from_pretrained("adapter"), BertForPreTraining.from_pretrained("adapter")
""",
    "peft": """
from peft import PeftModel  # pip install peft
from transformers import BertForPreTraining

model = PeftModel.from_pretrained(BertForPreTraining.from_pretrained("{base}"), "adapter")
""",
}
"""Python that loads what a run made, by the library that reads it."""


@dataclass(frozen=True)
class Documents(Data[CorpusData, Document]):
    """Documents and their division; rows are cut from them by the task, see ``PreparedMaskedLm.units``."""

    @property
    def source(self) -> str:
        """Where they come from, as the experiment names it."""
        return self.config.source

    @property
    def grouped_by(self) -> str:
        """The division keeps documents whole, each of which may give several rows."""
        return "document"

    def named_rows(self) -> list[NamedRow]:
        """Every document; nothing but its sentences is right about it."""
        return _named(self.table)

    def fingerprint(self) -> str:
        """sha256 over every document and the split."""
        return fingerprint_corpus(self.table, self.split)

    @property
    def kept_together(self) -> str:
        """Equal documents, in words."""
        return "equal documents together"

    def sentences(self, part: np.ndarray) -> list[tuple[str, ...]]:
        """Documents of a side, sentence by sentence."""
        return [self.table.rows[i].sentences for i in part]


@dataclass(slots=True)
class MaskedLmShared(Shared):
    """The base and the tokenized documents that runs of it share."""

    data: Documents
    bert: PretrainingBert
    documents: Mapping[str, TokenizedDocuments]


def share(experiment: MaskedLmExperiment, display: Display, choice: RowChoice | None = None) -> MaskedLmShared:
    """Config → documents → tokenizer and model."""
    compute = choose_compute(experiment.train.device, experiment.train.precision)
    data = read_documents(experiment.data, display, choice)
    bert = _load(experiment, compute, data, choice.trained if choice else None)

    def of(part: np.ndarray) -> TokenizedDocuments:
        return collect_documents(tokenize_sentences(bert.tokenizer, data.sentences(part)))

    documents = by_part(data.split, of)
    words = ", ".join(f"{part} {count:,}" for part, count in parameter_counts(bert.model).items())
    display.say(f"parameters: {words}")
    return MaskedLmShared(sharing_key(experiment), compute, data, {}, bert, documents)


def read_documents(config: CorpusData, display: Display, choice: RowChoice | None = None) -> Documents:
    """Read and divide the documents: by ``choice``, else as ``data.split`` says."""
    source = Path(config.source).expanduser()
    column = config.column if source.suffix.lower() in TABLES else None
    corpus = read_corpus(
        source,
        column=column,
        split_column=config.split.column,
        keys=("data.source", "data.column"),
        encoding=config.encoding,
    )
    tell_doubts(corpus.doubts, source, display)
    if choice is None:
        split = divide_corpus(corpus, **shares(config.split))
        shared = count_shared([{group} for group in group_documents(corpus)], split)
        tell_marked(split, config.split, shared, "text", display)
    else:
        split = choice.divide(_named(corpus), corpus.file)
    return Documents(config, corpus, split, None)


def _named(corpus: Corpus) -> list[NamedRow]:
    return [NamedRow(one.id, one.id.partition("#")[0], "", one.name) for one in corpus.rows]


def _load(experiment: MaskedLmExperiment, compute: Compute, data: Documents, trained: Path | None) -> PretrainingBert:
    """The named model, or one from scratch with a tokenizer of the training documents: learned, or as ``trained``."""
    sizes = experiment.model
    if isinstance(sizes, str):
        return load_bert_for_pretraining(sizes, compute, revision=experiment.revision, seed=experiment.seed)
    texts = (sentence for document in data.sentences(data.split.train) for sentence in document)
    learned = None if trained is None else load_whole(trained, experiment, compute).tokenizer
    return build_bert_for_pretraining(texts if learned is None else learned, sizes, compute, seed=experiment.seed)


def build_task(experiment: MaskedLmExperiment, bert: PretrainingBert, shared: MaskedLmShared) -> MaskedLmTask:
    """Bind a model to the documents."""
    return MaskedLmTask(
        bert.model,
        bert.tokenizer,
        shared.documents["train"],
        shared.documents["val"],
        shared.documents.get("test"),
        mask_share=experiment.masking.share,
        whole_word=experiment.masking.whole_word,
        nsp=experiment.next_sentence,
        max_tokens=bert.max_tokens,
        seed=experiment.seed,
        eval_batch=experiment.eval.batch_size,
        dtype=shared.compute.dtype,
    )


def evaluate_base(experiment: MaskedLmExperiment, shared: MaskedLmShared, split: str) -> Evaluation:
    """What the model reaches before any training; random weights are about as good as a uniform guess."""
    return build_task(experiment, shared.bert, shared).evaluate(split)


def prepare(experiment: MaskedLmExperiment, shared: MaskedLmShared, trained: Path | None = None) -> PreparedMaskedLm:
    """Adapter → task, on what is shared; ``release`` undoes it."""
    assert shared.key == sharing_key(experiment), "prepared on another base or other data"
    bert, config = shared.bert, experiment.adapter
    host = adapter_host(bert, experiment, shared.compute)
    return PreparedMaskedLm(
        experiment,
        shared.compute,
        shared.data,
        bert.model,
        {"": put_on(host, config, experiment.seed, trained=trained)},
        build_task(experiment, bert, shared),
        starts_as_base=config.starts_as_base,
        bert=bert,
    )


def adapter_host(bert: PretrainingBert, experiment: MaskedLmExperiment, compute: Compute) -> Host:
    """What an adapter may do to a model with its heads."""
    return Host(
        bert.model,
        bert.model,
        name=find_source(bert.name),
        revision=bert.commit,
        save=bert.save,
        load=lambda folder: load_whole(folder, experiment, compute).model.state_dict(),
        targets=lambda: [text_targets(bert.model, "bert", experiment.adapter)],
    )


def load_whole(folder: Path, experiment: MaskedLmExperiment, compute: Compute) -> PretrainingBert:
    """A model that full fine-tuning saved."""
    return load_bert_for_pretraining(str(folder), compute, seed=experiment.seed)


@dataclass(frozen=True, slots=True)
class PreparedMaskedLm(Prepared):
    """A BERT with its two heads, and its documents."""

    experiment: MaskedLmExperiment
    data: Documents
    task: MaskedLmTask
    bert: PretrainingBert

    def units(self, split: str) -> list[str] | None:
        """Document of each row; None where each row is alone in its own."""
        units = self.task.part(split).units()
        return units if len(set(units)) < len(units) else None

    def row_names(self, rows: np.ndarray) -> list[str]:
        """Names of the documents that these packed rows are of."""
        documents = self.task.train.keys[rows] >> np.uint64(32)
        return Prepared.row_names(self, np.unique(documents.astype(np.int64)))

    def base_model(self) -> str:
        """The base in words."""
        if isinstance(self.experiment.model, ScratchBert):
            return "random weights"
        return f"`{self.bert.name}`" + (f" at commit `{self.bert.commit}`" if self.bert.commit else "")

    def snippet(self) -> str:
        """Python that loads what the run made."""
        return SNIPPETS[self.library].format(base=find_source(self.bert.name))

    @property
    def has_space(self) -> bool:
        """No: what is learned are words, not where texts lie."""
        return False

    def facts(self) -> dict[str, str]:
        """Parameters by part, and the loss."""
        counts = ", ".join(f"{part} {count:,}" for part, count in parameter_counts(self.bert.model).items())
        masking = self.experiment.masking
        whole = ", whole words" if masking.whole_word else ""
        pairs = " + next sentence" if self.experiment.next_sentence else ""
        return {"parameters": counts, "loss": f"masked tokens ({masking.share:.0%}{whole}){pairs}"}
