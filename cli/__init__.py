"""The command line: configuration files, the LightningCLI and its one-sentence errors."""
