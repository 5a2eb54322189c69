"""Scores of predictions: tables with intervals, comparisons, probes, the contamination audit and the report."""

import runtime.matplotlib_folder as _  # noqa: F401
