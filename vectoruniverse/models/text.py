"""Text encoders: a transformers encoder, pooling, and what a sentence-transformers folder puts behind it.

Shapes: B batch, L tokens, D width of a pooled text vector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vectoruniverse.errors import ConfigError
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.encoder import Encoder, TextBatch, TextReader
from vectoruniverse.models.load import load_config, load_tokenizer, load_weights, longest_text
from vectoruniverse.models.quantized import Quantization
from vectoruniverse.models.sentence_folder import read_layout, write_layout
from vectoruniverse.models.shards import placed
from vectoruniverse.models.sizes import POOLINGS, Pooling
from vectoruniverse.models.source import ModelSource, open_source, told
from vectoruniverse.models.text_tower import TextTower

FAMILIES = (
    "albert",
    "bert",
    "camembert",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
)
"""Values of ``config.model_type`` that are known: encoders in which every token sees every other."""


class TextEncoder(Encoder):
    """Texts, or pairs of texts, to one vector each."""

    module: TextTower

    def __init__(
        self,
        module: TextTower,
        tokenizer: Any,
        *,
        name: str,
        compute: Compute,
        max_tokens: int,
        commit: str | None = None,
    ) -> None:
        tokenizer.model_max_length = max_tokens  # which a saved folder tells others
        transformer: Any = module.model
        vocabulary = transformer.get_input_embeddings().num_embeddings
        reader = TextReader(tokenizer, name=name, max_tokens=max_tokens, vocabulary=vocabulary)
        super().__init__(module, reader, compute=compute, commit=commit)

    @property
    def model(self) -> Any:
        """The transformers model inside ``module``."""
        return self.module.model

    @property
    def pooling(self) -> Pooling:
        """How token vectors become one."""
        return self.module.pooling

    @property
    def width(self) -> int:
        """D."""
        return self.module.width

    def encode_texts(self, batch: TextBatch) -> Tensor:
        """Pooled vectors, float32 (B, D), with gradients; of length 1 only where the model's own folder says so."""
        with self.compute.autocast():
            vectors: Tensor = self.module(batch.ids, batch.mask, batch.segments)
        return vectors

    def save(self, folder: Path) -> None:
        """Write a folder that plain transformers and sentence-transformers load; merge or remove adapters first."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_layout(folder, self.module, max_tokens=self.max_tokens)


def load_text_encoder(
    name: str,
    compute: Compute,
    *,
    revision: str | None = None,
    pooling: Pooling | None = None,
    trained: bool = False,
    quantization: Quantization | None = None,
) -> TextEncoder:
    """Load a text encoder and its tokenizer; never code, never pickles.

    Args:
        name: ``all-MiniLM-L6-v2``, a name on the Hugging Face hub, or a local folder, of transformers or of
            sentence-transformers.
        compute: where, and in which format.
        revision: branch, tag or commit of a hub name.
        pooling: how token vectors become one; None is what a sentence-transformers folder says, and else the mean.
        trained: whether its weights will be trained, and not be frozen.
        quantization: how the frozen linear layers of its blocks are kept, if not in the format of the others.

    Raises:
        ConfigError: there is no such model, it is no encoder, it needs its own code or pickles to load, it has no
            pooler, or its folder asks for something that is not known.
    """
    repository = open_source(name, revision, beside="modules.json")
    layout = read_layout(repository.find, name)
    source = repository.within(layout.subfolder)
    config = load_config(source, FAMILIES, "is no text encoder that is known here")
    chosen = pooling or _known_pooling(layout.pooling, name)
    tokenizer = _load_tokenizer(source, lowercase=layout.lowercase)
    weights = compute.weights(trained=trained)
    model, drawn = load_weights(
        source,
        config,
        dtype=weights,
        attention=compute.attention,
        may_lack=("pooler.",),
        quantization=quantization,
    )
    if drawn:
        model.pooler = None  # it would be random
    tower = TextTower(model, chosen, [layer.to(weights) for layer in layout.layers], name=name)
    max_tokens = longest_text(source, tokenizer, count_positions(model), *layout.limits)
    tower = placed(tower, compute).eval()
    return TextEncoder(tower, tokenizer, name=name, compute=compute, max_tokens=max_tokens, commit=source.commit)


def count_positions(model: nn.Module) -> int:
    """Longest text that a model has positions for; RoBERTa and MPNet number theirs from behind the padding's."""
    for path, module in model.named_modules():
        if path.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    config: Any = model.config
    return int(config.max_position_embeddings)


def _load_tokenizer(source: ModelSource, *, lowercase: bool) -> Any:
    """The tokenizer, its marks where an encoder wants them, ``[CLS] a [SEP] b [SEP]``; lowers texts where asked to."""
    from tokenizers import normalizers

    tokenizer = load_tokenizer(source)
    if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
        raise ConfigError(f"the tokenizer of {source.name!r} lacks a mark for start or end", key="model")
    with told(source.name):
        if tokenizer("a")["input_ids"][0] != tokenizer.cls_token_id:
            _put_start_first(tokenizer)
        if lowercase:
            backend = tokenizer.backend_tokenizer
            rest = [] if backend.normalizer is None else [backend.normalizer]
            backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])
    return tokenizer


def _put_start_first(tokenizer: Any) -> None:
    """BERT's template in place of XLNet's, which has ``[CLS]`` behind the text; KoBERT comes with it by mistake."""
    from tokenizers import processors

    start, end = tokenizer.cls_token, tokenizer.sep_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start}:0 $A:0 {end}:0",
        pair=f"{start}:0 $A:0 {end}:0 $B:1 {end}:1",
        special_tokens=[(start, tokenizer.cls_token_id), (end, tokenizer.sep_token_id)],
    )


def _known_pooling(named: str, name: str) -> Pooling:
    """What a sentence-transformers folder calls its pooling, where it is one of ours."""
    for pooling in POOLINGS:
        if pooling == named:
            return pooling
    message = f"{name!r} pools its tokens by {named!r}, which is not known"
    raise ConfigError(message, key="pooling", remedy=f"set pooling to {', '.join(POOLINGS)}")
