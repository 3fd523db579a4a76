"""Load and run a model, read and write bundles, and speak the fleet's protocol; imports no room.

Everything else in edgekit stands on this package, on the workstation and on the device alike,
so importing it costs almost nothing: an inference engine, and numpy itself, are loaded by the
function that needs them.
"""
