"""Our operators as TensorRT plugins, over the kernels in model/kernels: in Python and in C++."""
