"""Which option a completion chose: one reader for rewards, validation and evaluation."""
