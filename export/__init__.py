"""Checkpoint to artifact: ONNX graphs over one weights file, kept only if they equal the torch model."""
