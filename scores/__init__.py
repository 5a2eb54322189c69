"""Scores of predictions: tables with intervals, comparisons, probes, the leakage audit and the report."""
