"""Models handed over to an engine for inference: `model.optimize()` and what stands behind it."""
