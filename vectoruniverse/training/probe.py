"""How long a training step's work takes in each number format: a block of the model, forward and backward.

What a processor claims to multiply says little: one with AVX-512's bf16 instructions and without AMX may be slower in
bf16 than in float32, another is three times as fast. So it is timed. Nothing here draws random numbers, and nothing is
left behind but the time that it took.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vectoruniverse.models.activation import QuickGelu
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.tower import Tower

ROUNDS = 5
BUDGET = 0.45
"""Seconds for all passes, or three rounds of the smallest ones."""
_GROWTH = 8.0
"""Times as many tokens as before, at most: small passes tell little of how long large ones take."""
_LEAST_TOKENS, _MOST_TOKENS = 64, 2**14
"""Tokens of a pass: fewer would time memory and not arithmetic; more need memory that training may want."""


class Block:
    """One block of a tower in one format, with what LoRA puts beside its attention's projections.

    Weights stand in the format itself also where they are trained: a training step casts them once for all its rows,
    of which the probe has but a few.

    Args:
        tower: its sizes.
        compute: where, in which format, and with which attention.
        trained: whether its weights are trained, and not frozen.
        rank: of LoRA; 0 without.
    """

    def __init__(self, tower: Tower, compute: Compute, *, trained: bool, rank: int) -> None:
        from transformers.activations import ACT2FN

        self.tower, self.compute = tower, compute
        self._activation = QuickGelu() if tower.activation == "quick_gelu" else ACT2FN[tower.activation]
        width, between = tower.width, tower.feed_forward
        shapes = {**dict.fromkeys("qkvo", (width, width)), "up": (between, width), "down": (width, between)}
        self._weights = {name: self._filled(*shape, dtype=compute.dtype) for name, shape in shapes.items()}
        self._lora = {name: (self._filled(rank, width), self._filled(width, rank)) for name in ("qkvo" if rank else "")}
        self._stream = compute.weights(trained=trained)
        learned = [one for pair in self._lora.values() for one in pair] + [*self._weights.values()] * trained
        self._learned = [one.requires_grad_() for one in learned]

    def seconds(self, rows: int, tokens: int) -> float:
        """Time of one pass over hidden states (rows, tokens, width) and back to them.

        On the CPU it is the processor's: by the clock on the wall a pass of milliseconds takes many times as long
        whenever another program has its turn.
        """
        width, device = self.tower.width, self.compute.device
        hidden = self._filled(rows * tokens, width, dtype=self._stream).view(rows, tokens, width).requires_grad_()
        clock = time.process_time if device.type == "cpu" else time.perf_counter
        _wait(device)
        started = clock()
        with torch.enable_grad():
            with self.compute.autocast():
                out = self._forward(hidden)
            torch.autograd.grad(out, [hidden, *self._learned], torch.ones_like(out))
        _wait(device)
        return clock() - started

    def _forward(self, hidden: Tensor) -> Tensor:
        rows, tokens, width = hidden.shape
        seen = F.layer_norm(hidden, (width,))
        q, k, v = (self._linear(seen, name).view(rows, tokens, self.tower.heads, -1).transpose(1, 2) for name in "qkv")
        found = self._attention(q, k, v).transpose(1, 2).reshape(rows, tokens, width)
        hidden = hidden + self._linear(found, "o")
        between: Tensor = self._activation(self._linear(F.layer_norm(hidden, (width,)), "up"))
        return hidden + self._linear(between, "down")

    def _linear(self, seen: Tensor, name: str) -> Tensor:
        out = F.linear(seen, self._weights[name])
        if name in self._lora:
            down, up = self._lora[name]
            out = out + F.linear(F.linear(seen, down), up)
        return out

    def _attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As transformers computes it."""
        if self.compute.attention == "sdpa":
            return F.scaled_dot_product_attention(q, k, v)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        return torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ v

    def _filled(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Numbers between -1 and 1 over the root of the rows' length, without any generator."""
        count, bound = shape[0] * shape[1], shape[1] ** -0.5
        return torch.linspace(-bound, bound, count, device=self.compute.device).view(shape).to(dtype)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of a block, round by round, each in the order of the formats; and the rows and tokens of a pass."""

    rounds: list[tuple[float, ...]]
    rows: int
    tokens: int

    @property
    def medians(self) -> list[float]:
        """Of each format."""
        return [statistics.median(column) for column in zip(*self.rounds, strict=True)]

    def faster(self, one: int, than: int) -> float:
        """Share of the rounds in which a format was faster than another."""
        return sum(times[one] < times[than] for times in self.rounds) / len(self.rounds)


def time_formats(tower: Tower, computes: Sequence[Compute], *, rows: int, trained: bool, rank: int) -> Timing:
    """Time a block in each format, in turns, within ``BUDGET``.

    On the CPU one thread computes what would be its share of a batch: threads that wait for each other measure what
    other programs do. The number of threads is as before afterwards.

    Args:
        tower: sizes of the block.
        computes: the formats.
        rows: of a batch; so many of them are taken, and of their tokens, as there is time for.
        trained: whether the model's weights are trained.
        rank: of LoRA; 0 without.
    """
    blocks = [Block(tower, compute, trained=trained, rank=rank) for compute in computes]
    threads = torch.get_num_threads()
    if computes[0].device.type != "cpu":
        return _time(blocks, rows * tower.tokens)
    torch.set_num_threads(1)
    try:
        return _time(blocks, rows * tower.tokens // threads)
    finally:
        torch.set_num_threads(threads)


def _time(blocks: Sequence[Block], most: int) -> Timing:
    """Time passes over as many tokens as there is time for, at most ``most``."""
    limit = blocks[0].tower.tokens

    def timed(count: int) -> tuple[float, ...]:
        tokens = min(limit, count)
        return tuple(block.seconds(count // tokens, tokens) for block in blocks)

    count = min(limit, _LEAST_TOKENS)
    spent = sum(timed(count))  # the first pass also makes what later ones use again
    while True:
        last = timed(count)
        spent += sum(last)
        growth = min((BUDGET - spent) / (ROUNDS * sum(last)), _GROWTH, min(most, _MOST_TOKENS) / count)
        if growth < 2:
            break
        count = int(count * growth)
    rounds = [last]
    while len(rounds) < 2 or (len(rounds) < ROUNDS and spent < BUDGET):
        rounds.append(timed(count))
        spent += sum(rounds[-1])
    tokens = min(limit, count)
    return Timing(rounds, count // tokens, tokens)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
