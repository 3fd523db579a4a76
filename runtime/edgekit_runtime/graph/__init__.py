"""One neutral view of a model file, ONNX or TFLite, without running it; imports no engine.

`read` parses a file, `workload` counts its arithmetic, `lifetimes` plans its memory, `summary`
tells people what it is. `tflite_bounds` guards everything native that opens a `.tflite` file.
"""
