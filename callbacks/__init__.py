"""Side effects: rollouts, weight updates, logging, files."""

import runtime.matplotlib_folder as _  # noqa: F401
