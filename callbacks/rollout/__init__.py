"""Callbacks that give training batches their completions."""
