"""Our operators as CUDA kernels: one source each, compiled at run time, launched on torch's streams.

sources and headers   *.cu, *.h: also what the TensorRT plugins and the g++ tests compile
compile.py            NVRTC, and the cache of what it made
params.py             what a kernel is handed, and how it is launched
driver.py             load and launch, through cuda.bindings
launchers.py          tensors in, tensors out: one function an operator
operators.py          the same as CUDA implementations of the torch operators

Nothing but launchers.py and operators.py imports torch; README.md says more.
"""
