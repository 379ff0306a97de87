from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vectoruniverse.data.sentence_pairs import (
    IS_NEXT,
    IS_RANDOM,
    NO_PAIR,
    PackedDocuments,
    collect_documents,
    longest_first,
)
from vectoruniverse.errors import DataError

CLS, SEP = 1, 2


def numbered(sizes):
    """Documents of sentences of the given lengths, in which every token is unique: its number is its place."""
    documents, token = [], 10
    for document in sizes:
        sentences = []
        for length in document:
            sentences.append(list(range(token, token + length)))
            token += length
        documents.append(sentences)
    return documents


def random_sizes(count, *, seed=0, longest=9):
    random = np.random.default_rng(seed)
    return [random.integers(1, longest, random.integers(1, 12)).tolist() for _ in range(count)]


def pack(documents, *, pairs=True, max_tokens=24):
    return PackedDocuments(collect_documents(documents), pairs=pairs, max_tokens=max_tokens, cls_id=CLS, sep_id=SEP)


def sides(row):
    """Tokens of A and of B."""
    first, *last = np.flatnonzero(row.ids == SEP)
    return row.ids[1:first], row.ids[first + 1 : last[0]] if last else None


def test_rows_look_as_bert_reads_them():
    packed = pack(numbered([[3, 4], [2, 5, 3]]))
    row = next(r for r in (packed.row(0, (0, epoch)) for epoch in range(9)) if r.label == IS_NEXT)
    assert row.ids.tolist() == [CLS, 10, 11, 12, SEP, 13, 14, 15, 16, SEP]
    assert row.segments.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert row.cut == 0


def test_half_of_the_pairs_are_true_and_the_others_come_from_another_document():
    sizes = random_sizes(200)
    documents = numbered(sizes)
    packed = pack(documents)
    of_token = {token: i for i, document in enumerate(documents) for sentence in document for token in sentence}
    labels = []
    for epoch in range(5):
        for position in range(len(packed)):
            row = packed.row(position, (0, epoch))
            a, b = sides(row)
            assert len(row.ids) <= 24
            if row.label == NO_PAIR:
                assert b is None and len(sizes[of_token[a[0]]]) == 1
                continue
            assert len(a) and len(b)
            assert np.all(np.diff(a) == 1) and np.all(np.diff(b) == 1), "whole runs, cut at their ends only"
            assert len({of_token[token] for token in b}) == 1
            assert (of_token[a[0]] == of_token[b[0]]) == (row.label == IS_NEXT)
            if row.label == IS_NEXT and row.cut == 0:
                assert b[0] == a[-1] + 1
            labels.append(row.label)
    low, high = stats.binom.interval(1 - 1e-6, len(labels), 0.5)
    assert low <= sum(label == IS_RANDOM for label in labels) <= high


def test_a_true_continuation_that_fits_starts_where_a_ends_at_the_start_of_a_sentence():
    documents = numbered([[2, 3, 4, 2], [5, 1, 2]])
    starts = {sentence[0] for document in documents for sentence in document}
    packed, seen = pack(documents), set()
    for epoch in range(60):
        row = packed.row(0, (0, epoch))
        a, b = sides(row)
        assert b[0] in starts
        seen.add(len(a))
    assert seen == {2, 5, 9}, "A ends after any sentence but the last"


def test_every_sentence_is_in_a_chunk_and_pairs_have_two_sentences_where_there_are_two():
    documents = numbered(random_sizes(100, longest=30))
    packed = pack(documents, max_tokens=40)
    held = set()
    for document, _, first, end in packed._chunks:
        begin, stop = packed.documents.documents[document : document + 2]
        assert begin <= first < end <= stop
        assert end - first >= min(2, stop - begin)
        held |= set(range(first, end))
    assert held == set(range(len(packed.documents.sentences) - 1))
    assert len(np.unique(packed.keys)) == len(packed)


def test_length_does_not_give_the_label_away():
    packed = pack(numbered(random_sizes(400, seed=3)), max_tokens=64)
    rows = [packed.row(i, (0, epoch)) for epoch in range(4) for i in range(len(packed))]
    lengths = {label: [len(row.ids) for row in rows if row.label == label] for label in (IS_NEXT, IS_RANDOM)}
    # chance of a longer row among one of each kind: 1/2 where length says nothing
    longer = stats.mannwhitneyu(lengths[IS_NEXT], lengths[IS_RANDOM]).statistic
    assert abs(longer / (len(lengths[IS_NEXT]) * len(lengths[IS_RANDOM])) - 0.5) < 0.05
    assert abs(np.std(lengths[IS_NEXT]) / np.std(lengths[IS_RANDOM]) - 1) < 0.1


