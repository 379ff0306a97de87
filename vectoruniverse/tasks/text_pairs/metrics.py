"""What the task reports beside the retrieval and the space of every task."""

from __future__ import annotations

from vectoruniverse.metrics.catalogue import Metric, directions, sides

METRICS = (
    *directions(first_to_second="first → second", second_to_first="second → first"),
    *sides(first="first", second="second"),
    Metric("pair_cosine", "cosine of pairs"),
    Metric("pair_cosine_clipped", "cosine of pairs, negatives as 0"),
    Metric("row_uniformity", "share of the row's cosines", "higher", "share"),
    Metric("column_uniformity", "share of the column's cosines", "higher", "share"),
    Metric("uniformity_chance", "the same by chance", unit="share"),
    Metric("empty_rows", "rows without a positive cosine", "lower", "rows"),
    Metric("empty_columns", "columns without a positive cosine", "lower", "rows"),
)
