"""The CUDA implementations on a GPU against the torch operators on the CPU, and what graphs ask of them.

python -m pytest -m gpu tests/unit/kernels
compute-sanitizer --tool memcheck python -m pytest -m gpu tests/unit/kernels   (racecheck, synccheck too)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from model.ops import batched_nms, iou_guided_nms, launchers, multilevel_roi_align, soft_nms
from tests.unit.kernels.lists import ABSENT, THRESHOLDS, coarse, crowd, degenerate
from tests.unit.kernels.test_host_nms import some_ious
from tests.unit.kernels.test_host_roi_align import (
    CONVENTIONS,
    STRIDES,
    TOLERANCE,
    TYPES,
    feature_maps,
    some_boxes,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use"),
]


@pytest.fixture(autouse=True)
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Kernels launched in the test: there must be some, so that no torch form answers in their place."""
    names: list[str] = []
    launch = launchers.launch

    def counted(source: str, kernel: str, *args: Any) -> None:
        names.append(kernel)
        launch(source, kernel, *args)

    monkeypatch.setattr(launchers, "launch", counted)
    yield names
    assert names, "no kernel was launched"


def on_gpu(value: Any) -> Any:
    if isinstance(value, list):
        return [on_gpu(item) for item in value]
    return value.cuda() if isinstance(value, Tensor) else value


