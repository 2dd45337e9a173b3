"""Times of calls on a GPU, and what they say beside the bandwidth of a copy.

Single calls between CUDA events, warmed up, each after a write that flushes the second-level cache; the
median counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

Timed = dict[str, Any]


class Clock:
    """Milliseconds of single calls on the GPU."""

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats
        cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0)
        self._flush = torch.empty(max(4 * cache, 256 * 2**20), dtype=torch.uint8, device="cuda")

    def __call__(self, call: Callable[[], object]) -> Timed:
        for _ in range(5):
            call()
        torch.cuda.synchronize()
        events = []
        for _ in range(self.repeats):
            self._flush.zero_()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            events.append((begin, end))
        torch.cuda.synchronize()
        times = sorted(begin.elapsed_time(end) for begin, end in events)
        return {
            "milliseconds": round(statistics.median(times), 5),
            "least": round(times[0], 5),
            "ninth_decile": round(times[int(0.9 * len(times))], 5),
        }

    def graphed(self, call: Callable[[], object]) -> Timed:
        """Replays of a CUDA graph: what a call costs without its launches from Python."""
        call()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return self(graph.replay)


def copy_bandwidth(clock: Clock) -> float:
    """Bytes a second, read and written, of a copy of 1 GiB."""
    source = torch.zeros(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    milliseconds: float = clock(lambda: target.copy_(source))["least"]
    return 2 * source.numel() / (milliseconds / 1e3)


def figure_of(
    name: str, moved: int, ours: Callable[[], object], clock: Clock, **peers: Callable[[], object]
) -> Timed:
    """One row: ours, eager and as a graph, and each peer with how many times it takes ours."""
    figure: Timed = {"name": name, "bytes": moved, "ours": clock(ours), "ours_graph": clock.graphed(ours)}
    for label, peer in peers.items():
        taken = clock(peer)
        figure[label] = taken | {
            "over_ours": round(taken["milliseconds"] / figure["ours"]["milliseconds"], 2)
        }
    return figure


def line_of(figure: Timed) -> str:
    peers = [f"{k} x{v['over_ours']}" for k, v in figure.items() if isinstance(v, dict) and "over_ours" in v]
    ours = f"{figure['ours']['milliseconds']:.3f} ms (graph {figure['ours_graph']['milliseconds']:.3f})"
    share = f"{figure['share_of_copy_bandwidth']:.0%} of copy bandwidth"
    return f"{figure['name']:44} {ours}, {share}; {', '.join(peers)}"
