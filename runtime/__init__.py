"""Processes, ranks and files that are whole or absent."""
