"""How answers leave: compact JSON that is never NaN, and problem documents."""

import json
from typing import Any

from starlette.responses import Response

from service.errors import MEDIA_TYPE, error_headers, problem_of

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
"""Of every answer."""


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
    document = problem_of(error, request_id)
    if path.startswith("/v2"):
        document["error"] = document["detail"]
    return problem_document_response(document, error_headers(error))


def server_timing(stages_ms: dict[str, float]) -> dict[str, str]:
    """The Server-Timing header, which browsers chart beside the request."""
    return {"Server-Timing": ", ".join(f"{name};dur={ms:.3f}" for name, ms in stages_ms.items())}
