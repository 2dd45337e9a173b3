"""TensorRT plugins in Python: no compiler, no CUDA SDK, no torch.

`register_plugins(tensorrt)` before a network is parsed or an engine loaded; README.md says the rest.
"""

from export.plugins.python.register import register_plugins

__all__ = ["register_plugins"]
