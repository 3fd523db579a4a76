"""Layers of the models that the published latencies were measured with; for `count_published`."""
