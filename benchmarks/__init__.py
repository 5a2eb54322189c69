"""Measurements, each with the command that repeats it."""

import runtime.matplotlib_folder as _  # noqa: F401
