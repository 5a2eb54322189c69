"""From videos to a training corpus."""
