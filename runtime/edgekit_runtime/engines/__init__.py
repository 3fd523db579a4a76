"""Adapters that put each inference engine behind `Session`; imported only by `session`."""
