"""Feature extractors, tokenizers and models of sound."""
