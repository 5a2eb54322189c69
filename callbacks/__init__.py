"""Side effects: rollouts, weight updates, logging, files."""
