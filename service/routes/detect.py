"""POST /detect: images in, boxes with class score, predicted IoU, purity and integrity out."""

import io
import logging
import time
from itertools import accumulate
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from hindsight import errors as core
from hindsight.artifact import Artifact, ClassInfo
from hindsight.decode import footprint
from hindsight.detections import Detections
from hindsight.draw import annotate
from hindsight.errors import HindsightError, OptionError
from hindsight.options import DetectOptions
from hindsight.preprocess import ImageLimits, decode_image
from hindsight.tiling import Tiling
from service import errors
from service.body import Images, Item, parse_images
from service.callers import Caller, caller_of
from service.formats import to_coco, to_labelstudio
from service.handlers import request_id_of
from service.logs import log
from service.openapi import DETECT_BODY, problem_responses
from service.pipeline import (
    Detected,
    Services,
    detect_image,
    receive_body,
    services_of,
    unless_disconnected,
)
from service.query import query_of, with_query
from service.responses import server_timing, to_json
from service.routes.detect_query import DetectQuery
from service.schemas import CocoDocument, DetectManyResponse, DetectResponse, LabelStudioPrediction
from service.tiles import detect_tiles, passes_of
from service.together import each_for_itself
from service.visit import count_images

router = APIRouter()

Result = Detected | dict[str, Any]
"""One image's detections, or its problem object."""

_LONGEST_JPEG_SIDE = 65_500  # pixels; libjpeg writes no more


Asked = Annotated[DetectQuery, Depends(query_of(DetectQuery))]


@router.post(
    "/detect",
    summary="Find objects in one image or several",
    response_model=None,
    openapi_extra=with_query(DetectQuery, DETECT_BODY),
    responses={
        200: {
            "description": "One image: its detections. Several: `results`, in order.",
            "model": DetectResponse | DetectManyResponse | CocoDocument | LabelStudioPrediction,
            "content": {"text/plain": {}, "image/jpeg": {}, "image/png": {}},
        },
        **problem_responses(
            errors.BadBody,
            errors.BadTimeout,
            core.ModelNotFound,
            errors.BodyTimeout,
            core.ImageTooLarge,
            errors.BodyTooLarge,
            errors.TooManyImages,
            core.UnsupportedImage,
            errors.UnsupportedBody,
            core.CorruptImage,
            core.OptionError,
            core.RuntimeFailure,
            core.NonFiniteOutput,
            errors.Busy,
            errors.EngineUnavailable,
            core.OutOfMemory,
            errors.DeadlineExceeded,
        ),
    },
)
async def detect(request: Request, query: Asked) -> Response:
    start = time.perf_counter()
    services = services_of(request)
    caller = caller_of(request, services.settings)
    artifact = services.registry.get(query.model)
    tiling = query.tiling()
    options = query.resolve(artifact, 1 if tiling is None else services.settings.max_images)
    with services.budget.lease() as lease:
        body = await receive_body(services, request, caller, lease, artifact.manifest.name)
        read_ms = round((time.perf_counter() - start) * 1000, 3)
        request.scope["state"]["stages"]["read"] = read_ms  # the first in the log; then those of the images
        work = _detect_all(request, services, caller, artifact, options, tiling, query, body)
        del body  # only what is in it is kept while images wait
        images, results = await unless_disconnected(request, work)
        answer = _Answer(request, artifact, images.many, start, read_ms)
        if query.annotate:
            picture = answer.picture(services, caller, images.items[0], results[0])
            return await unless_disconnected(request, picture)
    return answer.document(query.format, results)


async def _detect_all(
    request: Request,
    services: Services,
    caller: Caller,
    artifact: Artifact,
    options: DetectOptions,
    tiling: Tiling | None,
    query: DetectQuery,
    body: bytes,
) -> tuple[Images, list[Result]]:
    """All images at once. A single one's error is the request's; among many, it stays with its image."""
    content_type = request.headers.get("content-type", "")
    pool, settings, size = services.pool, services.settings, len(body)
    images = await pool.run_if_large(size, parse_images, content_type, body, settings)
    del body
    passes = [1] * len(images.items)
    if tiling is not None:
        passes = await pool.run_if_large(
            size, passes_of, images.items, tiling, pool.limits, settings.max_images
        )
    count_images(artifact.manifest.name, sum(passes))
    if query.annotate and (len(images.items) != 1 or query.format != "json"):
        raise OptionError("annotate draws one image and takes no format; send one image and leave format out")
    if query.annotate:  # a list of one, too, is answered with a picture, so its error is the request's
        images = Images(images.items, many=False)
    slots = services.batcher.admit(sum(passes), caller, model=artifact.manifest.name)
    works = [
        detect_image(services, artifact, options, item, slots[end - 1])
        if tiling is None or count == 1
        else detect_tiles(services, artifact, options, tiling, item, slots[end - count : end])
        for item, count, end in zip(images.items, passes, accumulate(passes), strict=True)
    ]
    if not images.many:
        return images, [await works[0]]
    outcomes = await each_for_itself(slots, works)
    return images, [_result_of(outcome, request_id_of(request)) for outcome in outcomes]


