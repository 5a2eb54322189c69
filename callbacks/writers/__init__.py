"""Callbacks that write records, predictions and reports while a stage runs."""
