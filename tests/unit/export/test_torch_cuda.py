"""What the CUDA path does around the kernels: packing, buckets, slots. Its GPU is pretended by the CPU here.

On a GPU: tests/unit/export/test_torch_gpu.py.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from export import torch_cuda, torch_failures
from export.torch_cuda import CudaExecutor, Lane
from export.torch_dense import dense_context
from export.torch_graphs import MEETINGS_WHEN_FULL, GraphCache
from export.torch_options import TorchOptions, parse_options
from export.torch_packing import Layout, layout_of, packed
from export.torch_runtime import TorchRuntime
from hindsight.api import Detector
from hindsight.artifact import find_artifact
from hindsight.decode import DEFAULT_LIMITS
from hindsight.errors import DeviceLost, OutOfMemory, RuntimeFailure
from model.kernels.compile import KernelError
from tests.parity.exporting import feeds_of

CPU = torch.device("cpu")


def some_arrays(rows: int = 3) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(rows)
    return {
        "images": rng.integers(0, 256, (rows, 5, 7, 3), dtype=np.uint8),
        "sizes": rng.integers(0, 9, (rows, 2)),
        "limit": rng.random(1, dtype=np.float32),
    }


def test_inputs_come_out_as_they_went_in() -> None:
    arrays = some_arrays()
    layout = layout_of(arrays)
    assert layout == layout_of(some_arrays()) != layout_of(some_arrays(2))
    assert hash(layout) == hash(layout_of(some_arrays()))
    buffer = np.zeros(layout.bytes, np.uint8)
    for name, place in layout.arrays(buffer).items():
        np.copyto(place, arrays[name])
    tensors = layout.tensors(torch.from_numpy(buffer))
    assert list(tensors) == list(arrays)
    for name, values in arrays.items():
        assert np.array_equal(tensors[name].numpy(), values)
        assert tensors[name].storage_offset() * tensors[name].element_size() % 256 == 0


def test_outputs_come_out_as_they_went_in() -> None:
    outputs = {
        "scores": torch.rand(2, 3),
        "count": torch.tensor([3, 1]),
        "boxes": torch.rand(2, 4, 3).transpose(1, 2),
        "half": torch.rand(5).half(),
    }
    buffer, layout = packed(outputs)
    assert buffer.numel() == layout.bytes == sum(v.numel() * v.element_size() for v in outputs.values())
    found = layout.arrays(buffer.numpy())
    assert found.keys() == outputs.keys()
    for name, values in outputs.items():
        assert np.array_equal(found[name], values.numpy()) and found[name].dtype == values.numpy().dtype


def test_a_type_that_no_graph_takes_is_refused() -> None:
    with pytest.raises(ValueError, match="got complex64"):
        layout_of({"z": np.zeros(2, np.complex64)})


class Counted:
    """A bucket that knows whether its memory is held."""

    held = 0
    pool = None

    def __init__(self) -> None:
        Counted.held += 1

    def run(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Layout]:
        raise NotImplementedError

    def drop(self) -> None:
        Counted.held -= 1


def cache_of(limit: int, calls: list[str]) -> GraphCache:
    Counted.held = 0
    return GraphCache(
        limit, before_drop=lambda: calls.append("wait"), after_drop=lambda: calls.append("free")
    )


def test_a_bucket_is_captured_when_it_comes_again() -> None:
    cache = cache_of(2, [])
    assert cache.get("a", Counted) is None
    graph = cache.get("a", Counted)
    assert graph is not None and cache.get("a", Counted) is graph
    assert len(cache) == Counted.held == 1


def test_the_least_recently_used_bucket_makes_room() -> None:
    calls: list[str] = []
    cache = cache_of(2, calls)
    for bucket in ("a", "a", "b", "b", "a"):
        cache.get(bucket, Counted)
    kept = cache.get("a", Counted)
    for _ in range(MEETINGS_WHEN_FULL - 1):
        assert cache.get("c", Counted) is None and calls == []
    assert cache.get("c", Counted) is not None
    assert calls == ["wait", "free"] and Counted.held == len(cache) == 2
    assert cache.get("a", Counted) is kept
    assert cache.clear() and Counted.held == len(cache) == 0 and not cache.clear()


def test_no_graphs_where_none_are_wanted() -> None:
    cache = cache_of(0, [])
    assert [cache.get("a", Counted) for _ in range(3)] == [None] * 3


def test_graphs_give_way_where_memory_is_short(caplog: pytest.LogCaptureFixture) -> None:
    cache = cache_of(9, [])
    for bucket in ("a", "a", "b"):
        cache.get(bucket, Counted)

    def greedy() -> Counted:
        if Counted.held:
            raise torch.OutOfMemoryError("no room")
        return Counted()

    assert cache.get("b", greedy) is not None and len(cache) == Counted.held == 1
    assert cache.get("a", greedy) is None  # it begins anew

    def hopeless() -> Counted:
        raise torch.OutOfMemoryError("no room")

    assert [cache.get("c", hopeless) for _ in range(3)] == [None] * 3
    assert "too little GPU memory" in caplog.text and len(cache) == 0


def test_what_cannot_be_captured_runs_without_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    cache = cache_of(9, [])
    attempts = []

    def impossible() -> Counted:
        attempts.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    assert [cache.get("a", impossible) for _ in range(4)] == [None] * 4
    assert len(attempts) == 1 and caplog.text.count("not permitted") == 1


class FakeStream:
    def wait_event(self, event: Any) -> None:
        assert event.recorded

    def synchronize(self) -> None:
        pass


class FakeEvent:
    waits = 0

    def __init__(self) -> None:
        self.recorded = False

    def record(self, stream: FakeStream) -> None:
        self.recorded = True

    def synchronize(self) -> None:
        assert self.recorded
        FakeEvent.waits += 1


class Rerun:
    """A graph's contract: inputs of its own, outputs that the next run overwrites."""

    pools: ClassVar[list[object]] = []  # what each was told to share

    def __init__(
        self, function: Callable[..., Any], inputs: Mapping[str, Tensor], stream: Any, pool: Any
    ) -> None:
        Rerun.pools.append(pool)
        self.pool = pool or object()
        self.function, self.inputs = function, {name: values.clone() for name, values in inputs.items()}
        self.outputs, self.layout = packed(function(self.inputs))

    def run(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Layout]:
        for name, values in self.inputs.items():
            values.copy_(inputs[name])
        self.outputs.copy_(packed(self.function(self.inputs))[0])
        return self.outputs, self.layout

    def drop(self) -> None:
        self.inputs.clear()


