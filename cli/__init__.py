"""The command line: configuration files, the LightningCLI and its one-sentence errors."""

import runtime.matplotlib_folder as _  # noqa: F401
