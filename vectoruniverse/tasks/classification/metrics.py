"""What the tasks of classification report: of all rows, and of each class."""

from __future__ import annotations

from vectoruniverse.metrics.catalogue import Metric

METRICS = (
    Metric("accuracy", "accuracy", "higher", "share"),
    Metric("macro_f1", "macro F1", "higher", "share"),
    Metric("loss", "cross-entropy, nats", "lower", "nats"),
    Metric("calibration_error", "calibration error", "lower", "share"),
    Metric("f1/*", "F1, {}", "higher", "share"),
    Metric("precision/*", "precision, {}", "higher", "share"),
    Metric("recall/*", "recall, {}", "higher", "share"),
    Metric("support/*", "rows, {}", unit="rows"),
)
