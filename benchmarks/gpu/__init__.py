"""What the learner does on one GPU; ``benchmarks/gpu.md`` explains it."""
