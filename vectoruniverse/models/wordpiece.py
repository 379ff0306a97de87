"""A WordPiece tokenizer learned from a corpus: the same corpus always gives the same vocabulary.

The ``tokenizers`` library's own WordPiece trainer numbers the continuing characters in the order of a randomly seeded
hash table, and breaks ties by number: the vocabulary differs from process to process. So each character is first
replaced by a symbol of its own for the start of a word and another for its inside, plain byte-pair merges (the same
algorithm) are learned over these symbols, whose order is fixed, and the result is written with ``##`` again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from transformers import BertTokenizer

from vectoruniverse.errors import DataError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""BERT's marks, always the first ids."""

CONTINUATION = "##"
"""What a piece inside a word begins with."""

MIN_FREQUENCY = 2
"""How often a merge must occur; what occurs once cannot be learned."""

_MAX_WORD = 100
"""WordPiece reads longer words as unknown."""

_FIRST_SYMBOL = 0xF0000
"""Start of Unicode's supplementary private use areas, 131,072 code points that no alphabet needs."""

_REPEATS = 1000
"""How many copies of a word are handed to the library at a time."""


def train_wordpiece(texts: Iterable[str], vocab_size: int, *, lowercase: bool, max_tokens: int) -> BertTokenizer:
    """Learn WordPiece merges on ``texts`` with BERT's own cleaning and word splitting.

    Accents are kept, also where letters are lowered: BERT's way of stripping them takes Hangul syllables apart.
    Single characters take at most half of the vocabulary, the most frequent ones first; a word with any other
    character is unknown.

    Args:
        texts: the corpus; gone through once.
        vocab_size: largest number of tokens, marks included; a small corpus gives fewer.
        lowercase: whether upper and lower case are one.
        max_tokens: longest text the model reads, in tokens.

    Raises:
        DataError: there is no word in the texts.
    """
    assert vocab_size > len(SPECIAL_TOKENS) + 1, "a vocabulary has room for a character"
    like_bert = _tokenizer({token: i for i, token in enumerate(SPECIAL_TOKENS)}, lowercase, max_tokens)
    words = _count_words(texts, like_bert.backend_tokenizer)
    if not words:
        raise DataError("there is no word in the texts to learn a vocabulary from", remedy="check the text column")
    room = vocab_size - len(SPECIAL_TOKENS)
    pieces = _learn_pieces(words, _alphabet(words, limit=max(1, room // 2)), room)
    return _tokenizer({token: i for i, token in enumerate((*SPECIAL_TOKENS, *pieces))}, lowercase, max_tokens)


def _tokenizer(vocabulary: Mapping[str, int], lowercase: bool, max_tokens: int) -> Any:
    return BertTokenizer(
        vocab=dict(vocabulary), do_lower_case=lowercase, strip_accents=False, model_max_length=max_tokens
    )


def _count_words(texts: Iterable[str], like_bert: Any) -> Counter[str]:
    """How often each word occurs; words that WordPiece never takes apart are left out."""
    words: Counter[str] = Counter()
    for text in texts:
        clean = like_bert.normalizer.normalize_str(text)
        words.update(word for word, _ in like_bert.pre_tokenizer.pre_tokenize_str(clean))
    return Counter({word: count for word, count in words.items() if len(word) <= _MAX_WORD})


def _alphabet(words: Mapping[str, int], limit: int) -> list[str]:
    """Characters as pieces (``a`` at the start of a word, ``##a`` inside), in a fixed order, the most frequent kept."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for piece in _characters(word):
            counts[piece] += count
    most_frequent = sorted(counts, key=lambda piece: (-counts[piece], piece))[:limit]
    return sorted(most_frequent, key=lambda piece: (piece.startswith(CONTINUATION), piece))


def _characters(word: str) -> list[str]:
    return [word[0], *(CONTINUATION + character for character in word[1:])]


def _learn_pieces(words: Mapping[str, int], alphabet: list[str], size: int) -> list[str]:
    """The alphabet and the merges, in the order they were learned, at most ``size``."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    symbols = {piece: chr(_FIRST_SYMBOL + i) for i, piece in enumerate(alphabet)}
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=MIN_FREQUENCY, initial_alphabet=list(symbols.values()), show_progress=False
    )
    learner.train_from_iterator(_in_symbols(words, symbols), trainer)
    ids = learner.get_vocab()
    return [_piece(token, alphabet) for token in sorted(ids, key=ids.__getitem__)]


def _in_symbols(words: Mapping[str, int], symbols: Mapping[str, str]) -> Iterator[str]:
    """Every word as often as it occurs, in symbols; words with a character outside the alphabet are left out."""
    for word, count in words.items():
        pieces = _characters(word)
        if all(piece in symbols for piece in pieces):
            encoded = "".join(symbols[piece] for piece in pieces) + " "
            for done in range(0, count, _REPEATS):
                yield encoded * min(_REPEATS, count - done)


def _piece(token: str, alphabet: list[str]) -> str:
    """A token in symbols, as WordPiece writes it."""
    first, *rest = (alphabet[ord(symbol) - _FIRST_SYMBOL] for symbol in token)
    return first + "".join(piece.removeprefix(CONTINUATION) for piece in rest)
