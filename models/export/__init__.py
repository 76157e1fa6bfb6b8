"""From PyTorch to the graphs that serve: ONNX, its variants, ncnn."""
