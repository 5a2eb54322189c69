"""A local page on which people look at and listen to a corpus, and judge it."""
