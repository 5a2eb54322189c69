"""Scores of predictions: tables with intervals, comparisons, probes, the leakage audit and the report."""

import runtime.matplotlib_folder as _  # noqa: F401
