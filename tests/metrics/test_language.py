from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vectoruniverse.metrics.language import perplexity, rows_of_ratio, unigram_log_probabilities


def test_perplexity_equals_that_of_torchmetrics():
    from torchmetrics.text import Perplexity

    logits = torch.randn(2, 7, 11, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(1))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    assert perplexity(loss) == pytest.approx(float(Perplexity()(logits, targets)), rel=1e-5)
    assert perplexity(0.0) == 1.0
    assert perplexity(1e6) == math.inf


def test_unigram_probabilities_are_smoothed_counts_of_the_possible_tokens():
    found = unigram_log_probabilities(np.array([2, 2, 2, 3, 0]), np.array([False, False, True, True, True]))
    assert np.exp(found) == pytest.approx([0, 0, 4 / 7, 2 / 7, 1 / 7])


def test_the_entropy_of_the_counted_corpus_under_itself_is_that_of_scipy():
    from scipy import stats

    corpus = np.random.default_rng(0).choice(6, 200_000, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    log_p = unigram_log_probabilities(corpus, np.ones(6, dtype=bool))
    assert -log_p[corpus].mean() == pytest.approx(stats.entropy(np.bincount(corpus)), abs=1e-4)


def test_rows_of_a_ratio_have_it_as_mean_and_its_spread_as_theirs():
    """The interval they give equals that of resampling the ratio itself, where rows differ much in size."""
    random = np.random.default_rng(0)
    sizes = random.integers(1, 40, 400).astype(float)
    hits = random.binomial(sizes.astype(int), random.uniform(0.2, 0.4, 400)).astype(float)
    rows = rows_of_ratio(hits, sizes)
    assert rows.mean() == pytest.approx(hits.sum() / sizes.sum())
    drawn = random.integers(400, size=(4000, 400))
    resampled = hits[drawn].sum(1) / sizes[drawn].sum(1)
    assert rows[drawn].mean(1).std() == pytest.approx(resampled.std(), rel=0.02)
    assert np.array_equal(rows_of_ratio(np.array([1.0, 3.0]), np.array([2.0, 2.0])), [0.5, 1.5])
