"""The embedded world: a corpus in the formats of the benchmarks, and a small student."""

import datamodules.matplotlib_folder as _  # noqa: F401
