"""One vLLM server: what it is asked, what it answers, how it was started, whose it is."""
