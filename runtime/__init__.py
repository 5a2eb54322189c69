"""Processes, ranks and files that are whole or absent."""

from runtime.missing_module import name_environment

name_environment()
