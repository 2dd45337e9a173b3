"""How answers leave: compact JSON that is never NaN, and problem documents."""

import json
from typing import Any

from starlette.responses import Response

from service.errors import MEDIA_TYPE, BodyTimeout, problem_of, retry_after_header


def to_json(document: object) -> bytes:
    """Compact UTF-8 JSON. ValueError on NaN or infinity, which JSON does not have."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def json_response(document: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(document), status, headers, media_type="application/json")


def problem_document_response(document: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """The response of an RFC 9457 object that is already built."""
    return Response(to_json(document), document["status"], headers, media_type=MEDIA_TYPE)


def problem_response(error: BaseException, request_id: str, path: str = "") -> Response:
    """An exception as its problem, by the table in service/errors.py. path: of the request, where a layer
    before the routes refuses it: KServe's clients look for `error`.
    """
    headers = retry_after_header(error)
    if isinstance(error, BodyTimeout):  # a client this slow is not waited for again (RFC 9110, 15.5.9)
        headers["Connection"] = "close"
    document = problem_of(error, request_id)
    if path.startswith("/v2"):
        document["error"] = document["detail"]
    return problem_document_response(document, headers)


def server_timing(stages_ms: dict[str, float]) -> dict[str, str]:
    """The Server-Timing header, which browsers chart beside the request."""
    return {"Server-Timing": ", ".join(f"{name};dur={ms:.3f}" for name, ms in stages_ms.items())}
