"""What a written question must pass before anybody listens: each gate a pure function that says why not, or nothing."""