def _result_of(outcome: Detected | Exception, request_id: str) -> Result:
    if isinstance(outcome, Detected):
        return outcome
    if not isinstance(outcome, HindsightError):
        log(logging.ERROR, "unhandled error on one image", exc=outcome, request_id=request_id)
    return errors.problem_of(outcome, request_id)


class _Answer:
    """Turns results into the response, with the timings of the whole request."""

    def __init__(
        self, request: Request, artifact: Artifact, many: bool, start: float, read_ms: float
    ) -> None:
        self._artifact = artifact
        self._many = many
        self._start = start
        self._read_ms = read_ms
        self._stages: dict[str, float] = request.scope["state"]["stages"]
        self._accept = request.headers.get("accept", "")

    def document(self, format_name: str, results: list[Result]) -> Response:
        manifest = self._artifact.manifest
        plain = [result.detections if isinstance(result, Detected) else result for result in results]
        encode_start = time.perf_counter()
        if format_name == "coco":
            content, media_type = to_json(to_coco(plain, manifest)), "application/json"
        elif format_name == "yolo" and not self._many and isinstance(results[0], Detected):
            content, media_type = results[0].detections.to_yolo().encode(), "text/plain; charset=utf-8"
        else:
            documents = [self._one(format_name, result) for result in results]
            content = to_json({"results": documents} if self._many else documents[0])
            media_type = "application/json"
        self._stages["encode"] = round((time.perf_counter() - encode_start) * 1000, 3)
        return Response(content, headers=server_timing(self._stages), media_type=media_type)

    async def picture(self, services: Services, caller: Caller, item: Item, result: Result) -> Response:
        assert isinstance(item, bytes) and isinstance(result, Detected), "annotate takes one image"
        kind = "PNG" if "image/png" in self._accept and "image/jpeg" not in self._accept else "JPEG"
        height, width = result.detections.image_hw
        if kind == "JPEG" and max(height, width) > _LONGEST_JPEG_SIDE:
            raise OptionError(
                f"the image is {width} x {height} pixels; a JPEG has at most {_LONGEST_JPEG_SIDE} "
                "a side: ask for a PNG with the header Accept: image/png"
            )
        draw_start = time.perf_counter()
        classes = self._artifact.manifest.classes
        limits = services.pool.limits
        with services.memory.lease() as lease:
            content = await services.pool.run_in_memory(
                lease,
                caller.deadline,
                lambda: footprint(item, limits).working_bytes,
                lambda: _drawn(item, limits, result.detections, classes, kind),
            )
        self._stages["draw"] = round((time.perf_counter() - draw_start) * 1000, 3)
        return Response(content, headers=server_timing(self._stages), media_type=f"image/{kind.lower()}")

    def _one(self, format_name: str, result: Result) -> dict[str, Any]:
        if not isinstance(result, Detected):
            return result
        detections, manifest = result.detections, self._artifact.manifest
        if format_name == "yolo":
            return {"labels": detections.to_yolo()}
        if format_name == "labelstudio":
            return to_labelstudio(detections, manifest)
        height, width = detections.image_hw
        document: dict[str, Any] = {
            "model": manifest.name,
            "version": manifest.version,
            "image": {"width": width, "height": height},
            "detections": detections.to_records(),
        }
        total = round((time.perf_counter() - self._start) * 1000, 3)
        document["timings_ms"] = {"read": self._read_ms, **result.stages, "total": total}
        return document


def _drawn(
    data: bytes, limits: ImageLimits, detections: Detections, classes: tuple[ClassInfo, ...], kind: str
) -> bytes:
    # Decoded a second time, because pixels kept from the first would fill the memory while requests queue.
    stream = io.BytesIO()
    options = {"quality": 92} if kind == "JPEG" else {"compress_level": 3}
    annotate(decode_image(data, limits), detections, classes).save(stream, kind, **options)
    return stream.getvalue()
