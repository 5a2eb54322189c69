"""From annotation files to questions that can be used, and what was wrong with the others."""
