"""Task ``sequence_classification``: texts into classes by one encoder."""

from vectoruniverse.assembly.classification import judge_base, prepare, share

__all__ = ["judge_base", "prepare", "share"]
