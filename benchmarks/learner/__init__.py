"""The learner against the conventional step: ``python -m benchmarks.learner``."""
