"""Figures of a run: numbers in, `matplotlib.figure.Figure` out."""
