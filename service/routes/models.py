"""The models: which there are, the sample images that come with them, loading and unloading.

`load` and `unload` are for administrators. They carry no check of their own: who may call what is decided by
path, in the middleware.
"""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

from hindsight import errors as core
from hindsight.artifact import Artifact
from hindsight.errors import ModelNotFound
from hindsight.purpose import intended_use, limits
from hindsight.versions import NAME_PATTERN, VERSION_PATTERN
from service import errors
from service.model_control import Change
from service.openapi import problem_responses
from service.pipeline import Services, services_of
from service.query import query_of, with_query
from service.responses import json_response
from service.schemas import ModelsResponse, ModelStatus

router = APIRouter()

Name = Annotated[str, Path(pattern=f"^{NAME_PATTERN}$", examples=["cells"])]


class ChangeQuery(BaseModel):
    """Query of load and unload. Unknown names are errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    version: str | None = Field(None, pattern=f"^{VERSION_PATTERN}$", examples=["0.2.0"])
    wait: bool = Field(True, description="false: answer 202 at once; `last_change` of /models/{name} tells")


Asked = Annotated[ChangeQuery, Depends(query_of(ChangeQuery))]


@router.get(
    "/models",
    summary="The models this server serves",
    response_model=None,
    responses={
        200: {"description": "All models; `default` is used where none is named.", "model": ModelsResponse}
    },
)
async def models(request: Request) -> Response:
    services = services_of(request)
    loaded, unloaded = [], []
    for name in await services.control.names():
        versions = await services.control.overview(name)
        served = services.registry.versions(name)
        if served:
            loaded.append({**_entry(served[0]), "versions": versions})
        elif versions:
            unloaded.append({"name": name, "versions": versions})
    return json_response({"models": loaded, "unloaded": unloaded, "default": services.registry.default})


@router.get(
    "/models/{name}",
    summary="The versions of a model",
    response_model=None,
    responses={
        200: {"description": "Its versions and what was last done to it.", "model": ModelStatus},
        **problem_responses(core.ModelNotFound),
    },
)
async def model(request: Request, name: Name) -> Response:
    return json_response(await _status(services_of(request), name))


@router.post(
    "/models/{name}/load",
    summary="Load a model, or load it again, while serving",
    openapi_extra=with_query(ChangeQuery, {}),
    response_model=None,
    responses={
        200: {"description": "It is loaded and serves.", "model": ModelStatus},
        202: {"description": "It has begun; wait=false was given.", "model": ModelStatus},
        **problem_responses(
            core.ModelNotFound,
            errors.ChangeInProgress,
            errors.BadModel,
            errors.LoadFailed,
            errors.EngineUnavailable,
        ),
    },
)
async def load(request: Request, name: Name, query: Asked) -> Response:
    """Without `version`: the newest on disk, in place of those loaded. With it: that one, beside those."""
    change = await services_of(request).control.load(name, query.version)
    return await _answer(request, change, query.wait)


@router.post(
    "/models/{name}/unload",
    summary="Unload a model, or one version of it, while serving",
    openapi_extra=with_query(ChangeQuery, {}),
    response_model=None,
    responses={
        200: {"description": "It is unloaded.", "model": ModelStatus},
        202: {"description": "It has begun; wait=false was given.", "model": ModelStatus},
        **problem_responses(
            core.ModelNotFound,
            errors.ChangeInProgress,
            errors.DefaultModel,
            errors.LoadFailed,
            errors.EngineUnavailable,
        ),
    },
)
async def unload(request: Request, name: Name, query: Asked) -> Response:
    """Without `version`: all of its versions."""
    change = services_of(request).control.unload(name, query.version)
    return await _answer(request, change, query.wait)


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


async def _answer(request: Request, change: Change, wait: bool) -> Response:
    services = services_of(request)
    if wait:
        await services.control.finished(change)
    return json_response(await _status(services, change.name), 200 if wait else 202)


async def _status(services: Services, name: str) -> dict[str, Any]:
    versions = await services.control.overview(name)
    if not versions:
        services.registry.get(name)  # says which there are
        raise ModelNotFound(f"no model {name!r}")
    return {"name": name, "versions": versions, "last_change": services.control.last_change(name)}


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
        "has_masks": manifest.has_masks,
        "intended_use": intended_use(manifest),
        "limits": limits(manifest),
        "training_data": manifest.training_data,
        "metrics": manifest.metrics,
        "licence": manifest.licence,
        "samples": [path.name for path in artifact.samples],
    }
