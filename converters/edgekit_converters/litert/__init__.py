"""ONNX to LiteRT in named stages, without TensorFlow: normalise, layout, lower, fuse, emit.

Each stage is a function of the one before; only `emit` knows the flatbuffer, and only `lower`
knows the operators. Nothing here reads or writes files.
"""
