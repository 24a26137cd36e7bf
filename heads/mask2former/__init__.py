"""Mask2Former (Cheng et al. 2022)."""
