from __future__ import annotations

import hashlib
import itertools
import json
import random
import subprocess
import sys

import pytest

from vectoruniverse.errors import DataError
from vectoruniverse.models.wordpiece import SPECIAL_TOKENS, train_wordpiece

TEXTS = [
    "the cat sat on the mat, and the cats were sitting",
    "playing players play; the player played",
    "고양이가 매트 위에 앉았다",
    "고양이는 매트에서 놀았다. 고양이들이 놀고 있다",
    "walking walked walks walker talking talked talks talker",
] * 3


def digest(texts, size=140):
    vocabulary = train_wordpiece(texts, size, lowercase=True, max_tokens=32).get_vocab()
    return hashlib.sha256(json.dumps(vocabulary, sort_keys=True).encode()).hexdigest()


def test_the_same_corpus_gives_the_same_vocabulary_in_any_order_and_any_process():
    shuffled = random.Random(0).sample(TEXTS, len(TEXTS))
    assert digest(shuffled) == digest(TEXTS)
    command = "import json, sys; from tests.models.test_wordpiece import *; print(digest(json.loads(sys.argv[1])))"
    there = subprocess.run(
        [sys.executable, "-c", command, json.dumps(TEXTS)], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert there == digest(TEXTS)


def test_merges_equal_those_of_the_slow_algorithm():
    """Byte-pair merges by hand: the most frequent pair of neighbours, of ties the one whose pieces are older."""
    words = "playing players play the player played walking walked walks walker talking talked tall small wall".split()
    words += (
        "palest tallest smallest repeal replay display delay relay heal health wealth wealthy largest lapel".split()
    )
    tokenizer = train_wordpiece([" ".join(words)] * 2, 70, lowercase=True, max_tokens=8)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)

    parts = [[word[0], *("##" + letter for letter in word[1:])] for word in words]
    starts = sorted({piece for word in parts for piece in word if not piece.startswith("##")})
    insides = sorted({piece for word in parts for piece in word if piece.startswith("##")})
    learned = [*starts, *insides]
    while len(learned) + len(SPECIAL_TOKENS) < 70:
        pairs = {}
        for word in parts:
            for left, right in itertools.pairwise(word):
                pairs[left, right] = pairs.get((left, right), 0) + 1
        left, right = min(pairs, key=lambda pair: (-pairs[pair], learned.index(pair[0]), learned.index(pair[1])))
        merged = left + right.removeprefix("##")
        learned += [merged] if merged not in learned else []
        parts = [merge(word, left, right, merged) for word in parts]
    assert vocabulary == [*SPECIAL_TOKENS, *learned]


def merge(word, left, right, merged):
    done = []
    for piece in word:
        if done and (done[-1], piece) == (left, right):
            done[-1] = merged
        else:
            done.append(piece)
    return done


def test_frequent_words_of_both_languages_become_few_tokens_and_nothing_is_unknown():
    tokenizer = train_wordpiece(TEXTS, 160, lowercase=True, max_tokens=32)
    assert tokenizer.tokenize("the CAT") == ["the", "cat"]
    assert tokenizer.tokenize("고양이") == ["고양이"]
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


def test_marks_come_first_and_stand_as_in_bert():
    tokenizer = train_wordpiece(TEXTS, 140, lowercase=True, max_tokens=32)
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pair = tokenizer("cat", "고양이")
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"])[0] == "[CLS]"
    assert pair["token_type_ids"][0] == 0 and pair["token_type_ids"][-1] == 1


def test_case_is_kept_where_asked():
    tokenizer = train_wordpiece(["Play play PLAY"] * 3, 60, lowercase=False, max_tokens=32)
    assert tokenizer.tokenize("Play play PLAY") == ["Play", "play", "PLAY"]


def test_a_small_corpus_gives_a_smaller_vocabulary_and_a_small_vocabulary_is_never_exceeded():
    assert len(train_wordpiece(["ab ab"], 1000, lowercase=True, max_tokens=8)) == 5 + 3  # a, ##b, ab
    crowded = train_wordpiece(TEXTS, 30, lowercase=True, max_tokens=8)
    assert len(crowded) <= 30
    assert sum(len(token.removeprefix("##")) == 1 for token in crowded.get_vocab()) == 12  # half of 25


@pytest.mark.parametrize("texts", [[], ["", "  \n"], ["x" * 101]])
def test_a_corpus_without_words_is_refused(texts):
    with pytest.raises(DataError, match="no word"):
        train_wordpiece(texts, 100, lowercase=True, max_tokens=8)


def test_the_tokenizer_survives_saving(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = train_wordpiece(TEXTS, 140, lowercase=True, max_tokens=24)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.model_max_length == 24
    for text in ("The CATS played", "고양이들이 놀고", "[MASK] unknown ☃"):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
