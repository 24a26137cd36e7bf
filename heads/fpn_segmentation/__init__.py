"""Semantic segmentation from the maps of a feature pyramid (Kirillov et al. 2019)."""
