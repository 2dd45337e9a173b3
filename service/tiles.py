"""A large image's way through the service: decoded once and cut into tiles. Each of these waits, runs and is
charged as an image of its own; what they find is merged into the image's answer.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hindsight.artifact import Artifact
from hindsight.decode import footprint
from hindsight.detections import Detections
from hindsight.errors import CorruptImage, HindsightError, ImageError
from hindsight.manifest import ResizeRule
from hindsight.options import DetectOptions
from hindsight.postprocess import split_detections
from hindsight.preprocess import ImageLimits, Letterboxed, decode_image, letterbox, padded_hw, scaled_hw
from hindsight.tiling import Tiling, crop, merge
from service.admission import Slot
from service.batcher import Done
from service.body import Item
from service.errors import TooManyImages
from service.memory import ImageLease
from service.pipeline import (
    Detected,
    Services,
    counting_bad_outputs,
    counting_drops,
    note_stages,
)
from service.together import all_or_none
from service.work import Work, round_nms_threshold


def passes_of(items: Sequence[Item], tiling: Tiling, limits: ImageLimits, most: int) -> list[int]:
    """How many images the model will see for each item, from their headers; 1 for one that cannot be used,
    which will say so in its place. Raises TooManyImages where they are more than `most` together.
    """
    passes = [_passes(item, tiling, limits) for item in items]
    if sum(passes) > most:
        raise TooManyImages(
            f"tile {tiling.tile} with overlap {tiling.overlap:g} makes {sum(passes)} images of this request, "
            f"the tiles counted; at most {most} are accepted: ask for larger tiles or less overlap"
        )
    return passes


def _passes(item: Item, tiling: Tiling, limits: ImageLimits) -> int:
    try:
        # As stored, so perhaps turned; square tiles are as many either way.
        return 1 if isinstance(item, HindsightError) else tiling.count(footprint(item, limits).hw)
    except ImageError:
        return 1


async def detect_tiles(
    services: Services,
    artifact: Artifact,
    options: DetectOptions,
    tiling: Tiling,
    data: Item,
    slots: Sequence[Slot],
) -> Detected:
    """Detect on one encoded image, with a slot for each of its passes (`passes_of`); all of them must
    succeed. Raises HindsightError; gives the slots back in every case.
    """
    assert isinstance(data, bytes), "of anything else there is one pass, and it says what is wrong"
    with _places(services, slots) as lease:
        cut = await _cut(services, data, artifact, tiling, slots, lease)
        every = replace(
            options, nms_threshold=round_nms_threshold(options.nms_threshold), max_detections=None
        )
        works = [Work(artifact, "detect", image, every) for image in cut.images]
        done = await all_or_none(
            slots, [services.batcher.submit(work, slot) for work, slot in zip(works, slots, strict=True)]
        )
        start = time.perf_counter()
        with counting_bad_outputs(services, artifact):
            detections = await services.pool.run(_merged, cut, done, artifact, every, options.max_detections)
        seconds = {
            "decode": cut.decode_seconds,
            "letterbox": cut.letterbox_seconds,
            **_engine_seconds(done),
            "postprocess": time.perf_counter() - start,
        }
    return Detected(detections, note_stages(services, artifact.manifest.name, "detect", seconds, len(slots)))


@dataclass(frozen=True)
class _Cut:
    """A decoded image's windows (hindsight.tiling), letterboxed. The image itself is gone."""

    images: list[Letterboxed]
    windows: NDArray[np.int64]
    image_hw: tuple[int, int]
    decode_seconds: float
    letterbox_seconds: float


async def _cut(
    services: Services,
    data: bytes,
    artifact: Artifact,
    tiling: Tiling,
    slots: Sequence[Slot],
    lease: ImageLease,
) -> _Cut:
    rule, limits, request = artifact.manifest.resize, services.pool.limits, slots[0].request
    with counting_drops(services, artifact, slots):
        async with request.decoding:
            cut = await services.pool.run_in_memory(
                lease,
                request.caller.deadline,
                lambda: _memory_for(data, tiling, rule, limits),
                lambda: _decode_and_cut(data, tiling, rule, limits),
            )
    if len(cut.images) != len(slots):
        raise CorruptImage("the image has not the size that its header gives")
    lease.shrink(sum(each.image.nbytes for each in cut.images))
    return cut


def _decode_and_cut(data: bytes, tiling: Tiling, rule: ResizeRule, limits: ImageLimits) -> _Cut:
    start = time.perf_counter()
    pixels = decode_image(data, limits)
    decoded = time.perf_counter()
    image_hw = (pixels.shape[0], pixels.shape[1])
    windows = tiling.windows(image_hw)
    images = [letterbox(crop(pixels, window), rule) for window in windows]
    return _Cut(images, windows, image_hw, decoded - start, time.perf_counter() - decoded)


def _memory_for(data: bytes, tiling: Tiling, rule: ResizeRule, limits: ImageLimits) -> int:
    """The most bytes that decoding and cutting hold at one time."""
    size = footprint(data, limits)
    windows = tiling.windows(size.hw)
    tiles = 0
    for x1, y1, x2, y2 in windows.tolist():
        height, width = padded_hw(scaled_hw((y2 - y1, x2 - x1), rule), rule)
        tiles += height * width * 3
    # The last window is the largest, and a crop of it is one more copy of the image at most.
    return size.working_bytes + tiles + size.hw[0] * size.hw[1] * 3


def _merged(
    cut: _Cut, done: Sequence[Done], artifact: Artifact, options: DetectOptions, max_detections: int | None
) -> Detections:
    found = [
        split_detections(each.outputs, each.index, image, artifact.manifest, options)
        for each, image in zip(done, cut.images, strict=True)
    ]
    return merge(
        found,
        cut.windows,
        cut.image_hw,
        nms_threshold=options.nms_threshold,
        max_detections=max_detections,
    )


def _engine_seconds(done: Sequence[Done]) -> dict[str, float]:
    """The longest wait of a tile, and the time of the batches that they were in, each counted once."""
    batches = {id(each.outputs): each for each in done}.values()
    return {
        "queue": max(each.queue_seconds for each in done),
        "transfer": sum(each.transfer_seconds for each in batches),
        "model": sum(each.model_seconds for each in batches),
    }


@contextlib.contextmanager
def _places(services: Services, slots: Sequence[Slot]) -> Iterator[ImageLease]:
    """The image's memory, and its places, all given back at the end."""
    try:
        with services.memory.lease() as lease:
            yield lease
    finally:
        for slot in slots:
            slot.release()
