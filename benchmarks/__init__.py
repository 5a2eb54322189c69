"""Measurements, each with the command that repeats it."""

import datamodules.matplotlib_folder as _  # noqa: F401
