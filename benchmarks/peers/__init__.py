"""The learner against other projects' learners: ``python -m benchmarks.peers DIR``."""
