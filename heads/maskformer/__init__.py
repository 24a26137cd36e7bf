"""MaskFormer (Cheng et al. 2021)."""