@pytest.fixture(autouse=True)
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeEvent.waits = 0
    Rerun.pools.clear()
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(Tensor, "pin_memory", Tensor.clone)
    monkeypatch.setattr(Tensor, "record_stream", lambda values, stream: None)
    lane = Lane(cast(Any, FakeStream()), cast(Any, FakeStream()), threading.Lock())
    monkeypatch.setattr(torch_cuda, "lane_of", lambda device: lane)
    monkeypatch.setattr(torch_cuda, "_pinned", lambda count: torch.empty(count, dtype=torch.uint8))
    monkeypatch.setattr(torch_cuda, "CapturedGraph", Rerun)


def summed(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        "sums": inputs["images"].float().sum(dim=(1, 2, 3)) + inputs["limit"],
        "sizes": inputs["sizes"] + inputs.get("more", 0),
    }


@contextlib.contextmanager
def nothing() -> Iterator[None]:
    yield


def executor(function: Callable[..., Any] = summed, graphs: int = 4) -> CudaExecutor:
    return CudaExecutor(CPU, {"sum": function}, nothing, graphs)


def assert_right(
    found: Mapping[str, NDArray[Any]], arrays: Mapping[str, NDArray[Any]], more: int = 0
) -> None:
    np.testing.assert_allclose(
        found["sums"], arrays["images"].sum(axis=(1, 2, 3)) + arrays["limit"], rtol=1e-6
    )
    assert np.array_equal(found["sizes"], arrays["sizes"] + more)


