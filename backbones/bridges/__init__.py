"""Bridges: a backbone in the form that another library, or a plain loop, takes it."""
