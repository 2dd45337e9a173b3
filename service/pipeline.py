"""One image's way through the service: decode and letterbox -> queue -> engine -> split, with the time of
each stage.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from starlette.requests import Request

from hindsight.artifact import Artifact
from hindsight.boxes import check_boxes
from hindsight.detections import Detections, Rescored
from hindsight.errors import HindsightError, NonFiniteOutput
from hindsight.options import DetectOptions
from hindsight.postprocess import check_finite, split_detections, split_rescored
from hindsight.preprocess import Letterboxed, boxes_to_input
from service.admission import Slot
from service.batcher import Batcher, Done
from service.body import BodyBudget, BodyLease, Item, read_body
from service.callers import Caller
from service.decode import CpuPool, Prepared
from service.engine import Engine
from service.errors import BodyTimeout, Busy, ClientDisconnected, DeadlineExceeded
from service.inflight import Requests
from service.logs import log
from service.memory import ImageLease, ImageMemory
from service.metrics import Metrics
from service.model_control import ModelControl
from service.registry import ModelRegistry
from service.settings import Settings
from service.tracing import record_image
from service.visit import count_stages
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
    memory: ImageMemory
    requests: Requests
    control: ModelControl

    @property
    def ready(self) -> bool:
        """Whether new requests are welcome: a worker is there, and the server is not about to stop."""
        return self.batcher.ready and not self.requests.draining


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
    manifest = artifact.manifest
    with _place(services, slot) as lease:
        if isinstance(item, HindsightError):
            raise item
        prepared = await _prepare(services, item, artifact, slot, lease)
        batchable = replace(options, nms_threshold=round_nms_threshold(options.nms_threshold))
        work = Work(artifact, "detect", prepared.image, batchable)
        done = await services.batcher.submit(work, slot)
        start = time.perf_counter()
        with counting_bad_outputs(services, artifact):
            detections = split_detections(done.outputs, done.index, prepared.image, manifest, options)
        split_seconds = time.perf_counter() - start
    stages = _stages(services, work, prepared, done, split_seconds)
    return Detected(detections, stages)


async def detect_tensor(
    services: Services, artifact: Artifact, options: DetectOptions, image: Letterboxed, slot: Slot
) -> Done:
    """Detect on pixels that the client letterboxed: the model's own outputs, boxes in input pixels, all of
    them finite. Raises HindsightError; gives the slot back in every case.

    nms_threshold is not rounded. The pixels are those of the body, whose lease counts them.
    """
    try:
        work = Work(artifact, "detect", image, options)
        done = await services.batcher.submit(work, slot)
    finally:
        slot.release()
    with counting_bad_outputs(services, artifact):
        check_finite(done.outputs, done.index)
    _stages(services, work, None, done, 0.0)
    return done


async def rescore_image(
    services: Services, artifact: Artifact, data: bytes, boxes: list[Any], slot: Slot
) -> Judged:
    """A second opinion on `boxes` ([n, 4] xyxy, pixels of the upright image). Raises HindsightError; gives
    the slot back.
    """
    manifest = artifact.manifest
    with _place(services, slot) as lease:
        prepared = await _prepare(services, data, artifact, slot, lease)
        boxed = prepared.image
        checked = check_boxes(boxes, boxed.original_hw, max_boxes=manifest.max_rescore_boxes)
        work = Work(artifact, "rescore", boxed, boxes=boxes_to_input(checked, boxed))
        done = await services.batcher.submit(work, slot)
        start = time.perf_counter()
        with counting_bad_outputs(services, artifact):
            rescored = split_rescored(done.outputs, done.index, len(checked), manifest.class_names)
        split_seconds = time.perf_counter() - start
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


async def receive_body(
    services: Services,
    request: Request,
    caller: Caller,
    lease: BodyLease,
    model: str,
    encodings: tuple[str, ...] = ("identity",),
) -> bytes:
    """The body as it was sent, if there is any hope for it. encodings: see read_body. Raises what `admit` and
    read_body raise; BodyTimeout also where the deadline passes before the body is here.
    """
    services.batcher.check_room(caller, model=model)
    try:
        async with asyncio.timeout(max(0.0, caller.deadline - time.monotonic())):
            return await read_body(request, services.settings, lease, encodings)
    except TimeoutError:
        raise BodyTimeout(f"the body did not come within the request's time of {caller.limit:g} s") from None


@contextlib.contextmanager
def _place(services: Services, slot: Slot) -> Iterator[ImageLease]:
    """An image's memory, and its place, both given back at the end."""
    try:
        with services.memory.lease() as lease:
            yield lease
    finally:
        slot.release()


async def _prepare(
    services: Services, data: bytes, artifact: Artifact, slot: Slot, lease: ImageLease
) -> Prepared:
    with counting_drops(services, artifact, [slot]):
        async with slot.request.decoding:
            deadline = slot.request.caller.deadline
            return await services.pool.prepare(data, artifact.manifest.resize, deadline, lease)


@contextlib.contextmanager
def counting_drops(services: Services, artifact: Artifact, slots: Sequence[Slot]) -> Iterator[None]:
    """Around what happens to the images of `slots` before they are in the queue: why they never got there."""
    drops, model, images = services.metrics.drops, artifact.manifest.name, len(slots)
    try:
        yield
    except DeadlineExceeded:
        drops.labels(model, "deadline").inc(images)
        raise
    except Busy:
        drops.labels(model, "memory").inc(images)
        raise
    except asyncio.CancelledError:
        drops.labels(model, slots[0].cancelled_because).inc(images)
        raise


@contextlib.contextmanager
def counting_bad_outputs(services: Services, artifact: Artifact) -> Iterator[None]:
    """Around the making of an answer from what the model said."""
    try:
        yield
    except NonFiniteOutput as error:
        name = artifact.manifest.name
        services.metrics.bad_outputs.labels(name).inc()
        log(logging.ERROR, "bad output", model=name, reason=str(error))
        raise


def _stages(
    services: Services, work: Work, prepared: Prepared | None, done: Done, split: float
) -> dict[str, float]:
    """`note_stages` of one image. prepared: None where the client did that."""
    seconds = {
        "decode": 0.0 if prepared is None else prepared.decode_seconds,
        "letterbox": 0.0 if prepared is None else prepared.letterbox_seconds,
        "queue": done.queue_seconds,
        "transfer": done.transfer_seconds,
        "model": done.model_seconds,
        "postprocess": split,
    }
    return note_stages(services, work.model, work.operation, seconds)


def note_stages(
    services: Services, model: str, operation: str, seconds: dict[str, float], images: int = 1
) -> dict[str, float]:
    """Count one answered image, which went through the model as `images`, and its seconds by stage, in
    metrics, trace and log; -> milliseconds by stage.
    """
    services.metrics.images.labels(model, operation).inc(images)
    for stage, value in seconds.items():
        services.metrics.stage_seconds.labels(model, stage).observe(value)
    record_image(model, operation, seconds)
    milliseconds = {stage: round(value * 1000, 3) for stage, value in seconds.items()}
    count_stages(milliseconds)
    return milliseconds
