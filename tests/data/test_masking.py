from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vectoruniverse.data.masking import IGNORED, mask_tokens, masking_of

PAD, UNK, CLS, SEP, MASK = range(5)
VOCABULARY = {
    "[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4,
    **{f"w{i}": 5 + i for i in range(60)}, **{f"##p{i}": 65 + i for i in range(40)}, "##": 105,
}  # fmt: skip


def masking(whole_word=False, share=0.15):
    return masking_of(VOCABULARY, {PAD, UNK, CLS, SEP, MASK}, mask_id=MASK, continuation="##", share=share,
                      whole_word=whole_word)  # fmt: skip


def rows(count, length, seed=0):
    """Rows of words of one to three pieces, [CLS] in front and [SEP] at the end."""
    random = np.random.default_rng(seed)
    ids = np.where(random.random((count, length)) < 0.5, random.integers(5, 65, (count, length)),
                   random.integers(65, 105, (count, length)))  # fmt: skip
    ids[:, 0], ids[:, -1] = CLS, SEP
    return ids, random.integers(0, 2**63, count).astype(np.uint64)


def assert_rate(hits, of, share):
    """Within the central 1 − 1e-6 of the binomial distribution."""
    low, high = stats.binom.interval(1 - 1e-6, of, share)
    assert low <= hits <= high, (hits / of, share)


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_15_percent_are_chosen_and_of_these_80_10_10(share):
    ids, keys = rows(1000, 200)
    inputs, labels = mask_tokens(ids, keys, masking(share=share), (3, 0))
    chosen = labels != IGNORED
    assert_rate(chosen.sum(), 1000 * 198, share)
    assert np.array_equal(labels[chosen], ids[chosen])
    assert np.array_equal(inputs[~chosen], ids[~chosen])
    masked = inputs[chosen] == MASK
    assert_rate(masked.sum(), chosen.sum(), 0.8)
    changed = ~masked & (inputs[chosen] != ids[chosen])
    assert_rate(changed.sum(), chosen.sum(), 0.1 * (1 - 1 / 101))  # a random token may be the one that was there
    replaced = inputs[chosen][changed]
    counts = np.bincount(replaced, minlength=106)[5:]
    assert stats.chisquare(counts).pvalue > 1e-6, "every ordinary token replaces equally often"
    assert replaced.min() >= 5, "marks never replace a word"


def test_marks_and_unknown_words_are_never_chosen():
    ids, keys = rows(500, 40)
    ids[:, 10], ids[:, 30:] = UNK, PAD
    _, labels = mask_tokens(ids, keys, masking(share=0.5), (0,))
    assert set(np.unique(labels)) <= {IGNORED, *range(5, 106)}


def words_of(row):
    """Groups of positions by the slow obvious way."""
    groups = []
    for position, token in enumerate(row):
        if 65 <= token < 105 and groups and groups[-1][-1] == position - 1:
            groups[-1].append(position)
        elif token >= 5:
            groups.append([position])
    return groups


def test_whole_words_are_chosen_with_all_their_pieces_at_the_same_rate():
    ids, keys = rows(2000, 100)
    inputs, labels = mask_tokens(ids, keys, masking(whole_word=True), (1, 2))
    chosen = labels != IGNORED
    words = taken = 0
    for row, picked in zip(ids, chosen, strict=True):
        for group in words_of(row):
            assert len(set(picked[group])) == 1
            words += 1
            taken += picked[group[0]]
    assert_rate(taken, words, 0.15)
    assert_rate((inputs[chosen] == MASK).sum(), chosen.sum(), 0.8)
    single = mask_tokens(ids, keys, masking(), (1, 2))[1] != IGNORED
    assert not np.array_equal(chosen, single)


def test_a_piece_after_a_mark_is_a_word_of_its_own():
    ids = np.tile(np.array([[CLS, 70, 71, 10, SEP, 72, SEP]]), (4000, 1))
    labels = mask_tokens(ids, np.arange(4000, dtype=np.uint64), masking(whole_word=True), (0,))[1] != IGNORED
    assert np.array_equal(labels[:, 1], labels[:, 2])
    assert not np.array_equal(labels[:, 3], labels[:, 5])
    assert not np.array_equal(labels[:, 2], labels[:, 3])


@pytest.mark.parametrize("whole_word", [False, True])
def test_every_row_with_an_ordinary_token_has_a_target(whole_word):
    ids, keys = rows(3000, 6)
    ids[:10, 1:-1] = UNK
    labels = mask_tokens(ids, keys, masking(whole_word), (0,))[1] != IGNORED
    assert not labels[:10].any()
    assert labels[10:].any(axis=1).all()
    # the position that had to be chosen is any of them: no place is preferred
    if not whole_word:
        counts = labels[10:, 1:-1].sum(axis=0)
        assert stats.chisquare(counts).pvalue > 1e-6


def test_a_row_is_masked_alike_in_every_batch_and_padding():
    ids, keys = rows(8, 30)
    together = mask_tokens(ids, keys, masking(True), (5, 1))
    wider = np.concatenate([ids, np.full((8, 7), PAD)], axis=1)
    padded = mask_tokens(wider, keys, masking(True), (5, 1))
    for one, many in zip(padded, together, strict=True):
        assert np.array_equal(one[:, :30], many)
    for i in (6, 2):
        alone = mask_tokens(ids[i : i + 1], keys[i : i + 1], masking(True), (5, 1))
        assert all(np.array_equal(one[0], many[i]) for one, many in zip(alone, together, strict=True))


def test_epochs_seeds_and_rows_are_independent():
    ids, keys = rows(1000, 102)
    ids[:] = np.where(ids >= 5, 7, ids)
    maskings = [mask_tokens(ids, keys, masking(), stream)[1] != IGNORED for stream in ((0, 0), (0, 1), (1, 0))]
    others = [mask_tokens(ids, keys + np.uint64(1), masking(), (0, 0))[1] != IGNORED]
    for other in (*maskings[1:], *others, np.roll(maskings[0], 1, axis=0)):
        assert_rate((maskings[0] & other).sum(), 100_000, 0.15**2)
    assert_rate((maskings[0][:, 1:-2] & maskings[0][:, 2:-1]).sum(), 99_000, 0.15**2)
