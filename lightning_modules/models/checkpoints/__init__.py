"""Weights on disk: read, spread over ranks, written under the Hub's names."""
