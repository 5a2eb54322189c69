"""What a run will need, found out before it is begun: without a GPU, weights or data."""
