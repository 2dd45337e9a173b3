"""The torch runtime on a GPU: one wait a batch, graphs, precision, memory.

python -m pytest -m gpu tests/unit/export/test_torch_gpu.py
"""

from __future__ import annotations

import gc
import shutil
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.parity import Filters, Tolerance, compare_detections, detections_of
from export.parity_inputs import parity_inputs
from export.parity_limits import LIMITS
from export.torch_graphs import MEETINGS_WHEN_FULL
from export.torch_runtime import TorchRuntime, open_torch
from hindsight.artifact import find_artifact
from tests.parity.exporting import feeds_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use"),
]
# of pixels and of probabilities: what half precision may change in a detection that both report
HALF_TOLERANCE = Tolerance(pixels=2.0, score=0.05, iou=0.05)
SLACK = 64 * 2**20  # bytes that the driver keeps back now and then
Arrays = dict[str, NDArray[Any]]
# torch.compile has Triton build a small extension module
CAN_COMPILE = Path(sysconfig.get_paths()["include"], "Python.h").is_file() and any(
    shutil.which(compiler) for compiler in ("cc", "gcc", "clang")
)


def on_gpu(argument: str = "") -> TorchRuntime:
    return open_torch(find_artifact("cells"), device="cuda", threads=None, argument=argument)


@pytest.fixture(scope="module")
def on_cpu() -> TorchRuntime:
    return open_torch(find_artifact("cells"), device="cpu", threads=None, argument="")


@pytest.fixture
def runtime() -> Iterator[TorchRuntime]:
    opened = on_gpu()
    yield opened
    opened.close()


def boxes_of(feeds: Arrays) -> Arrays:
    batch = len(feeds["images"])
    return {
        "images": feeds["images"],
        "image_sizes": feeds["image_sizes"],
        "boxes": np.tile(np.array([[4, 4, 40, 40], [0, 0, 20, 60]], np.float32), (batch, 1, 1)),
        "num_boxes": np.full(batch, 2),
    }


def test_detections_are_the_cpus_with_and_without_a_graph(
    runtime: TorchRuntime, on_cpu: TorchRuntime
) -> None:
    manifest = find_artifact("cells").manifest
    limits = LIMITS["fp32"]  # what `hindsight parity` holds a GPU's float32 to, and for which reasons
    matched = outliers = 0
    for item in parity_inputs(manifest.resize, manifest.defaults):
        feeds = item.detect_feeds()
        expected = on_cpu.detect(feeds)
        for _ in range(3):  # kernels, capture, replay
            found = runtime.detect(feeds)
            for image in range(item.batch):
                names = ("class_threshold", "score_threshold", "nms_threshold")
                filters = Filters(*(float(feeds[name][image % len(feeds[name])]) for name in names))
                result = compare_detections(
                    detections_of(expected, image),
                    detections_of(found, image),
                    filters,
                    manifest.max_detections,
                    limits.tolerance,
                    featureless=item.featureless,
                )
                outliers += result.outliers(limits.tolerance)
                matched += result.matched
        rescored, again = on_cpu.rescore(item.rescore_feeds()), runtime.rescore(item.rescore_feeds())
        for name, values in rescored.items():
            np.testing.assert_allclose(again[name], values, atol=limits.tolerance.score, err_msg=name)
    assert matched > 30 and runtime.graphs > 0
    # the share of limits, over few detections: one that comes from another proposal comes so three times
    assert outliers <= max(6, limits.outliers * matched), f"{outliers} of {matched}"


@pytest.mark.parametrize("argument", ["tf32", "fp16", "bf16"])
def test_other_precisions_rescore_nearly_alike(argument: str, on_cpu: TorchRuntime) -> None:
    feeds = boxes_of(feeds_of(2, 256, 320))
    expected, opened = on_cpu.rescore(feeds), on_gpu(argument)
    for _ in range(3):
        found = opened.rescore(feeds)
        for name, values in expected.items():
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(found[name], values, atol=HALF_TOLERANCE.score, err_msg=name)
    opened.close()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # torch says that it is a prototype
@pytest.mark.parametrize("argument", ["graphs=0", "fp16,graphs=0", "graphs=4", "fp16,graphs=4"])
def test_the_host_waits_once_a_batch(argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, feeds = on_gpu(argument), feeds_of(4, 256, 320)
    for _ in range(3):
        expected = opened.detect(feeds)
        opened.rescore(boxes_of(feeds))
    waits: list[int] = []
    synchronize = torch.cuda.Event.synchronize

    def counted(event: torch.cuda.Event) -> None:
        waits.append(1)
        synchronize(event)

    monkeypatch.setattr(torch.cuda.Event, "synchronize", counted)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = opened.detect(feeds)
        assert len(waits) == 1
        opened.rescore(boxes_of(feeds))
        assert len(waits) == 2
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert expected.keys() == found.keys()
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=HALF_TOLERANCE.score)
    assert opened.graphs == (2 if argument.endswith("4") else 0)
    opened.close()


