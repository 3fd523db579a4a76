"""Mend what quantization breaks: change the float model, or widen the plan, until accuracy holds.

Takes normalised ONNX models and gives them back; may import the graph's plain form, the ranges, the
figures of accuracy and both formats' writers, and knows no file format of data and no command line.
"""
