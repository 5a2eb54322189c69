"""From questions to batches."""
