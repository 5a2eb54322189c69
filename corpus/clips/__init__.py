"""From videos to clips of a few seconds that can be heard and seen, each once, and none of a benchmark."""
