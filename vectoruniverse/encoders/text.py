"""Text encoders: loaded from a hub, a folder or a package, built from nothing, or made again with random weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from vectoruniverse.encoders.sentence_folder import read_layout
from vectoruniverse.encoders.text_encoder import TextEncoder
from vectoruniverse.encoders.text_files import (
    count_positions,
    find_commit,
    find_file,
    find_source,
    load_config,
    load_model,
    load_tokenizer,
)
from vectoruniverse.encoders.text_tower import POOLINGS, Dense, Normalize, Pooling, TextTower
from vectoruniverse.encoders.wordpiece import train_wordpiece
from vectoruniverse.errors import ConfigError

__all__ = ["Pooling", "TextEncoder", "build_bert", "load_text_encoder", "random_like"]


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
    source = find_source(name)
    commit = find_commit(source, revision)
    revision = commit or revision or "main"  # all files of one commit, whatever is pushed in the meantime
    layout = read_layout(partial(find_file, source, revision), name)
    where = {
        "revision": revision,
        "trust_remote_code": False,
        "subfolder": layout.subfolder if layout else "",
    }
    config = load_config(name, source, where)
    chosen = pooling or _known_pooling(layout.pooling if layout else "mean", name)
    model = load_model(name, source, config, where, dtype=weights, attn_implementation=attention)
    layers = [layer.to(weights) for layer in layout.layers] if layout else []
    module = TextTower(model, chosen, layers, name=name).to(device).eval()
    tokenizer = load_tokenizer(name, source, where, lowercase=layout is not None and layout.lowercase)
    limits = [count_positions(model), int(tokenizer.model_max_length)]
    if layout and layout.max_tokens:
        limits.append(layout.max_tokens)
    return TextEncoder(module, tokenizer, name=name, dtype=dtype, max_tokens=min(limits), commit=commit)


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
