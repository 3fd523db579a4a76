"""Read a trained model of any framework: find out what it is, make it ONNX, and keep the original.

Each source has a module of its own, which returns an `ImportedModel`: the ONNX form, and a session
that runs the source itself, so that what is made of it is compared with its own answers. Imports
no other part of the converter but the reading of samples and of ONNX, and each framework only
inside the function that needs it.
"""
