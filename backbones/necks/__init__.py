"""Necks: modules that make another pyramid of a backbone's maps, each a backbone itself."""
