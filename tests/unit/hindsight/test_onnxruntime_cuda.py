"""How ONNX Runtime's CUDA provider is opened: with its libraries found, and never replaced by the CPU.

The module `onnxruntime` plays a GPU build here; what only a GPU shows is marked so.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from hindsight.artifact import Artifact
from hindsight.errors import DeviceLost, OutOfMemory, RuntimeFailure
from hindsight.runtime import onnxruntime as backend
from hindsight.runtime import open_runtime

ROOT = Path(__file__).parents[3]
LACKING = "Failed to load libcublasLt.so.13: cannot open shared object file"


class Sessions:
    """Stands for the class InferenceSession: notes how a session was asked for, and makes one on the CPU."""

    made = ort.InferenceSession

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.disabled = 0
        self.providers: list[str] | None = None  # those it says it runs on; None: all that were asked for

    def __call__(self, path: str, options: Any, **asked: Any) -> Any:
        self.asked.append(asked)
        names = [each if isinstance(each, str) else each[0] for each in asked["providers"]]
        session = Sessions.made(path, options, providers=["CPUExecutionProvider"])
        session.get_providers = lambda: self.providers or names
        session.disable_fallback = self._disable
        return session

    def _disable(self) -> None:
        self.disabled += 1


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Sessions:
    """A GPU build of ONNX Runtime that finds its libraries once they are preloaded."""
    found, loaded = Sessions(), list[str]()

    def providers() -> list[str]:
        assert loaded, "asked before the libraries were looked for"
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    monkeypatch.setattr(ort, "preload_dlls", lambda: loaded.append("CUDA"), raising=False)
    monkeypatch.setattr(ort, "get_available_providers", providers)
    monkeypatch.setattr(ort, "InferenceSession", found)
    monkeypatch.setattr(backend, "host_allocator", lambda number: None)
    return found


@pytest.mark.parametrize(
    ("name", "tf32"), [("onnxruntime", "0"), ("onnxruntime:fp32", "0"), ("onnxruntime:tf32", "1")]
)
def test_the_gpu_computes_in_the_precision_that_was_asked_for(
    sessions: Sessions, tiny_artifact: Artifact, name: str, tf32: str
) -> None:
    """`hindsight parity` holds float32 to float32; ONNX Runtime's own default is TF32."""
    open_runtime(name, tiny_artifact, device="cuda:1")
    (asked,) = sessions.asked
    (provider, options), _ = asked["providers"]
    assert provider == "CUDAExecutionProvider"
    assert (options["device_id"], options["use_tf32"]) == ("1", tf32)


def test_a_new_shape_does_not_wait_for_a_search_of_algorithms(
    sessions: Sessions, tiny_artifact: Artifact
) -> None:
    """A search takes seconds for each shape of input, and photos have many shapes."""
    open_runtime("onnxruntime", tiny_artifact, device="cuda")
    (_, options), _ = sessions.asked[0]["providers"]
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"


def test_a_run_that_fails_on_the_gpu_is_not_repeated_on_the_cpu(
    sessions: Sessions, tiny_artifact: Artifact
) -> None:
    open_runtime("onnxruntime", tiny_artifact, device="cuda")
    assert sessions.asked[0]["enable_fallback"] == 0 and sessions.disabled == 1


def test_a_gpu_that_is_left_out_is_an_error_that_says_what_is_missing(
    sessions: Sessions,
    tiny_artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """ONNX Runtime runs on the CPU then, and says so on stderr alone."""
    loaded = ort.preload_dlls

    def lacking() -> None:
        loaded()
        print(LACKING)

    monkeypatch.setattr(ort, "preload_dlls", lacking)
    sessions.providers = ["CPUExecutionProvider"]
    with pytest.raises(RuntimeFailure, match=LACKING):
        open_runtime("onnxruntime", tiny_artifact, device="cuda")
    assert capsys.readouterr().out == ""  # `hindsight detect --json` writes there


def test_a_model_that_does_not_load_leaves_the_gpu(
    sessions: Sessions, tiny_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server tries model after model in the same process."""
    closed = []

    class Allocator:
        def close(self) -> None:
            closed.append("the context")
            raise DeviceLost("the GPU is lost")  # which hides nothing of why the model did not load

    monkeypatch.setattr(backend, "host_allocator", lambda number: Allocator())
    sessions.providers = ["CPUExecutionProvider"]
    with pytest.raises(RuntimeFailure, match="does not use the GPU"):
        open_runtime("onnxruntime", tiny_artifact, device="cuda")
    assert closed == ["the context"]


def test_versions_that_cannot_preload_are_told_apart(
    sessions: Sessions, tiny_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ort, "preload_dlls")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    sessions.providers = ["CPUExecutionProvider"]
    with pytest.raises(RuntimeFailure, match="its own messages on stderr"):
        open_runtime("onnxruntime", tiny_artifact, device="cuda")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("CUDA failure 700: an illegal memory access was encountered", DeviceLost),
        ("CUDA failure 2: out of memory ; GPU=0", OutOfMemory),
        ("No such file", RuntimeFailure),
    ],
)
def test_a_model_that_does_not_load_tells_whether_the_gpu_is_lost(
    tiny_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, said: str, kind: type[Exception]
) -> None:
    """The rescoring model is loaded by a request: the server must know whether it needs another process."""
    runtime = open_runtime("onnxruntime", tiny_artifact)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(ort, "InferenceSession", fail)
    with pytest.raises(RuntimeFailure, match=r"cannot load rescore\.onnx") as caught:
        runtime.rescore({})
    assert type(caught.value) is kind


FRESH = """
import gc, sys
import numpy as np
import hindsight
from cuda.bindings import driver
from hindsight.runtime.cuda import Gpu

watching, free = Gpu(), []
for _ in range({loads}):
    with hindsight.load("cells", device="cuda") as detector:
        detector.detect(np.full((480, 640, 3), 200, np.uint8))
    gc.collect()
    with watching.current():
        free.append(int(driver.cuMemGetInfo()[1]) // 2**20)
watching.close()
assert "torch" not in sys.modules
print(*free)
"""
NEEDS_A_GPU = pytest.mark.skipif(
    "CUDAExecutionProvider" not in ort.get_available_providers(),
    reason="needs an NVIDIA GPU and onnxruntime-gpu",
)


def free_after(loads: int) -> list[int]:
    """Megabytes left on the GPU after each of them, in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-c", FRESH.format(loads=loads)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.gpu
@NEEDS_A_GPU
def test_a_process_without_torch_finds_cudas_libraries() -> None:
    """As the server's workers are: torch, once imported, would have loaded them for ONNX Runtime too."""
    assert len(free_after(1)) == 1


@pytest.mark.gpu
@NEEDS_A_GPU
def test_loading_and_unloading_leaves_the_memory_flat() -> None:
    free = free_after(20)
    # the first loads leave what a process has once: kernels, library handles
    assert free[-1] >= free[2] - 64, free
