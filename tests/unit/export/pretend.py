"""Modules that stand in for TensorRT in the process that builds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from export import tensorrt_command
from export.to_tensorrt import Target

TARGET = Target("tensorrt_rtx", "any", ("8.9",), "sm89")

# Stands in for TensorRT in the builder's process: BEHAVIOUR is what happens when it is first used.
MODULE = """
import os, sys
__version__ = "9.9"
class Logger:
    WARNING = 1
    def __init__(self, level):
        {behaviour}
"""


WHOLE = """pass
    def write(self): pass
class NetworkDefinitionCreationFlag: STRONGLY_TYPED = 0
class BuilderFlag: TF32 = 0
class IProgressMonitor:
    def __init__(self): pass
class ComputeCapability: __members__ = {"SM89": 89}
class Layer:
    class type: name = "CONVOLUTION"
class Network:
    num_layers = 2
    def get_layer(self, index): return Layer()
class Shapes(dict):
    def set_shape(self, name, *shapes): self[name] = shapes
class Config:
    def __init__(self): self.profiles, self.set = [], {}
    def clear_flag(self, flag): pass
    def add_optimization_profile(self, shapes): self.profiles.append(dict(shapes)); return 0
    def set_compute_capability(self, value, index): self.set[index] = value
class Builder:
    def __init__(self, logger): pass
    def create_network(self, flags): assert flags == 1; return Network()
    def create_builder_config(self): return Config()
    def create_optimization_profile(self): return Shapes()
    def build_serialized_network(self, network, config):
        import json
        assert config.num_compute_capabilities == 1 and config.set == {0: 89}
        config.progress_monitor.phase_start("tactics", None, 2)
        config.progress_monitor.step_complete("tactics", 0)
        return json.dumps(config.profiles).encode()
class OnnxParser:
    def __init__(self, network, logger): pass
    def parse(self, data): return len(data) > 1000
"""


def shadow(monkeypatch: pytest.MonkeyPatch, folder: Path, behaviour: str, name: str = "tensorrt_rtx") -> None:
    """Put a module `tensorrt_rtx` before the real one, in the builder's process alone."""
    folder.mkdir()
    (folder / f"{name}.py").write_text(MODULE.format(behaviour=behaviour))
    real = tensorrt_command.build_engine.__globals__["_environment"]

    def environment(scratch: Path) -> dict[str, str]:
        found: dict[str, str] = real(scratch)
        return found | {"PYTHONPATH": os.pathsep.join([str(folder), found["PYTHONPATH"]])}

    monkeypatch.setitem(tensorrt_command.build_engine.__globals__, "_environment", environment)
    monkeypatch.setattr(tensorrt_command, "installed_flavour", lambda: "tensorrt_rtx")


def shadow_whole(
    monkeypatch: pytest.MonkeyPatch, folder: Path, source: str = WHOLE, name: str = "tensorrt_rtx"
) -> None:
    shadow(monkeypatch, folder, source, name)
    # register_plugins wants TensorRT's own classes: here nothing is registered
    (folder / "sitecustomize.py").write_text(
        "import export.plugins.python as plugins\nplugins.register_plugins = lambda trt: ()\n"
    )
