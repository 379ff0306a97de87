"""Texts, or pairs of texts, into classes."""
