"""Adapters that put each inference engine behind `Session`, and check what is fed to it."""
