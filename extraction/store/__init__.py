"""Stored features: reading them, and what is done to a store as a whole."""
