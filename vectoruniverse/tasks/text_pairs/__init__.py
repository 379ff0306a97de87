"""Pairs of texts in one space, and encoders compared on them."""
