"""The parts of the ONNX writer: where integers go, and the nodes and constants that say so.

Writes operators of ONNX's own domain alone; imports nothing of LiteRT.
"""
