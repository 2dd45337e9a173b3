"""The process that builds: `python -m tests.unit.plugins.build_engines MODULE JOBS.json [LIBRARY]`.

One line of JSON a job on stdout; what TensorRT says on stderr, after a line with the job's label. With
LIBRARY the C++ plugins are used and put into the engine, else the Python plugins.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Every job of the file."""
    trt = importlib.import_module(sys.argv[1])
    library = sys.argv[3] if len(sys.argv) > 3 else None
    if library is None:
        from export.plugins.python import register_plugins

        register_plugins(trt)
    else:
        assert trt.get_plugin_registry().load_library(library) is not None
    logger = trt.Logger(trt.Logger.WARNING)
    for job in json.loads(Path(sys.argv[2]).read_text()):
        print(f"=== {job['label']}", file=sys.stderr, flush=True)
        print(json.dumps({"label": job["label"], **build(trt, logger, job, library)}), flush=True)


def build(trt: Any, logger: Any, job: dict[str, Any], library: str | None) -> dict[str, Any]:
    """Parse, and build where that went well; the engine lies beside the graph."""
    builder = trt.Builder(logger)
    strongly_typed = trt.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(job["onnx"]).read_bytes()):
        return {"parsed": False, "errors": [parser.get_error(i).desc() for i in range(parser.num_errors)]}
    layers = [network.get_layer(index).type.name for index in range(network.num_layers)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for name, shapes in job["profile"].items():
        profile.set_shape(name, *shapes)
    if job["profile"]:
        config.add_optimization_profile(profile)
    inputs = {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
    for name, layout in job["formats"].items():
        inputs[name].allowed_formats = 1 << int(getattr(trt.TensorFormat, layout))
    if library is not None:
        config.plugins_to_serialize = [library]
    engine = builder.build_serialized_network(network, config)
    if engine is not None:
        Path(job["onnx"]).with_suffix(".engine").write_bytes(engine)
    return {
        "parsed": True,
        "layers": layers,
        "types": [output.dtype.name for output in outputs],
        "shapes": [list(output.shape) for output in outputs],
        "bytes": None if engine is None else engine.nbytes,
    }


if __name__ == "__main__":
    main()
