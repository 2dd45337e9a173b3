"""Our operators as CUDA kernels: one source each, compiled at run time, launched on anybody's stream.

sources and headers   *.cu, *.h: also what the TensorRT plugins and the g++ tests compile
compile.py            NVRTC, and the cache of what it made
params.py             what a kernel is handed, and how it is launched
driver.py             load and launch, through cuda.bindings

Nothing here imports torch: a host of engines needs none. model/ops/launchers.py takes tensors, and
model/ops/cuda.py makes it the torch operators' CUDA implementation. README.md says more.
"""
