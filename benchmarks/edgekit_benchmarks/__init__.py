"""Measure a model here and predict it for a device profile; imports edgekit_runtime only.

`measure` runs the engine in a process of its own (`worker`) and says what it saw. `predict` is a
pure function of a model's workload and a board's profile; `fit` makes the profiles from published
measurements. `bench` puts both side by side, and every figure says which of the two it is.
"""