@pytest.mark.parametrize("graphs", [0, 1, 4])
def test_batches_of_changing_shape_with_one_wait_each(graphs: int) -> None:
    ours = executor(graphs=graphs)
    for count, rows in enumerate((3, 3, 3, 2, 2, 8, 8, 1, 3, 2), start=1):
        arrays = some_arrays(rows)
        assert_right(ours.run("sum", arrays), arrays)
        assert FakeEvent.waits == count
    assert ours.captured == min(graphs, 3)


@pytest.mark.parametrize("search", [False, True])
def test_cudnn_searches_only_where_it_is_asked_to(search: bool) -> None:
    """A search takes seconds for each new shape: no request of a stream of photos may wait for that."""
    options = parse_options("search" if search else "")
    with dense_context(torch.device("cuda", 0), options):
        assert torch.backends.cudnn.benchmark is search


def test_graphs_share_one_pool_for_as_long_as_there_are_any() -> None:
    ours = executor()
    for rows in (3, 3, 2, 2, 5, 5):
        ours.run("sum", some_arrays(rows))
    first, *others = Rerun.pools
    assert first is None and len(set(map(id, others))) == 1 and None not in others
    ours._graphs.clear()  # torch gives the pool up with its last graph: its handle must not be used again
    for _ in range(2):
        ours.run("sum", some_arrays(2))
    assert Rerun.pools[-1] is None and ours.captured == 1


def test_a_stream_of_photos_of_any_shape_captures_few_buckets() -> None:
    ours, rng = executor(graphs=4), np.random.default_rng(0)
    for _ in range(600):
        arrays = some_arrays(int(rng.integers(1, 60)))
        assert_right(ours.run("sum", arrays), arrays)
    assert ours.captured == 4 and len(Rerun.pools) < 8


def test_inputs_that_lie_on_the_device_already() -> None:
    ours, arrays = executor(), some_arrays()
    for more in range(4):
        assert_right(ours.run("sum", arrays, {"more": torch.tensor(more)}), arrays, more)
    assert ours.captured == 1


def test_two_batches_may_be_under_way_and_each_gets_its_own_answer() -> None:
    ours = executor()
    lists = [some_arrays(rows) for rows in (2, 2, 2, 5)]
    for first, second in pairwise(lists):
        pending = [ours.submit("sum", first), ours.submit("sum", second)]
        results = [part.result() for part in pending]
        assert_right(results[0], first)
        assert_right(results[1], second)
    with pytest.raises(ValueError, match="taken already"):
        pending[0].result()


def test_many_threads() -> None:
    ours = executor()
    wrong = []

    def work(rows: int) -> None:
        for _ in range(20):
            arrays = some_arrays(rows)
            try:
                assert_right(ours.run("sum", arrays), arrays)
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(rows,)) for rows in (1, 2, 3, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_failed_batch_leaves_the_next_its_place() -> None:
    def broken(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if len(inputs["images"]) == 2:
            raise RuntimeError("as asked")
        return summed(inputs)

    ours = executor(broken, graphs=0)
    for _ in range(5):
        with pytest.raises(RuntimeError, match="as asked"):
            ours.run("sum", some_arrays(2))
        assert_right(ours.run("sum", some_arrays()), some_arrays())


ILLEGAL = "CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA`"
NO_MEMORY = "CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"


def with_code(error: Exception, code: int) -> Exception:
    error.error_code = code  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize("old_torch", [False, True], ids=["torch 2.8 on", "torch 2.6 and 2.7"])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.AcceleratorError(ILLEGAL), DeviceLost),
        (with_code(torch.AcceleratorError("CUDA error: whatever"), 700), DeviceLost),
        (RuntimeError(ILLEGAL), DeviceLost),
        (RuntimeError("CUDA error: unspecified launch failure"), DeviceLost),
        (KernelError("launching roi_align: the CUDA driver says CUDA_ERROR_MISALIGNED_ADDRESS"), DeviceLost),
        (with_code(torch.AcceleratorError(NO_MEMORY), 2), OutOfMemory),
        (RuntimeError(NO_MEMORY), OutOfMemory),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), OutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), OutOfMemory),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), OutOfMemory),
        (with_code(torch.AcceleratorError("CUDA error: invalid argument"), 1), RuntimeFailure),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), RuntimeFailure),
        (KernelError("roi_align.cu does not compile"), RuntimeFailure),
    ],
)
def test_what_stays_with_the_process_loses_the_device(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[Exception], old_torch: bool
) -> None:
    """Torch before 2.8 has no class for it: there the words tell."""
    if old_torch:
        if isinstance(error, torch.AcceleratorError) and "whatever" in str(error):
            error = RuntimeError(ILLEGAL)  # there is no number to go by
        monkeypatch.setattr(torch_failures, "_OF_CUDA", ())
    found = torch_failures.failure_of(error, "torch failed")
    assert type(found) is expected
    assert str(found).startswith("torch failed: ") and "\n" not in str(found)


