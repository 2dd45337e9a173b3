"""POST /rescore: a second opinion on anybody's boxes: another detector's, or a human annotator's."""

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from hindsight import errors as core
from hindsight.artifact import Artifact
from hindsight.errors import BoxesError
from service import errors
from service.body import parse_image_and_boxes
from service.callers import Caller, caller_of
from service.openapi import RESCORE_BODY, problem_responses
from service.pipeline import (
    Judged,
    Services,
    receive_body,
    rescore_image,
    services_of,
    unless_disconnected,
)
from service.query import query_of, with_query
from service.responses import json_response, server_timing
from service.schemas import RescoreResponse
from service.visit import count_images

router = APIRouter()


class RescoreQuery(BaseModel):
    """Query of /rescore. Unknown names are errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | None = Field(
        None, description="a name from /models; the default model if left out", examples=["cells"]
    )


Asked = Annotated[RescoreQuery, Depends(query_of(RescoreQuery))]


@router.post(
    "/rescore",
    summary="A second opinion on given boxes",
    response_model=None,
    openapi_extra=with_query(RescoreQuery, RESCORE_BODY),
    responses={
        200: {"description": "One opinion a box, in the order given.", "model": RescoreResponse},
        **problem_responses(
            errors.BadBody,
            errors.BadTimeout,
            core.ModelNotFound,
            errors.BodyTimeout,
            core.ImageTooLarge,
            errors.BodyTooLarge,
            core.UnsupportedImage,
            errors.UnsupportedBody,
            core.CorruptImage,
            core.BoxesError,
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
async def rescore(request: Request, query: Asked) -> Response:
    start = time.perf_counter()
    services = services_of(request)
    caller = caller_of(request, services.settings)
    artifact = services.registry.get(query.model)
    artifact.require_rescoring()
    with services.budget.lease() as lease:
        body = await receive_body(services, request, caller, lease, artifact.manifest.name)
        read_ms = round((time.perf_counter() - start) * 1000, 3)
        content_type = request.headers.get("content-type", "")
        work = _judge(services, artifact, caller, content_type, body)
        del body  # only what is in it is kept while the image waits
        judged = await unless_disconnected(request, work)
    manifest = artifact.manifest
    height, width = judged.image_hw
    timings = {"read": read_ms, **judged.stages, "total": round((time.perf_counter() - start) * 1000, 3)}
    request.scope["state"]["stages"].update(timings)
    document = {
        "model": manifest.name,
        "version": manifest.version,
        "image": {"width": width, "height": height},
        "results": judged.rescored.to_records(),
        "timings_ms": timings,
    }
    return json_response(document, headers=server_timing(timings))


async def _judge(
    services: Services, artifact: Artifact, caller: Caller, content_type: str, body: bytes
) -> Judged:
    limit = artifact.manifest.max_rescore_boxes
    image, boxes = await services.pool.run_if_large(
        len(body), parse_image_and_boxes, content_type, body, services.settings, limit
    )
    del body
    if len(boxes) > limit:
        raise BoxesError(
            f"{len(boxes)} boxes; model {artifact.manifest.name} accepts at most {limit} in one request"
        )
    count_images(artifact.manifest.name, 1)
    [slot] = services.batcher.admit(1, caller, model=artifact.manifest.name)
    return await rescore_image(services, artifact, image, boxes, slot)
