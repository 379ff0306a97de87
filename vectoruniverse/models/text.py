"""Text encoders: loaded from a hub, a folder or a package, built from nothing, or made again with random weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from vectoruniverse.errors import ConfigError
from vectoruniverse.models.load import load_config, load_tokenizer, load_weights, longest_text
from vectoruniverse.models.sentence_folder import read_layout
from vectoruniverse.models.source import ModelSource, open_source
from vectoruniverse.models.text_encoder import TextEncoder
from vectoruniverse.models.text_tower import POOLINGS, Dense, Normalize, Pooling, TextTower
from vectoruniverse.models.told import told
from vectoruniverse.models.wordpiece import train_wordpiece

__all__ = ["Pooling", "TextEncoder", "build_bert", "count_positions", "load_text_encoder", "random_like"]

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


def load_text_encoder(
    name: str,
    *,
    revision: str | None,
    pooling: Pooling | None,
    device: torch.device,
    dtype: torch.dtype,
    weights: torch.dtype,
    attention: str,
) -> TextEncoder:
    """Load a text encoder and its tokenizer; never code, never pickles.

    Args:
        name: ``all-MiniLM-L6-v2``, a name on the Hugging Face hub, or a local folder, of transformers or of
            sentence-transformers.
        revision: branch, tag or commit of a hub name.
        pooling: how token vectors become one; None is what a sentence-transformers folder says, and else the mean.
        device: where the weights go.
        dtype: compute format.
        weights: format of the weights: ``dtype`` where they are frozen, float32 where they are trained.
        attention: ``sdpa`` or ``eager``.

    Raises:
        ConfigError: there is no such model, it is no encoder, it needs its own code or pickles to load, it has no
            pooler, or its folder asks for something that is not known.
    """
    repository = open_source(name, revision, beside="modules.json")
    layout = read_layout(repository.find, name)
    source = repository.within(layout.subfolder if layout else "")
    config = _load_config(source)
    chosen = pooling or _known_pooling(layout.pooling if layout else "mean", name)
    tokenizer = _load_tokenizer(source, lowercase=layout is not None and layout.lowercase)
    model, drawn = load_weights(source, config, dtype=weights, attention=attention, may_lack=("pooler.",))
    if drawn:
        model.pooler = None  # it would be random
    layers = [layer.to(weights) for layer in layout.layers] if layout else []
    module = TextTower(model, chosen, layers, name=name).to(device).eval()
    limits = [count_positions(model), *([layout.max_tokens] if layout and layout.max_tokens else [])]
    max_tokens = longest_text(source, tokenizer, *limits)
    return TextEncoder(module, tokenizer, name=name, dtype=dtype, max_tokens=max_tokens, commit=source.commit)


def build_bert(
    texts: Iterable[str],
    *,
    seed: int,
    vocab_size: int,
    width: int,
    layers: int,
    heads: int,
    intermediate: int,
    max_tokens: int,
    pooling: Pooling,
    device: torch.device,
    dtype: torch.dtype,
    attention: str,
    lowercase: bool = True,
    dropout: float = 0.1,
) -> TextEncoder:
    """A BERT with random float32 weights and a WordPiece vocabulary learned on ``texts``.

    Args:
        texts: what the vocabulary is learned on; gone through once.
        seed: with the sizes, the only source of the weights.
        vocab_size: largest vocabulary; few texts give a smaller one.
        width: H, which is D too.
        layers: blocks.
        heads: attention heads of a block.
        intermediate: width inside a block's feed-forward layers.
        max_tokens: longest text in tokens, which is the number of positions.
        pooling: how token vectors become one.
        device: where the weights go.
        dtype: compute format.
        attention: ``sdpa`` or ``eager``.
        lowercase: whether upper and lower case are one.
        dropout: of hidden states and of attention; 0.1 in BERT.

    Raises:
        ConfigError: the heads do not share the width evenly.
        DataError: there is no word in the texts.
    """
    from transformers import BertConfig, BertModel

    if width % heads:
        raise ConfigError(f"a width of {width} cannot be parted among {heads} heads", key="model")
    tokenizer = train_wordpiece(texts, vocab_size, lowercase=lowercase, max_tokens=max_tokens)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=max_tokens,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation=attention,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = TextTower(BertModel(config), pooling, [], name="scratch")
    module = module.to(device).eval()
    return TextEncoder(module, tokenizer, name="scratch", dtype=dtype, max_tokens=max_tokens)


def random_like(encoder: TextEncoder, seed: int) -> TextEncoder:
    """The same architecture, tokenizer, pooling and formats with fresh random weights, a pure function of ``seed``."""
    model: Any = encoder.model
    config = copy.deepcopy(model.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(model)(config)
        layers = [_random_layer(layer) for layer in encoder.module.layers]
    if getattr(model, "pooler", None) is None and hasattr(fresh, "pooler"):
        fresh.pooler = None
    name = f"{encoder.name} with random weights"
    module = TextTower(fresh, encoder.pooling, layers, name=name).to(encoder.device)
    for parameter in module.parameters():  # module.to(dtype) would round buffers too
        parameter.data = parameter.data.to(model.dtype)
    return TextEncoder(module.eval(), encoder.tokenizer, name=name, dtype=encoder.dtype, max_tokens=encoder.max_tokens)


def count_positions(model: nn.Module) -> int:
    """Longest text that a model has positions for; RoBERTa and MPNet number theirs from behind the padding's."""
    for path, module in model.named_modules():
        if path.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    config: Any = model.config
    return int(config.max_position_embeddings)


def _load_config(source: ModelSource) -> Any:
    """The configuration of an encoder of a known family."""
    config = load_config(source)
    if config.model_type not in FAMILIES or getattr(config, "is_decoder", False):
        raise ConfigError(
            f"{source.name!r} is of type {config.model_type!r}, which is no text encoder that is known here",
            key="model",
            remedy=f"choose a model of type {', '.join(FAMILIES)}",
        )
    return config


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


def _random_layer(layer: nn.Module) -> Dense | Normalize:
    if not isinstance(layer, Dense):
        return Normalize()
    old = layer.linear
    return Dense(nn.Linear(old.in_features, old.out_features, bias=old.bias is not None), type(layer.activation)())
