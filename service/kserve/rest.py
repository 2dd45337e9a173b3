"""The REST routes under /v2. They are left out of the OpenAPI document: the protocol has one of its own."""

import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from hindsight.errors import HindsightError
from service.body import BodyLease, parse_json_object, read_body
from service.callers import Caller, caller_of
from service.errors import BadBody, detail_of, error_headers, problem_for
from service.handlers import hold_back, request_id_of
from service.kserve import models, repository
from service.kserve.call import Call, WantedOutput, checked, chosen
from service.kserve.compression import ENCODINGS, accepted_encoding, compress, decompress
from service.kserve.rest_body import HEADER_LENGTH, parse_call, render
from service.kserve.tensors import OutputTensor, Values
from service.logs import log
from service.pipeline import Services, receive_body, services_of, unless_disconnected
from service.responses import json_response

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class _Route(APIRoute):
    """Answers errors in this protocol's form, `{"error": text}`, with the status that the table of problems
    has for them.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except HindsightError as error:
                await hold_back(request, error)
                return _error_response(error)
            except Exception as error:
                log(logging.ERROR, "unhandled error", exc=error, request_id=request_id_of(request))
                return _error_response(error)

        return handle


router = APIRouter(prefix="/v2", route_class=_Route, include_in_schema=False)


@router.get("")
@router.get("/")
async def server_metadata() -> Response:
    return json_response(models.server_metadata())


@router.get("/health/live")
async def live() -> Response:
    return json_response({"live": True})


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    is_ready = services_of(request).ready
    return json_response({"ready": is_ready}, 200 if is_ready else 503)


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{version}")
async def model_metadata(request: Request, name: str, version: str = "") -> Response:
    return json_response(
        models.model_metadata(services_of(request), models.find_model(services_of(request), name, version))
    )


@router.get("/models/{name}/config")
@router.get("/models/{name}/versions/{version}/config")
async def model_config(request: Request, name: str, version: str = "") -> Response:
    return json_response(models.model_config(models.find_model(services_of(request), name, version)))


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{version}/ready")
async def model_ready(request: Request, name: str, version: str = "") -> Response:
    services = services_of(request)
    model = models.find_model(services, name, version)
    is_ready = services.ready
    return json_response({"name": model.name, "ready": is_ready}, 200 if is_ready else 503)


@router.post("/models/{name}/infer")
@router.post("/models/{name}/versions/{version}/infer")
async def infer(request: Request, name: str, version: str = "") -> Response:
    services = services_of(request)
    caller = caller_of(request, services.settings)
    model = models.find_model(services, name, version)
    header_length = request.headers.get(HEADER_LENGTH)
    with services.budget.lease() as lease:
        body = await _read(request, services, caller, lease, model.artifact.manifest.name)
        pool, most = services.pool, services.settings.max_images
        call, inputs, binary = await pool.run_if_large(
            len(body), _read_call, model, header_length, body, most
        )
        del body  # encoded images were copied out of it
        work = model.infer(services, inputs, call.parameters, call.narrowed(caller))
        outputs = await unless_disconnected(request, work)
    head = {"model_name": model.name, "model_version": model.artifact.manifest.version}
    if call.id:
        head["id"] = call.id
    answered = chosen(outputs, call.outputs)
    size = sum(tensor.listed_size for tensor in answered)
    accept = request.headers.get("accept-encoding", "")
    return await pool.run_if_large(size, _answer, head, answered, call.outputs, binary, accept)


@router.post("/repository/index")
async def repository_index(request: Request) -> Response:
    services = services_of(request)
    with services.budget.lease() as lease:
        body = await read_body(request, services.settings, lease)
        document = parse_json_object(body, {"ready"}) if body.strip() else {}
    ready_only = document.get("ready", False)
    if not isinstance(ready_only, bool):
        raise BadBody("ready must be true or false")
    return json_response(await repository.index(services, ready_only))


@router.post("/repository/models/{name}/load")
async def load(request: Request, name: str) -> Response:
    await repository.load(services_of(request), name, await _repository_parameters(request))
    return json_response({})


@router.post("/repository/models/{name}/unload")
async def unload(request: Request, name: str) -> Response:
    await repository.unload(services_of(request), name, await _repository_parameters(request))
    return json_response({})


@router.api_route("/{rest:path}", methods=_METHODS)
async def nothing(request: Request, rest: str) -> Response:
    """Last of all: what the router itself would answer is not of this protocol's form."""
    return json_response({"error": f"{request.method} /v2/{rest[:128]} is not offered by this server"}, 404)


def _read_call(
    model: models.Model, header_length: str | None, body: bytes, max_images: int
) -> tuple[Call, Mapping[str, Values], bool]:
    """In one go: what JSON makes of many numbers exists on the threads of the pool alone, never of all
    requests that wait for one. -> the call, its inputs, and whether outputs that do not say are to be raw.
    """
    parsed, binary = parse_call(header_length, body)
    call, inputs = checked(parsed, model.inputs, model.outputs, max_images)
    return call, inputs, binary


async def _repository_parameters(request: Request) -> Mapping[str, Any]:
    services = services_of(request)
    with services.budget.lease() as lease:
        body = await read_body(request, services.settings, lease)
        document = parse_json_object(body, {"parameters"}) if body.strip() else {}
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadBody("parameters must be a JSON object")
    return parameters


async def _read(request: Request, services: Services, caller: Caller, lease: BodyLease, model: str) -> bytes:
    """The body, decompressed. Raises what receive_body and decompress raise."""
    limit = services.settings.max_body_bytes
    body = await receive_body(services, request, caller, lease, model, ENCODINGS)
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding == "identity":
        return body
    plain = await services.pool.run(decompress, body, encoding, limit)
    lease.take(len(plain))
    return plain


def _answer(
    head: dict[str, Any],
    outputs: list[OutputTensor],
    wanted: Sequence[WantedOutput] | None,
    binary: bool,
    accept_encoding: str,
) -> Response:
    content, header_length = render(head, outputs, wanted, binary)
    headers = {} if header_length is None else {HEADER_LENGTH: str(header_length)}
    encoding = accepted_encoding(accept_encoding, len(content))
    if encoding != "identity":
        content = compress(content, encoding)
        headers |= {"Content-Encoding": encoding, "Vary": "Accept-Encoding"}
    media_type = "application/json" if header_length is None else "application/octet-stream"
    return Response(content, 200, headers, media_type)


def _error_response(error: Exception) -> Response:
    status = problem_for(error).status
    return json_response({"error": detail_of(error)}, status, error_headers(error))
