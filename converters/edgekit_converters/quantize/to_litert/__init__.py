"""The parts of the LiteRT writer: they change the object tree of a float `.tflite` file.

They know tensors and operators by their numbers in the file, and import nothing of ONNX; `names`
alone knows which of them stand for which nodes and values.
"""
