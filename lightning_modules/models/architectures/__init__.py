"""What differs between the architectures that a student may have."""
