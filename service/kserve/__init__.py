"""KServe V2, also called the Open Inference Protocol: over REST (rest.py) and over gRPC (grpc_server.py).

Both turn what came into a Call (call.py), which one of two kinds of model answers: a model under its own
name takes encoded images (image_model.py), under `NAME.tensor` the tensors of model.onnx (tensor_model.py).
Either goes through the same admission, queue and engines as POST /detect.
"""