def both(operator: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """On the GPU, brought back, and on the CPU."""
    found = operator(*on_gpu(list(args)))
    back = tuple(part.cpu() for part in found) if isinstance(found, tuple) else found.cpu()
    return back, operator(*args)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("make", [crowd, coarse])
def test_suppression_is_bit_for_bit_torchs(make: Callable[..., Any], threshold: float) -> None:
    limit = torch.tensor([threshold])
    for seed, shape in enumerate(
        [(80, 8, 7), (8, 5, 40), (2, 3, 64), (2, 3, 65), (1, 2, 1000), (300, 1, 600)]
    ):
        boxes, scores = make(seed, *shape)
        found, expected = both(batched_nms, boxes, scores, limit)
        assert torch.equal(found, expected)
        if shape[0] == 300:
            continue  # torch's form of the others is slow
        guided, wanted = both(iou_guided_nms, boxes, scores, some_ious(seed, boxes, 6), limit)
        assert torch.equal(guided[0], wanted[0]) and torch.equal(guided[1], wanted[1])
        within = torch.where(scores > ABSENT, scores.clamp(0, 1), ABSENT)
        found, expected = both(soft_nms, boxes, within, limit, "linear", 0.5, 0.001, 50)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", degenerate())
def test_degenerate_lists(name: str) -> None:
    boxes, scores = degenerate()[name]
    for threshold in THRESHOLDS:
        limit = torch.tensor([threshold])
        found, expected = both(batched_nms, boxes, scores, limit)
        assert torch.equal(found, expected)
        found, expected = both(soft_nms, boxes, scores, limit, "linear", 0.5, 0.001, 100)
        assert torch.equal(found, expected)
        if not scores.isnan().any():
            found, expected = both(iou_guided_nms, boxes, scores, some_ious(1, boxes, 9), limit)
            assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_gaussian_decay_up_to_its_exponential() -> None:
    for seed, shape in enumerate([(20, 8, 7), (4, 5, 40), (1, 3, 300)]):
        args = (*crowd(seed, *shape), torch.tensor([0.3]), "gaussian", 0.5, 0.001, 60)
        found, expected = both(soft_nms, *args)
        assert torch.equal(found > ABSENT, expected > ABSENT)
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("count", [4000, 4097, 20_480], ids=["shared memory", "workspace", "class-agnostic"])
def test_long_lists_give_the_same_every_time(count: int) -> None:
    boxes, _ = crowd(7, 1, 1, count, side=600.0)
    scores = torch.rand(1, 1, count, generator=torch.Generator().manual_seed(1))
    found, expected = both(batched_nms, boxes, scores, torch.tensor([0.5]))
    assert torch.equal(found, expected)
    args = on_gpu([boxes, scores, torch.tensor([0.5])])
    for _ in range(20):
        assert torch.equal(batched_nms(*args).cpu(), expected)


@pytest.mark.parametrize(("aligned", "ratio"), CONVENTIONS)
@pytest.mark.parametrize("channels_last", [True, False], ids=["vector", "strided"])
@pytest.mark.parametrize(("dtype", "out"), TYPES)
def test_roi_align_in_every_type_and_layout(
    launched: list[str], dtype: torch.dtype, out: torch.dtype, channels_last: bool, aligned: bool, ratio: int
) -> None:
    for channels, size in [(256, 7), (72, 14), (16, 3)]:
        features = feature_maps(dtype, channels=channels, channels_last=channels_last)
        boxes = some_boxes(size, 200)
        wide = [feature.float() for feature in features]
        expected = multilevel_roi_align(wide, boxes, STRIDES, size, ratio, aligned)
        on_device = [f.cuda() for f in features]  # keeps the layout
        if out == dtype:
            found = multilevel_roi_align(on_device, boxes.cuda(), STRIDES, size, ratio, aligned)
        else:
            queue = launchers.Queue(0, torch.cuda.current_stream().cuda_stream)
            found = launchers.roi_align(on_device, boxes.cuda(), STRIDES, size, ratio, aligned, queue, out)
        assert found.dtype == out and ("vector" in launched[-1]) == channels_last and found.is_contiguous()
        relative, absolute = TOLERANCE[out]
        torch.testing.assert_close(found.cpu().float(), expected, rtol=relative, atol=absolute)


def test_boxes_that_are_no_boxes_pool_zeros_and_hang_nothing() -> None:
    nan, infinite = float("nan"), float("inf")
    boxes = torch.tensor([[[nan, 0, 9, 9], [0, 0, infinite, infinite], [-1e30, -1e30, 1e30, 1e30]]])
    features = on_gpu(feature_maps(torch.float16, batch=1))
    for aligned, ratio in CONVENTIONS:
        assert not multilevel_roi_align(features, boxes.cuda(), STRIDES, 7, ratio, aligned).any()


def every_operator() -> tuple[Callable[[], tuple[Tensor, ...]], list[Tensor]]:
    """A call of each on inputs that stay where they are, and those inputs."""
    boxes, scores = (part.cuda() for part in crowd(3, 2, 4, 300))
    ious, limit = some_ious(3, boxes.cpu(), 50).cuda(), torch.tensor([0.5], device="cuda")
    features = on_gpu(feature_maps(torch.float16, channels=64))

    def call() -> tuple[Tensor, ...]:
        return (
            multilevel_roi_align(features, boxes, STRIDES, 7, 2, False),
            batched_nms(boxes, scores, limit),
            *iou_guided_nms(boxes, scores, ious, limit),
            soft_nms(boxes, scores, limit, "gaussian", 0.5, 0.001, 50),
        )

    return call, [boxes, scores, limit]


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # torch says that it is a prototype
def test_no_operator_waits_for_the_gpu() -> None:
    call, _ = every_operator()
    call()  # compiles and loads
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_graph_captures_them_and_replays_on_new_inputs() -> None:
    call, (boxes, scores, limit) = every_operator()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for seed in range(3):
        new_boxes, new_scores = crowd(20 + seed, 2, 4, 300)
        boxes.copy_(new_boxes)
        scores.copy_(new_scores)
        limit.fill_(0.3 + 0.2 * seed)
        graph.replay()
        replayed = [part.clone() for part in captured]
        for found, expected in zip(replayed, call(), strict=True):
            assert torch.equal(found, expected)


def test_a_new_thread_and_another_stream_launch_too() -> None:
    call, _ = every_operator()
    expected = call()
    results: list[tuple[Tensor, ...]] = []

    def work() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            results.append(call())
            torch.cuda.current_stream().synchronize()

    torch.cuda.synchronize()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert all(torch.equal(a, b) for a, b in zip(results[0], expected, strict=True))


def test_torch_agrees_with_the_operators_contracts() -> None:
    boxes, scores = (part.cuda() for part in crowd(0, 2, 3, 20))
    turned = scores.transpose(1, 2).contiguous().transpose(1, 2)
    limit, ious = torch.tensor([0.5], device="cuda"), torch.rand(2, 20, device="cuda")
    operators = torch.ops.hindsight
    torch.library.opcheck(operators.batched_nms, (boxes, turned, limit))
    torch.library.opcheck(operators.iou_guided_nms, (boxes, turned, ious, limit))
    torch.library.opcheck(operators.soft_nms, (boxes, turned, limit, "linear", 0.5, 0.001, 9))
    features = on_gpu(feature_maps(torch.float16))
    torch.library.opcheck(operators.multilevel_roi_align, (features, boxes, STRIDES, 7, 2, False))
