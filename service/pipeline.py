"""One image's way through the service: decode and letterbox -> queue -> engine -> split, with the time of
each stage.
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from starlette.requests import Request

from hindsight.artifact import Artifact
from hindsight.boxes import check_boxes
from hindsight.detections import Detections, Rescored
from hindsight.errors import HindsightError
from hindsight.options import DetectOptions
from hindsight.postprocess import split_detections, split_rescored
from hindsight.preprocess import boxes_to_input
from service.batcher import Batcher, Done, Slot
from service.body import BodyBudget, Item
from service.decode import CpuPool, Prepared
from service.engine import Engine
from service.errors import ClientDisconnected, DeadlineExceeded
from service.metrics import Metrics
from service.registry import ModelRegistry
from service.settings import Settings
from service.tracing import record_image
from service.work import Work, round_nms_threshold

T = TypeVar("T")


@dataclass(frozen=True)
class Services:
    """Everything the routes use; one per app, at `app.state.services`."""

    settings: Settings
    registry: ModelRegistry
    engines: list[Engine]
    batcher: Batcher
    pool: CpuPool
    metrics: Metrics
    budget: BodyBudget


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


@dataclass(frozen=True)
class Detected:
    """`stages`: milliseconds by stage."""

    detections: Detections
    stages: dict[str, float]


@dataclass(frozen=True)
class Judged:
    """`rescored`: opinions in the order of the boxes; `image_hw` of the original; `stages`: milliseconds by
    stage.
    """

    rescored: Rescored
    image_hw: tuple[int, int]
    stages: dict[str, float]


async def detect_image(
    services: Services, artifact: Artifact, options: DetectOptions, item: Item, slot: Slot
) -> Detected:
    """Detect on one encoded image. Raises HindsightError; gives the slot back in every case."""
    try:
        if isinstance(item, HindsightError):
            raise item
        deadline = time.monotonic() + services.settings.timeout
        manifest = artifact.manifest
        prepared = await _prepare(services, item, artifact, deadline)
        batchable = replace(options, nms_threshold=round_nms_threshold(options.nms_threshold))
        work = Work(artifact, "detect", prepared.image, batchable)
        done = await services.batcher.submit(work, slot, deadline)
        start = time.perf_counter()
        detections = split_detections(done.outputs, done.index, prepared.image, manifest, options)
        split_seconds = time.perf_counter() - start
    finally:
        slot.release()
    stages = _stages(services, work, prepared, done, split_seconds)
    return Detected(detections, stages)


async def rescore_image(
    services: Services, artifact: Artifact, data: bytes, boxes: list[Any], slot: Slot
) -> Judged:
    """A second opinion on `boxes` ([n, 4] xyxy, pixels of the upright image). Raises HindsightError; gives
    the slot back.
    """
    try:
        deadline = time.monotonic() + services.settings.timeout
        manifest = artifact.manifest
        prepared = await _prepare(services, data, artifact, deadline)
        boxed = prepared.image
        checked = check_boxes(boxes, boxed.original_hw, max_boxes=manifest.max_rescore_boxes)
        work = Work(artifact, "rescore", boxed, boxes=boxes_to_input(checked, boxed))
        done = await services.batcher.submit(work, slot, deadline)
        start = time.perf_counter()
        rescored = split_rescored(done.outputs, done.index, len(checked), manifest.class_names)
        split_seconds = time.perf_counter() - start
    finally:
        slot.release()
    stages = _stages(services, work, prepared, done, split_seconds)
    return Judged(rescored, boxed.original_hw, stages)


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; if the client leaves first, `work` is cancelled, wherever it is. The body must
    have been read.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watcher = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnected("the client left before its answer was ready")
    finally:
        watcher.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _prepare(services: Services, data: bytes, artifact: Artifact, deadline: float) -> Prepared:
    try:
        return await services.pool.prepare(data, artifact.manifest.resize, deadline)
    except DeadlineExceeded:
        services.metrics.drops.labels(artifact.manifest.name, "deadline").inc()
        raise


def _stages(services: Services, work: Work, prepared: Prepared, done: Done, split: float) -> dict[str, float]:
    """Count one answered image and its seconds by stage; -> milliseconds by stage."""
    seconds = {
        "decode": prepared.decode_seconds,
        "letterbox": prepared.letterbox_seconds,
        "queue": done.queue_seconds,
        "transfer": done.transfer_seconds,
        "model": done.model_seconds,
        "postprocess": split,
    }
    model = work.artifact.manifest.name
    services.metrics.images.labels(model, work.operation).inc()
    for stage, value in seconds.items():
        services.metrics.stage_seconds.labels(model, stage).observe(value)
    record_image(model, work.operation, seconds)
    return {stage: round(value * 1000, 3) for stage, value in seconds.items()}
