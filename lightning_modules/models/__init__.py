"""The student: how it hears and reads, its adapters, and its log-probabilities."""