def test_a_full_chunk_is_filled_for_either_label():
    packed = pack(numbered([[4] * 40, [4] * 40]), max_tokens=33)
    full = [packed.row(0, (1, epoch)) for epoch in range(200)]
    assert {row.label for row in full} == {IS_NEXT, IS_RANDOM}
    assert {len(row.ids) for row in full if row.label == IS_NEXT} == {33}
    share = np.mean([len(row.ids) == 33 for row in full if row.label == IS_RANDOM])
    assert share > 0.8, "all but those that run into the end of the other document"


@pytest.mark.parametrize("limit", [2, 5, 8])
def test_longest_first_equals_taking_one_token_after_another(limit):
    for a in range(1, 12):
        for b in range(1, 12):
            left = [a, b]
            while sum(left) > limit:
                left[0 if left[0] > left[1] else 1] -= 1
            assert longest_first(a, b, limit) == tuple(left)


def test_cuts_take_from_both_ends_and_are_counted():
    packed = pack(numbered([[40, 40], [3, 3]]), max_tokens=23)
    rows = [packed.row(0, (0, epoch)) for epoch in range(100)]
    assert all(len(side) for row in rows for side in sides(row)), "an overlong A leaves room for B"
    true = [row for row in rows if row.label == IS_NEXT]
    assert {row.cut for row in true} == {60}
    assert {len(sides(row)[0]) for row in true} == {10}
    fronts = [int(sides(row)[0][0]) - 10 for row in true]  # tokens that A, of 40, lost at its front: Binomial(30, 1/2)
    assert abs(np.mean(fronts) - 15) < 5 * np.sqrt(30 / 4 / len(fronts))
    assert len(set(fronts)) > 5


def test_rows_are_functions_of_stream_and_place_alone():
    documents = numbered(random_sizes(50))
    packed, again = pack(documents), pack(documents)
    forward = [packed.row(i, (4, 0, 2)) for i in range(len(packed))]
    backward = [again.row(i, (4, 0, 2)) for i in reversed(range(len(packed)))][::-1]
    assert all(np.array_equal(a.ids, b.ids) and a.label == b.label for a, b in zip(forward, backward, strict=True))
    for stream in ((4, 0, 3), (4, 1, 2), (5, 0, 2)):
        other = [packed.row(i, stream) for i in range(len(packed))]
        agree = [a.label == b.label for a, b in zip(forward, other, strict=True) if a.label != NO_PAIR]
        low, high = stats.binom.interval(1 - 1e-6, len(agree), 0.5)
        assert low <= sum(agree) <= high


def test_single_segments_hold_whole_sentences_and_every_token_once():
    documents = numbered(random_sizes(60))
    packed = pack(documents, pairs=False, max_tokens=20)
    rows = [packed.row(i, (0, 0)) for i in range(len(packed))]
    assert {row.label for row in rows} == {NO_PAIR}
    assert sum(row.cut for row in rows) == 0
    tokens = np.concatenate([row.ids[1:-1] for row in rows])
    assert tokens.tolist() == [token for document in documents for sentence in document for token in sentence]
    assert max(len(row.ids) for row in rows) <= 20
    assert all(not row.segments.any() for row in rows)


def test_an_overlong_sentence_is_cut_and_counted():
    packed = pack(numbered([[3, 50, 2]]), pairs=False, max_tokens=12)
    assert [packed.row(i, (0, 0)).cut for i in range(3)] == [0, 40, 0]


def test_empty_sentences_and_documents_are_left_out():
    documents = collect_documents([[[], [7, 8]], [], [[]], [[9], [], [7]]])
    assert len(documents) == 2
    assert documents.ids.tolist() == [7, 8, 9, 7]
    assert documents.sentences.tolist() == [0, 2, 3, 4]
    assert documents.documents.tolist() == [0, 1, 3]
    with pytest.raises(DataError, match="no word"):
        collect_documents([[[]], []])


@pytest.mark.parametrize("sizes", [[[3, 4, 5]], [[3], [4], [5]]])
def test_pairs_need_two_documents_and_one_of_two_sentences(sizes):
    with pytest.raises(DataError, match="at least two documents"):
        pack(numbered(sizes))
    assert len(pack(numbered(sizes), pairs=False)) >= 1
