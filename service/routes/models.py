"""GET /models and the sample images that come with them."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

from hindsight import errors as core
from hindsight.artifact import Artifact
from service.openapi import problem_responses
from service.pipeline import services_of
from service.responses import json_response
from service.schemas import ModelsResponse

router = APIRouter()


@router.get(
    "/models",
    summary="The models this server serves",
    response_model=None,
    responses={
        200: {"description": "All models; `default` is used where none is named.", "model": ModelsResponse}
    },
)
async def models(request: Request) -> Response:
    registry = services_of(request).registry
    return json_response({"models": [_entry(artifact) for artifact in registry], "default": registry.default})


@router.get(
    "/models/{name}/samples/{file}",
    summary="A sample image of a model",
    response_class=FileResponse,
    response_model=None,
    responses={**problem_responses(core.ModelNotFound)},
)
async def sample(request: Request, name: str, file: str) -> Response:
    artifact = services_of(request).registry.get(name)
    # Looked up among the names the manifest lists, never joined to a path: there is nothing to traverse.
    by_name = {path.name: path for path in artifact.samples}
    if file not in by_name:
        raise HTTPException(404)
    return FileResponse(by_name[file], headers={"Cache-Control": "private, max-age=3600"})


def _entry(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "description": manifest.description,
        "classes": [asdict(info) for info in manifest.classes],
        "input": asdict(manifest.resize),
        "defaults": asdict(manifest.defaults),
        "max_detections": manifest.max_detections,
        "max_rescore_boxes": manifest.max_rescore_boxes,
        "has_localization": manifest.has_localization,
        "metrics": manifest.metrics,
        "licence": manifest.licence,
        "samples": [path.name for path in artifact.samples],
    }
