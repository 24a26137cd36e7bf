"""Tokenizers and models of text."""
