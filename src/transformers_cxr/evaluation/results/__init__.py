"""Intervals, tables, plots, the page and the model card of an evaluation, and the comparison of two."""
