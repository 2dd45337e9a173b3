"""Our operators as TensorRT plugins, over the kernels in model/ops/kernels: in Python and in C++."""
