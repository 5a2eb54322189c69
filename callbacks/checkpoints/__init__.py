"""Callbacks that keep checkpoints and export weights."""
