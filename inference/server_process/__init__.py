"""A vLLM server as a process of this machine."""
