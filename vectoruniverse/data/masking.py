"""BERT's masking of tokens for masked-language modelling; every draw is a pure function of stream, row and position.

Shapes: B batch, L tokens, V vocabulary.

Each token (or each whole word) is chosen on its own with probability ``share``, and a row in which none was chosen gets
its luckiest one. Google's ``create_pretraining_data`` takes round(share · length) tokens of a row instead; the expected
number is the same, and independent choices do not change with the padding or with the other rows. Of the chosen
tokens 80 % become ``[MASK]``, 10 % a random ordinary token and 10 % stay, token by token also within whole words
(arXiv:1810.04805, section 3.1 and appendix A.1).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORED = -100
"""Label of a position without a target, as torch's cross-entropy expects it."""

MASKED, RANDOM = 0.8, 0.1
"""Of the chosen tokens, the shares that are masked and replaced; the rest stays."""

_DRAWS = 3
"""Random numbers of one position: chosen or not, what becomes of it, which random token."""

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Masking:
    """How tokens are masked.

    Attributes:
        share: probability of a token, or of a word, to be chosen.
        whole_word: choose words instead of single tokens.
        mask_id: id of ``[MASK]``.
        ordinary: (V,) bool; whether a token may be chosen and may replace another. Marks and ``[UNK]`` may not.
        continues: (V,) bool; whether a token goes on with the word of the token before it.
    """

    share: float
    whole_word: bool
    mask_id: int
    ordinary: NDArray[np.bool_]
    continues: NDArray[np.bool_]


def masking_of(
    vocabulary: Mapping[str, int],
    special: Collection[int],
    *,
    mask_id: int,
    continuation: str,
    share: float,
    whole_word: bool,
) -> Masking:
    """Masking for a vocabulary (token → id) in which ``continuation`` (``##``) begins a piece inside a word."""
    assert 0.0 < share < 1.0, share
    size = max(vocabulary.values()) + 1
    ordinary, continues = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    for token, index in vocabulary.items():
        ordinary[index] = index not in special
        continues[index] = ordinary[index] and token.startswith(continuation) and token != continuation
    return Masking(share, whole_word, mask_id, ordinary, continues)


def mask_tokens(
    ids: NDArray[np.int64], keys: NDArray[np.uint64], how: Masking, stream: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose and replace tokens.

    Args:
        ids: (B, L), padded on the right with a token that is not ordinary.
        keys: (B,) stable key of each row; the same row is masked alike in every batch.
        how: shares and vocabulary.
        stream: numbers ≥ 0 that tell one masking of the row from another, such as seed and epoch.

    Returns:
        What the model reads, (B, L), and the labels, (B, L): the original token where one was chosen, else −100.
    """
    ordinary = how.ordinary[ids]
    draws = _uniform(stream, keys, ids.shape[1])
    chosen = _choose(ordinary, _word_starts(ids, ordinary, how), draws[..., 0], how.share)
    fate, pick = draws[..., 1], draws[..., 2]
    replacements = np.flatnonzero(how.ordinary)
    random_token = replacements[(pick * len(replacements)).astype(np.int64)]
    inputs = np.where(chosen & (fate < MASKED), how.mask_id, ids)
    inputs = np.where(chosen & (fate >= MASKED) & (fate < MASKED + RANDOM), random_token, inputs)
    return inputs, np.where(chosen, ids, IGNORED)


def _word_starts(ids: NDArray[np.int64], ordinary: NDArray[np.bool_], how: Masking) -> NDArray[np.int64]:
    """Position (B, L) of the first token of each token's group: of its word, or the token itself."""
    positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    if not how.whole_word:
        return positions
    follows = np.zeros_like(ordinary)
    # a text whose front was cut may begin inside a word: after a mark, a continuing token is a group of its own
    follows[:, 1:] = how.continues[ids[:, 1:]] & ordinary[:, :-1]
    starts: NDArray[np.int64] = np.maximum.accumulate(np.where(follows, 0, positions), axis=1)
    return starts


def _choose(
    ordinary: NDArray[np.bool_], starts: NDArray[np.int64], draws: NDArray[np.float64], share: float
) -> NDArray[np.bool_]:
    """Which tokens are chosen (B, L): groups draw below ``share``, or lowest of their row."""
    of_group = np.where(ordinary, np.take_along_axis(draws, starts, axis=1), np.inf)
    lowest = of_group.min(axis=1, keepdims=True, initial=np.inf)
    chosen: NDArray[np.bool_] = ordinary & (of_group <= np.maximum(lowest, np.nextafter(share, 0.0)))
    return chosen


def _uniform(stream: Sequence[int], keys: NDArray[np.uint64], length: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), (B, L, 3) float64; a row's numbers depend neither on L nor on the other rows.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), started for each row from stream and key.
    """
    start = np.random.SeedSequence(tuple(stream)).generate_state(1, np.uint64)
    state = _mix(_mix(start + keys * _GAMMA) ^ start)
    steps = np.arange(1, length * _DRAWS + 1, dtype=np.uint64) * _GAMMA
    bits = _mix(state[:, None] + steps) >> np.uint64(11)
    return (bits.astype(np.float64) * 2.0**-53).reshape(len(keys), length, _DRAWS)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function; overflow wraps around on purpose."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
