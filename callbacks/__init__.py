"""Side effects: rollouts, weight updates, logging, files."""

import cli.matplotlib_folder as _  # noqa: F401
