"""Turn a trained model into ONNX or LiteRT, quantize it, check it; imports only edgekit_runtime."""