def test_a_kernel_of_ours_that_cannot_be_launched_loses_the_device() -> None:
    runtime = TorchRuntime(find_artifact("cells"), CPU, TorchOptions())

    def broken(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise KernelError("launching roi_align: the CUDA driver says CUDA_ERROR_ILLEGAL_ADDRESS")

    runtime._functions["detect"] = broken
    with pytest.raises(DeviceLost, match="torch failed: launching roi_align"):
        runtime.detect(feeds_of(1, 32, 32))


def test_the_device_is_lost_while_letterboxing_too() -> None:
    photo, runtime = (
        np.zeros((32, 32, 3), np.uint8),
        TorchRuntime(find_artifact("cells"), CPU, TorchOptions()),
    )
    ours = executor()
    ours.to_device = broken_copy  # type: ignore[method-assign]
    with pytest.raises(DeviceLost, match="torch cannot letterbox: CUDA error: an illegal"):
        runtime._preprocessor(ours).detect([photo], {}, DEFAULT_LIMITS)


def broken_copy(arrays: Any) -> list[Tensor]:
    raise RuntimeError(ILLEGAL)


def test_a_closed_executor_empties_torchs_cache_while_nobody_captures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, held = executor(), []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: held.append(ours._lock.locked()))
    ours.close()
    assert held and all(held)


def test_what_is_closed_leaves_no_cycle_behind() -> None:
    """A compiled method refers to its module, and the module to it."""

    class Detector:
        def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return summed(inputs)

    detector = Detector()
    detector.compiled = detector.run  # type: ignore[attr-defined]
    ours, alive = executor(detector.compiled), weakref.ref(detector)  # type: ignore[attr-defined]
    del detector
    assert alive() is not None
    ours.close()
    assert alive() is None


def test_graphs_give_their_memory_to_a_batch_that_needs_it() -> None:
    def hungry(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if len(inputs["images"]) == 8 and ours.captured:
            raise torch.OutOfMemoryError("no room")
        return summed(inputs)

    ours = executor(hungry)
    for _ in range(2):
        ours.run("sum", some_arrays())
    assert ours.captured == 1
    assert_right(ours.run("sum", some_arrays(8)), some_arrays(8))
    assert ours.captured == 0
    ours.close()


def test_the_runtime_answers_the_same_through_it() -> None:
    artifact = find_artifact("cells")
    plain = TorchRuntime(artifact, CPU, TorchOptions())
    runtime = TorchRuntime(artifact, CPU, TorchOptions())
    assert runtime.graphs == 0 and runtime.preprocessor is None
    # what the constructor does for a CUDA device
    runtime._executor = CudaExecutor(CPU, runtime._functions, runtime._context, 4)
    runtime.preprocessor = runtime._preprocessor(runtime._executor)
    for seed in range(3):
        feeds = feeds_of(2, 64, 96, seed)
        for name, values in plain.detect(feeds).items():
            assert np.array_equal(runtime.detect(feeds)[name], values), name
    assert runtime.graphs == 1
    photo = artifact.samples[0]
    expected = Detector(artifact, plain).detect(photo)
    for _ in range(3):
        found = Detector(artifact, runtime).detect(photo)
        assert np.array_equal(found.boxes, expected.boxes) and np.array_equal(found.scores, expected.scores)
    assert runtime.graphs == 2
    runtime.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        runtime.detect(feeds_of(2, 64, 96))
