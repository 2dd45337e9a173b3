"""Programs for the tests of the TensorRT runtime, and engines for them: `tensorrt` is fake_tensorrt.py,
NVIDIA's driver fake_gpu.cpp.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from hindsight.artifact import Artifact
from hindsight.engines import (
    ENGINE_FORMAT,
    Bucket,
    EngineRecord,
    Plan,
    engine_folder_name,
    engines_folder,
    write_record,
)

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
GPU = "NVIDIA Pretender 9000"
SIZES = ((64, 96), (96, 64))
BATCHES = (1, 2, 4)
RECORD = EngineRecord(ENGINE_FORMAT, "tensorrt", "10.13.0", GPU, ("8.9",), "fp16", False, {}, ())

PREAMBLE = """
import ctypes, logging, sys
import numpy as np
import tensorrt
import hindsight.runtime.tensorrt as own
from hindsight.artifact import load_artifact
from hindsight.errors import HindsightError, RuntimeFailure
from hindsight.runtime import open_runtime
from pathlib import Path

class Entry:
    value = "fake"
    def load(self):
        return tensorrt.register

own.entry_points = lambda group: [Entry()] if group == "hindsight.tensorrt_plugins" else []
gpu = ctypes.CDLL("libcuda.so.1")
KINDS = (b"context", b"memory", b"pinned", b"stream", b"event", b"graph", b"launchable")

def alive():
    return {kind.decode(): gpu.fake_alive(kind) for kind in KINDS if gpu.fake_alive(kind)}

def opened(name="tensorrt"):
    return open_runtime(name, artifact, device="cuda")

def message(call):
    try:
        call()
    except HindsightError as error:
        return f"{type(error).__name__}: {error}"
    raise SystemExit("no error")

def inputs(count, height, width, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    sizes = np.array([[height - 3 * k, width - 5 * k] for k in range(count)], np.int64)
    return {
        "images": images,
        "image_sizes": sizes,
        "class_threshold": np.linspace(0.1, 0.4, count, dtype=np.float32),
        "score_threshold": np.full(count, 0.05, np.float32),
        "iou_weight": np.linspace(0, 1, count, dtype=np.float32),
        "nms_threshold": np.array([0.5], np.float32),
    }

def boxes(count, boxes):
    rng = np.random.default_rng(1)
    corners = np.sort(rng.uniform(0, 60, (count, boxes, 2, 2)), axis=2).reshape(count, boxes, 4)
    return {"boxes": corners.astype(np.float32), "num_boxes": np.arange(count, dtype=np.int64) % (boxes + 1)}

artifact = load_artifact(Path(sys.argv[1]))
"""


def add_engine(artifact: Artifact, record: EngineRecord = RECORD) -> None:
    folder = engines_folder(artifact) / engine_folder_name(GPU, "tensorrt", "10.13.0", record.precision)
    folder.mkdir(parents=True)
    plans = []
    for graph, counts in (("model.onnx", [None]), ("rescore.onnx", [4, 100])):
        buckets = [
            Bucket(batch, *size, boxes=count) for size in SIZES for batch in BATCHES for count in counts
        ]
        profiles = []
        for bucket in buckets:
            batch = bucket.batch
            shapes = {"images": [batch, bucket.height, bucket.width, 3], "image_sizes": [batch, 2]}
            per_image = ("class_threshold", "score_threshold", "iou_weight", "num_boxes")
            shapes |= {name: [batch] for name in per_image}
            profiles.append(shapes | {"boxes": [batch, bucket.boxes or 0, 4]})
        plan = json.dumps({"onnx": str(artifact.path / graph), "profiles": profiles}).encode()
        file = f"{Path(graph).stem}.engine"
        (folder / file).write_bytes(plan)
        plans.append(Plan(graph, file, hashlib.sha256(plan).hexdigest(), 0, tuple(buckets)))
    write_record(folder, replace(record, plans=tuple(plans), sources=artifact.manifest.files))


def run(fakes: Path, artifact: Artifact, program: str) -> subprocess.CompletedProcess[str]:
    """`program` behind the preamble, to its good end."""
    paths = [str(fakes), str(ROOT)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PREAMBLE + program, str(artifact.path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "LD_LIBRARY_PATH": str(fakes)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done
