"""OpenAI-compatible endpoints: requests, retries, limits and replies."""
