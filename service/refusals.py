"""What is answered before a request exists: to bytes that are not HTTP, to too many, and to slow senders."""

import uuid
from http import HTTPStatus

from service.errors import MEDIA_TYPE, Problem, problem_body
from service.responses import SECURITY_HEADERS, to_json

MALFORMED = Problem(400, "malformed-request", "The bytes received are not an HTTP request")
SLOW_HEADERS = Problem(408, "slow-request", "The request was not sent in time")
LONG_TARGET = Problem(414, "target-too-long", "The request's target is too long")
LARGE_HEADERS = Problem(431, "headers-too-large", "The request's headers are too large or too many")
NOT_IMPLEMENTED = Problem(501, "not-implemented", "The server does not know this method")
TOO_MANY_CONNECTIONS = Problem(503, "too-many-connections", "The server has as many connections as it may")

REFUSALS = (MALFORMED, SLOW_HEADERS, LONG_TARGET, LARGE_HEADERS, NOT_IMPLEMENTED, TOO_MANY_CONNECTIONS)


class Refusal(Exception):
    """Ends a request from within a callback of the parser. reason: of the metric."""

    def __init__(self, problem: Problem, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem
        self.reason = reason
        self.detail = detail


def refusal_bytes(refusal: Refusal, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    """The whole HTTP/1.1 answer, after which the connection ends."""
    request_id = uuid.uuid4().hex
    problem = refusal.problem
    body = to_json(problem_body(problem, refusal.detail, request_id))
    headers = [
        *((name.decode("latin-1"), value.decode("latin-1")) for name, value in default_headers),
        ("content-type", MEDIA_TYPE),
        ("content-length", str(len(body))),
        ("connection", "close"),
        ("x-request-id", request_id),
        *((name.lower(), value) for name, value in SECURITY_HEADERS.items()),
    ]
    if problem is TOO_MANY_CONNECTIONS:
        headers.append(("retry-after", "1"))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n{lines}\r\n".encode() + body
