"""Everything that talks to a server: vLLM for rollouts, chat APIs for teacher and checker."""

import runtime as _  # noqa: F401
