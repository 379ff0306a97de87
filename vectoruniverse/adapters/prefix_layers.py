"""What prefix tuning adds to a tower: the module that holds the prefix, and the hooks that bring it in.

Shapes: B batch, L tokens, P prefix, N layers, H heads, D = H · head_dim width of the keys.

An attention module is given P rows in front of its tokens' and a mask that lets them through; its projections see the
tokens alone, and their outputs get the prefix (keys, values) or zeros (queries) in front; the P rows of the result are
dropped. So the attention itself is the model's own, whatever computes it, and one that is causal by a flag counts the
prefix as earlier tokens. Taking the hooks off undoes it all.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from vectoruniverse.errors import ConfigError


class AttentionNames(NamedTuple):
    """What a class of self-attention calls its projections and its number of heads."""

    query: str
    key: str
    value: str
    heads: str


_BERT = AttentionNames("query", "key", "value", "num_attention_heads")

ATTENTION = {
    "BertSelfAttention": _BERT,
    "CLIPAttention": AttentionNames("q_proj", "k_proj", "v_proj", "num_heads"),
    "DistilBertSelfAttention": AttentionNames("q_lin", "k_lin", "v_lin", "n_heads"),
    "RobertaSelfAttention": _BERT,
    "XLMRobertaSelfAttention": _BERT,
}

SHIFTED_EMBEDDINGS = frozenset({"BertEmbeddings", "RobertaEmbeddings", "XLMRobertaEmbeddings"})
"""Where the tokens' positions begin after the prefix, as they do in peft and in P-tuning v2's code."""


class Prefix(nn.Module):
    """Keys and values of every layer, as learned: themselves, or an embedding and the MLP that gives them.

    Args:
        layers: N.
        width: D.
        length: P.
        projection: width of the MLP's hidden layer; None learns the keys and values themselves.
        dropout: probability of dropping an element of the keys and values, drawn for each row of a batch, in [0, 1).
        seed: decides the start: N(0, 1) for ``embedding``, torch's own start of ``nn.Linear`` for the MLP, as in peft.

    Attributes:
        embedding: (P, 2 N D), or (P, D) with an MLP; fp32.
        hidden: D to ``projection``, where there is an MLP; then comes tanh.
        output: ``projection`` to 2 N D, where there is an MLP.
    """

    def __init__(
        self, layers: int, width: int, *, length: int, projection: int | None, dropout: float, seed: int
    ) -> None:
        super().__init__()
        self.layers, self.width, self.dropout = layers, width, dropout
        generator = torch.Generator().manual_seed(seed)
        produced = 2 * layers * width
        self.embedding = nn.Parameter(
            torch.randn(length, produced if projection is None else width, generator=generator)
        )
        self.hidden = None if projection is None else _linear(width, projection, generator)
        self.output = None if projection is None else _linear(projection, produced, generator)

    def layer(self, index: int) -> Tensor:
        """Keys and values (P, 2, D) of one layer, fp32 under autocast too, without dropout."""
        rows = slice(2 * self.width * index, 2 * self.width * (index + 1))
        if self.hidden is None or self.output is None:
            return self.embedding[:, rows].reshape(-1, 2, self.width)
        with torch.autocast(self.embedding.device.type, enabled=False):
            hidden = torch.tanh(self.hidden(self.embedding))
            produced = F.linear(hidden, self.output.weight[rows], self.output.bias[rows])
        return produced.reshape(-1, 2, self.width)

    def batch(self, index: int, rows: int) -> tuple[Tensor, Tensor]:
        """Keys and values, (B, P, D) each, of one layer for a batch, with dropout while training."""
        both = self.layer(index).expand(rows, -1, -1, -1)
        keys, values = F.dropout(both, self.dropout, self.training).unbind(2)
        return keys, values


class PrefixedAttention:
    """The hooks of one self-attention module. Methods, not closures, so that a deep copy of the model has its own."""

    def __init__(self, prefix: Prefix, index: int) -> None:
        self.prefix, self.index, self.length = prefix, index, prefix.embedding.shape[0]
        self._rows: tuple[Tensor, Tensor] | None = None

    def put_on(self, attention: nn.Module, names: AttentionNames) -> list[RemovableHandle]:
        """Hook into an attention module and its projections; the handles take the hooks off."""
        query, key, value = (attention.get_submodule(name) for name in names[:3])
        return [
            attention.register_forward_pre_hook(self._lengthen, with_kwargs=True),
            *(module.register_forward_pre_hook(self._tokens_alone) for module in (query, key, value)),
            query.register_forward_hook(self._no_queries),
            key.register_forward_hook(self._keys),
            value.register_forward_hook(self._values),
            attention.register_forward_hook(self._shorten, prepend=True),  # before transformers records its outputs
        ]

    def _lengthen(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = dict(zip(("hidden_states", "attention_mask"), args, strict=False)) | kwargs
        states: Tensor = given["hidden_states"]
        self._rows = self.prefix.batch(self.index, len(states))
        mask = _lengthened_mask(given.get("attention_mask"), self.length)
        return args[2:], given | {"hidden_states": F.pad(states, (0, 0, self.length, 0)), "attention_mask": mask}

    def _tokens_alone(self, _: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0][:, self.length :],)

    def _no_queries(self, _module: nn.Module, _args: object, output: Tensor) -> Tensor:
        return F.pad(output, (0, 0, self.length, 0))

    def _keys(self, _module: nn.Module, _args: object, output: Tensor) -> Tensor:
        assert self._rows is not None
        return torch.cat([self._rows[0].to(output.dtype), output], dim=1)

    def _values(self, _module: nn.Module, _args: object, output: Tensor) -> Tensor:
        assert self._rows is not None
        return torch.cat([self._rows[1].to(output.dtype), output], dim=1)

    def _shorten(self, _module: nn.Module, _args: object, output: tuple[Tensor, Tensor | None]) -> object:
        """Output (B, L, D) and, from eager attention, probabilities (B, H, L, P + L)."""
        self._rows = None
        states, probabilities = output
        return states[:, self.length :], None if probabilities is None else probabilities[:, :, self.length :]


class ShiftedPositions:
    """Before a table of positions: they begin after the prefix, and a text that then does not fit is refused.

    What stands at padding keeps its place, as RoBERTa marks it: the table's own ``padding_idx``.
    """

    def __init__(self, table: nn.Embedding, length: int) -> None:
        self.length, self.padding, self.most = length, table.padding_idx, token_positions(table) - length

    def __call__(self, _: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        """A forward pre-hook; it is given positions (1|B, L).

        Raises:
            ConfigError: the texts are too long.
        """
        (positions,) = args
        if positions.shape[1] > self.most:
            raise ConfigError(
                f"texts of {positions.shape[1]} tokens are too long: beside a prefix of {self.length} "
                f"the model has {self.most} positions",
                remedy="Cut texts shorter, or take a shorter prefix.",
            )
        later = positions + self.length
        return (later if self.padding is None else torch.where(positions == self.padding, positions, later),)


def token_positions(table: nn.Embedding) -> int:
    """How many tokens have positions: RoBERTa's begin after its padding index."""
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def _lengthened_mask(mask: object, length: int) -> Tensor | None:
    """A mask (B|1, 1, L|1, L) with P columns in front that let everything through, and P rows where it has L of them.

    A boolean mask says what is seen, a float one is added to the scores. None stays None.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim != 4:
        raise ConfigError(
            "a prefix needs attention that takes a mask of rows and columns",
            key="model.attention",
            remedy="Load the model with sdpa or eager attention.",
        )
    rows = length if mask.shape[2] > 1 else 0
    return F.pad(mask, (length, 0, rows, 0), value=0 if mask.is_floating_point() else 1)


def _linear(width: int, out: int, generator: torch.Generator) -> nn.Linear:
    """``nn.Linear`` as torch starts it, drawn on the CPU from a generator: the same values on every device."""
    layer = nn.Linear(width, out, device="meta").to_empty(device="cpu")  # draws nothing from torch's own generator
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    nn.init.uniform_(layer.bias, -1 / math.sqrt(width), 1 / math.sqrt(width), generator=generator)
    return layer
