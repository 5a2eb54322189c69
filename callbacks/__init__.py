"""Side effects: rollouts, weight updates, logging, files."""

import datamodules.matplotlib_folder as _  # noqa: F401
