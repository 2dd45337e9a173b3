"""The detectors of the two papers, in torch. Nothing here knows files' meaning, HTTP or ONNX."""
