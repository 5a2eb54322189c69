"""Clips as waveforms and frames."""
