"""Pieces of the OpenAPI document that FastAPI cannot see: bodies the routes read themselves, and the table of
problems.
"""

from typing import Any

from service.access import row_of
from service.callers import TIMEOUT_HEADER
from service.errors import (
    INVALID_CODE,
    INVALID_REQUEST,
    MEDIA_TYPE,
    PROBLEMS,
    KeyRequired,
    NotAllowed,
    Problem,
    RateLimited,
    wire_code,
)
from service.schemas import ProblemDocument

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BASE64 = {"type": "string", "contentEncoding": "base64"}
_EXAMPLE_IMAGE = (  # a PNG of one white pixel: the examples can be sent as they stand
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
)

_TIMEOUT_PARAMETER = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "number", "exclusiveMinimum": 0},
    "description": "seconds, from the request's first byte on, in which an answer is of use",
}
DETECT_BODY: dict[str, Any] = {
    "parameters": [_TIMEOUT_PARAMETER],
    "requestBody": {
        "required": True,
        "description": "A still image (JPEG, PNG, WebP, BMP, GIF, TIFF), or several as multipart or JSON.",
        "content": {
            "image/*": _BINARY,
            "application/octet-stream": _BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "array", "items": {"type": "string", "format": "binary"}}
                    },
                }
            },
            "application/json": {
                "schema": {
                    "oneOf": [
                        {"type": "object", "required": ["image"], "properties": {"image": _BASE64}},
                        {
                            "type": "object",
                            "required": ["images"],
                            "properties": {"images": {"type": "array", "minItems": 1, "items": _BASE64}},
                        },
                    ]
                },
                "example": {"image": _EXAMPLE_IMAGE},
            },
        },
    },
}

_BOXES = {
    "type": "array",
    "items": {"type": "array", "minItems": 4, "maxItems": 4, "items": {"type": "number"}},
    "description": "x1, y1, x2, y2 in pixels of the image",
}
RESCORE_BODY: dict[str, Any] = {
    "parameters": [_TIMEOUT_PARAMETER],
    "requestBody": {
        "required": True,
        "description": "An image and anybody's boxes on it.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image", "boxes"],
                    "properties": {"image": {"type": "string", "format": "binary"}, "boxes": _BOXES},
                },
                "encoding": {"boxes": {"contentType": "application/json"}},
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["image", "boxes"],
                    "properties": {"image": _BASE64, "boxes": _BOXES},
                },
                "example": {"image": _EXAMPLE_IMAGE, "boxes": [[0, 0, 1, 0.75]]},
            },
        },
    },
}


def problem_responses(*errors: type[Exception]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for the problems of these exceptions, grouped by status, from the one table."""
    by_status: dict[int | str, list[tuple[Problem, str]]] = {
        INVALID_REQUEST.status: [(INVALID_REQUEST, INVALID_CODE)]
    }
    for error in errors:
        problem = PROBLEMS[error]
        by_status.setdefault(problem.status, []).append((problem, wire_code(error)))
    return {
        status: {
            "description": "; ".join(problem.title for problem, _ in problems),
            "model": ProblemDocument,
            "content": {MEDIA_TYPE: {"example": _example(*problems[0])}},
        }
        for status, problems in sorted(by_status.items(), key=lambda item: str(item[0]))
    }


def move_problem_schemas(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI files response models under application/json; ours travel as problem+json."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for response in operation.get("responses", {}).values():
                content = response.get("content", {})
                if MEDIA_TYPE in content and "application/json" in content:
                    content[MEDIA_TYPE].update(content.pop("application/json"))
    return document


def describe_access(document: dict[str, Any], keys_required: bool) -> dict[str, Any]:
    """Say of each operation which key it needs, from the table in service/access.py."""
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    document.setdefault("components", {})["securitySchemes"] = schemes
    refusals: list[type[Exception]] = [KeyRequired, NotAllowed, RateLimited]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            audience = row_of(method.upper(), path).audience
            if audience == "open":
                continue
            needed = keys_required or audience == "admin"
            operation["security"] = [*([] if needed else [{}]), {"bearer": []}, {"header": []}]
            for error in refusals if audience == "user" else refusals[:2]:
                problem = PROBLEMS[error]
                example = {MEDIA_TYPE: {"example": _example(problem, wire_code(error))}}
                operation.setdefault("responses", {}).setdefault(
                    str(problem.status), {"description": problem.title, "content": example}
                )
    return document


def _example(problem: Problem, code: str) -> dict[str, Any]:
    return {
        "type": f"/docs#{problem.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": "what was expected, what came, and what to do",
        "code": code,
        "request_id": "0e3b7c0d0a7f4b0c8f7c7a3d6f1d2c11",
    }
