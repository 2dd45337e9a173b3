"""How whole detectors are measured: wall-clock of calls, host synchronisations, kernels, memory, the ceiling.

Everything runs on the CPU too, at toy size, so that the script is known to work before a GPU is rented; what
only a GPU has is None there.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], object]
Row = dict[str, Any]
_WARM_UP, _LEAST_REPEATS, _MOST_REPEATS = 3, 5, 100
_SYNC_WARNING = "synchronizing CUDA operation"
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def synchronise(device: str) -> None:
    """Wait for the GPU; nothing to wait for on a CPU."""
    if device != "cpu":
        torch.cuda.synchronize()


def time_calls(call: Call, device: str, images: int, seconds: float) -> Row:
    """Milliseconds of one call waited for (median, ninth decile), and images a second of calls in a row.

    `seconds`: about how long either takes; at least 5 calls (2 on the CPU), at most 100.
    """
    for _ in range(_WARM_UP if device != "cpu" else 1):
        call()
    synchronise(device)
    one = _elapsed(call, device)
    least = _LEAST_REPEATS if device != "cpu" else 2
    repeats = max(least, min(_MOST_REPEATS, int(seconds / max(one, 1e-6))))
    times = sorted(_elapsed(call, device) for _ in range(repeats))
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronise(device)
    in_a_row = time.perf_counter() - begin
    return {
        "milliseconds": round(1e3 * statistics.median(times), 3),
        "milliseconds_p90": round(1e3 * times[(len(times) * 9) // 10], 3),
        "images_per_second": round(images * repeats / in_a_row, 2),
        "calls": repeats,
    }


def time_pipeline(submit: Callable[[], Any], device: str, images: int, seconds: float) -> Row:
    """As `time_calls`, of batches that cross from host memory to the GPU and back: each waited for, and with
    two under way. `submit`: begins a batch; its `result()` waits for it.
    """
    timed = time_calls(lambda: submit().result(), device, images, seconds)
    under_way = deque([submit()])
    begin = time.perf_counter()
    for _ in range(timed["calls"]):
        under_way.append(submit())
        under_way.popleft().result()
    timed["images_per_second"] = round(images * timed["calls"] / (time.perf_counter() - begin), 2)
    under_way.popleft().result()
    return timed


def _elapsed(call: Call, device: str) -> float:
    begin = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - begin


def host_syncs(call: Call, device: str) -> int | None:
    """How often one call makes the host wait for the GPU, as torch's debug mode counts."""
    if device == "cpu":
        return None
    call()
    synchronise(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum(_SYNC_WARNING in str(warning.message) for warning in caught)


def peak_megabytes(call: Call, device: str) -> float | None:
    """Most memory that torch's allocator held during one call, weights included."""
    if device == "cpu":
        return None
    torch.cuda.reset_peak_memory_stats()
    call()
    synchronise(device)
    return round(torch.cuda.max_memory_allocated() / 1e6, 1)


def top_kernels(call: Call, device: str, count: int = 10) -> list[Row]:
    """The kernels (on a CPU: the operators) that take longest in a call, with their share of all of them."""
    on_gpu = device != "cpu"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    calls = 3 if on_gpu else 1
    call()
    synchronise(device)
    # acc_events: there is one cycle only; torch 2.11 warns unless told
    with profile(activities=activities, acc_events=True) as recorded:
        for _ in range(calls):
            call()
        synchronise(device)
    found = []
    for event in recorded.key_averages():
        ours = str(event.device_type).endswith("CUDA") if on_gpu else True
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if ours and microseconds > 0:
            found.append((microseconds / calls, event.count / calls, event.key))
    whole = sum(row[0] for row in found)
    return [
        {
            "name": name[:160],
            "milliseconds": round(microseconds / 1e3, 4),
            "launches": round(launches, 1),
            "share": round(microseconds / whole, 4),
        }
        for microseconds, launches, name in sorted(found, reverse=True)[:count]
    ]


def product_ceiling(device: str, side: int, seconds: float) -> list[Row]:
    """TFLOP/s of square matrix products of random numbers: the limit that detectors are held against."""
    rows = []
    plans = [("fp32", False), ("tf32", True), ("fp16", False), ("bf16", False)]
    for name, tf32 in plans if device != "cpu" else [("fp32", False), ("bf16", False)]:
        dtype = PRECISIONS.get(name, torch.float32)
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        try:
            timed = time_calls(lambda a=a, b=b: a @ b, device, 1, seconds)  # type: ignore[misc]
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
        rows.append(
            {
                "precision": name,
                "side": side,
                "teraflops": round(2 * side**3 * timed["images_per_second"] / 1e12, 6),
                "milliseconds": timed["milliseconds"],
            }
        )
    return rows


def captured(call: Call) -> tuple[Call, object]:
    """(a replay of `call` as a CUDA graph, what it writes to).

    Raises RuntimeError where that cannot be: something in it waits for the GPU, or comes from the host.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call()
    return graph.replay, outputs
