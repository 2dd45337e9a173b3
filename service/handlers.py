"""Exceptions -> problem+json, for everything the routes and the router raise."""

import asyncio
from contextlib import suppress
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from hindsight.errors import HindsightError
from hindsight.hints import did_you_mean
from service import query
from service.errors import (
    INVALID_CODE,
    INVALID_REQUEST,
    Busy,
    ClientDisconnected,
    problem_body,
    problem_for_status,
)
from service.pipeline import unless_disconnected
from service.responses import problem_document_response, problem_response


def install_handlers(app: FastAPI) -> None:
    """Only known exceptions here; RequestContext answers the unforeseen."""
    app.add_exception_handler(HindsightError, _hindsight_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)


def request_id_of(request: Request) -> str:
    return str(request.scope["state"]["request_id"])


async def _hindsight_error(request: Request, error: Exception) -> Response:
    await hold_back(request, error)
    return problem_response(error, request_id_of(request))


async def hold_back(request: Request, error: Exception) -> None:
    """Clients read Retry-After in whole seconds, so the rest passes before they are answered. It also slows
    those who come back at once.
    """
    if isinstance(error, Busy) and error.hold > 0:
        with suppress(ClientDisconnected):
            await unless_disconnected(request, asyncio.sleep(error.hold))


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = problem_for_status(error.status_code)
    path = request.url.path[:128]
    detail = {
        404: f"nothing is at {path}; /docs lists what there is",
        405: f"{request.method} is not allowed at {path}{_allowed(error)}",
    }.get(error.status_code, str(error.detail))
    body = problem_body(problem, detail, request_id_of(request))
    return problem_document_response(body, dict(error.headers or {}))


def _allowed(error: HTTPException) -> str:
    methods = (error.headers or {}).get("Allow")
    return f"; it takes {methods}" if methods else ""


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    known = query.KNOWN.get(request.url.path, set())
    errors = [_field_error(item, known) for item in error.errors()]
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors)
    body = problem_body(INVALID_REQUEST, detail, request_id_of(request), INVALID_CODE)
    return problem_document_response({**body, "errors": errors})


def _field_error(item: dict[str, Any], known: set[str]) -> dict[str, str]:
    field = ".".join(str(part) for part in item["loc"])[:128]
    message = str(item["msg"])
    if item["type"] == "extra_forbidden":
        others = f"; there are: {', '.join(sorted(known))}" if known else ""
        message = "no such parameter" + (did_you_mean(str(item["loc"][-1]), known) or others)
    elif isinstance(item.get("input"), str):
        message += f", got {item['input'][:64]!r}"
    return {"field": field, "message": message}