def test_a_replayed_graph_reads_new_inputs(runtime: TorchRuntime) -> None:
    without = on_gpu("graphs=0")
    for seed in range(5):
        feeds = feeds_of(2, 192, 256, seed)
        feeds["iou_weight"] = np.full(2, 0.2 * seed, np.float32)
        feeds["nms_threshold"] = np.array([0.3 + 0.1 * seed], np.float32)
        expected, found = without.detect(feeds), runtime.detect(feeds)
        assert np.array_equal(expected["num_detections"], found["num_detections"])
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
    assert runtime.graphs == 1
    without.close()


def test_graphs_beyond_the_limit_make_room_and_free_their_memory() -> None:
    opened = on_gpu("graphs=2")
    for height in (64, 96, 128, 160, 192):
        feeds = feeds_of(1, height, 96)
        answers = [opened.detect(feeds) for _ in range(MEETINGS_WHEN_FULL + 1)]
        assert np.array_equal(answers[0]["num_detections"], answers[-1]["num_detections"])
    assert opened.graphs == 2
    held = torch.cuda.memory_reserved()
    for _ in range(3):
        for height in (64, 96, 128, 160, 192):
            for _ in range(MEETINGS_WHEN_FULL):
                opened.detect(feeds_of(1, height, 96))
    assert opened.graphs == 2 and torch.cuda.memory_reserved() <= held + SLACK
    opened.close()


def test_graphs_share_their_memory() -> None:
    opened = on_gpu("graphs=5")

    def reserved() -> int:
        torch.cuda.empty_cache()  # what runs without a graph has left
        return torch.cuda.memory_reserved()

    sizes = [(512, 640), (512, 608), (512, 576), (480, 640), (448, 640)]
    held = [reserved()]
    for size in sizes:
        for _ in range(2):
            opened.detect(feeds_of(4, *size))
        held.append(reserved())
    assert opened.graphs == 5
    largest = held[1] - held[0]
    assert held[-1] - held[1] < 2 * largest  # four more, each nearly as large
    opened.close()


def test_several_threads_get_their_own_answers(runtime: TorchRuntime) -> None:
    lists = [feeds_of(1 + index % 2, 128, 160, seed=index) for index in range(4)]
    expected = [runtime.detect(feeds) for feeds in lists]
    wrong: list[str] = []

    def work(index: int) -> None:
        for _ in range(20):
            found = runtime.detect(lists[index])
            if not np.allclose(found["scores"], expected[index]["scores"], atol=1e-4):
                wrong.append(f"thread {index}")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_two_models_may_capture_at_once() -> None:
    opened = [on_gpu(), open_torch(find_artifact("pcb"), device="cuda", threads=None, argument="")]
    shapes = [(1, 96 + 32 * index, 128) for index in range(6)]
    expected = [[one.detect(feeds_of(*shape)) for shape in shapes] for one in opened]
    wrong: list[str] = []

    def work(index: int) -> None:
        for _ in range(3):
            for shape, answer in zip(shapes, expected[index], strict=True):
                found = opened[index].detect(feeds_of(*shape))
                if not np.allclose(found["scores"], answer["scores"], atol=1e-4):
                    wrong.append(f"model {index} at {shape}")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and [one.graphs for one in opened] == [6, 6]
    for one in opened:
        one.close()


@pytest.mark.skipif(not CAN_COMPILE, reason="needs a C compiler and Python's headers, as torch.compile does")
@pytest.mark.filterwarnings("ignore")  # the compiler gives advice as warnings
def test_compiled_dense_parts_answer_alike(on_cpu: TorchRuntime) -> None:
    opened, feeds = on_gpu("compile"), boxes_of(feeds_of(2, 128, 160))
    expected = on_cpu.rescore(feeds)
    for _ in range(3):
        found = opened.rescore(feeds)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, atol=1e-3, err_msg=name)
    opened.close()


def test_twenty_loads_leave_memory_as_it_was() -> None:
    feeds = feeds_of(2, 128, 160)
    free, allocated = [], []
    for _ in range(20):
        opened = on_gpu("fp16")
        for _ in range(3):
            opened.detect(feeds)
            opened.rescore(boxes_of(feeds))
        assert opened.graphs == 2
        opened.close()
        del opened
        gc.collect()
        torch.cuda.empty_cache()
        free.append(torch.cuda.mem_get_info()[0])
        allocated.append(torch.cuda.memory_allocated())
    # the first loads leave what a process has once: contexts, kernels, library workspaces
    assert allocated[-1] <= allocated[2] and free[-1] >= free[2] - SLACK
