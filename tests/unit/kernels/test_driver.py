"""driver.py through the real cuda.bindings, against a libcuda that runs kernels on the host grid."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from model.kernels.compile import CACHE_VARIABLE, SOURCES, compiled
from tests.unit.kernels.conftest import HERE, OPTIONS

ROOT = Path(__file__).parents[3]

PROGRAM = """
import threading
import torch
from model.ops import batched_nms, multilevel_roi_align
from model.ops import launchers
from model.kernels.driver import Queue, current_device, launch, load
from model.kernels.compile import KernelError
from tests.unit.kernels.lists import crowd

# before anything else: a plugin is attached in a thread that may have called nothing of CUDA yet
assert current_device() == 0
load("batched_nms", "batched_nms", 0)
try:
    load("batched_nms", "soft_nms", 0)
except KernelError as error:
    assert "finding soft_nms in batched_nms.cu" in str(error), error
else:
    raise SystemExit("loaded a kernel that is not there")

queue = Queue(device=0, stream=5)
case, limit = crowd(0, 2, 3, 70), torch.tensor([0.5])
expected = batched_nms(*case, limit)
assert torch.equal(launchers.batched_nms(*case, limit, queue), expected)

features = [torch.randn(2, 16, 8, 8).half().to(memory_format=torch.channels_last)]
found = launchers.roi_align(features, case[0], [8], 7, 2, False, queue)
wanted = multilevel_roi_align(features, case[0], [8], 7, 2, False)
torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)

# the context is torch's to choose: it is as it was
import cuda.bindings.driver as cuda
assert int(cuda.cuCtxGetCurrent()[1]) == 0

# a thread that has called nothing of CUDA yet
results = []
thread = threading.Thread(target=lambda: results.append(launchers.batched_nms(*case, limit, queue)))
thread.start()
thread.join()
assert torch.equal(results[0], expected)

for attempt, wrong in [("GPU 3", Queue(3, 5)), ("launching batched_nms", Queue(0, 6))]:
    try:
        launchers.batched_nms(*case, limit, wrong)
    except KernelError as error:
        assert attempt in str(error) and "CUDA_ERROR_INVALID_VALUE" in str(error), error
    else:
        raise SystemExit("no error for " + attempt)
cuda.cuCtxSetCurrent(cuda.cuDevicePrimaryCtxRetain(0)[1])
assert current_device() == 0

# a driver before CUDA 12.4
def lacking(function):
    raise RuntimeError('Function "cuFuncLoad" not found')

cuda.cuFuncLoad = lacking
load("roi_align", "roi_align_vector_f16_f16", 0)
print("launched")
"""


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_kernels_are_loaded_from_the_cache_and_launched(tmp_path: Path) -> None:
    library = tmp_path / "driver" / "libcuda.so.1"
    library.parent.mkdir()
    source = HERE / "fake_driver.cpp"
    command = ["g++", *OPTIONS, "-Wno-unknown-pragmas", f"-I{HERE}", f"-I{SOURCES}"]
    subprocess.run([*command, "-o", str(library), str(source)], check=True)
    # NVRTC asks a driver that is there for more than this one has: compile before
    for name in ("batched_nms", "roi_align"):
        compiled(name, 90, folder=tmp_path / "cache" / "kernels")
    environment = {"LD_LIBRARY_PATH": str(library.parent), CACHE_VARIABLE: str(tmp_path / "cache")}
    done = run(PROGRAM, **environment)
    assert done.returncode == 0 and done.stdout == "launched\n", done.stderr


FALLBACKS = """
import sys
import cuda.bindings.driver
import torch
from model.ops import batched_nms
from model.kernels import driver
from model.ops import cuda as implementations, launchers
from model.ops.nms import batched_nms_torch
from tests.unit.kernels.lists import crowd

args = (*crowd(0, 2, 3, 20), torch.tensor([0.5]))
expected = batched_nms(*args)
implementations.queue_of = lambda args: driver.Queue(0, 0)
implementation = implementations.kernel_or_torch(launchers.batched_nms, batched_nms_torch)

def twice():
    driver._driver.cache_clear()
    for _ in range(2):
        assert torch.equal(implementation(*args), expected)

def no_library(flags):
    raise RuntimeError("no libcuda")

cuda.bindings.driver.cuInit = no_library
twice()
cuda.bindings.driver.cuInit = lambda flags: (100,)
twice()
sys.modules["cuda.bindings"] = None
twice()
"""


def test_without_a_driver_torch_answers_and_the_log_gives_each_reason_once() -> None:
    done = run(FALLBACKS)
    assert done.returncode == 0, done.stderr
    said = [line.partition("wait for the GPU: ")[2] for line in done.stderr.splitlines()]
    assert said[0] == "NVIDIA's driver was not found (no libcuda)"
    assert said[1] == "the NVIDIA driver does not start: cuInit gives 100"
    assert said[2].startswith("the package cuda-bindings is not installed (")
    assert len(said) == 3
