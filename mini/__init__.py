"""The synthetic world: a corpus in the formats of the benchmarks, and a small student."""

import runtime.matplotlib_folder as _  # noqa: F401
