"""UperNet (Xiao et al. 2018)."""
