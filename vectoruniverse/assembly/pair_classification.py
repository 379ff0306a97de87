"""Task ``pair_classification``: pairs of texts into classes by two encoders that read them in either order."""

from vectoruniverse.assembly.classification import judge_base, prepare, share

__all__ = ["judge_base", "prepare", "share"]
