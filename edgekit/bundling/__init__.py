"""Make bundles out of models and data, and prove them here as a device will."""
