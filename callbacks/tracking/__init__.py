"""Callbacks that log to Weights & Biases."""
