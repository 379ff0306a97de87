"""What the task reports: of masked tokens, and of pairs of sentences."""

from __future__ import annotations

from vectoruniverse.metrics.catalogue import Metric

METRICS = (
    Metric("mlm_accuracy", "masked tokens, accuracy", "higher", "share"),
    Metric("mlm_loss", "masked tokens, cross-entropy, nats", "lower", "nats"),
    Metric("unigram_entropy", "the same by token counts, nats", unit="nats"),
    Metric("perplexity", "perplexity", "lower"),
    Metric("nsp_accuracy", "next sentence, accuracy", "higher", "share"),
    Metric("nsp_loss", "next sentence, cross-entropy, nats", "lower", "nats"),
)
