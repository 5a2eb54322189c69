"""Measurements, each with the command that repeats it."""

import cli.matplotlib_folder as _  # noqa: F401
