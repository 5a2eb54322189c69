"""What the benchmarks measure with: students and data of a given size, steps, clocks and records of a run."""
