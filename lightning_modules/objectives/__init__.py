"""Eq. 1 and Eq. 2, advantages and rewards as pure functions."""
