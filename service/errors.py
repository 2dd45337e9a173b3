"""What can go wrong with a request, and the ONE table that says how each is answered (RFC 9457,
problem+json).

The handlers, the per-image problems of a many-image answer, the OpenAPI document and the list on /docs all
read PROBLEMS.
"""

import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

from hindsight import errors as core

MEDIA_TYPE = "application/problem+json"
_SERVICE_CODE = core.ServiceError.code
_OUT_OF_MEMORY_RETRY = 5.0  # seconds; a guess: it is others that have to give memory back


class RequestError(core.HindsightError):
    """Root of the errors that only the service raises. `code` differs from the wire's (see `wire_code`)."""

    code: ClassVar[str] = "request-error"
    retry_after: float | None = None


class BadBody(RequestError):
    """The body does not have the form its content type promises."""

    code = "bad-body"


class UnsupportedBody(RequestError):
    """A content type or encoding the route does not read."""

    code = "unsupported-body"


class BodyTooLarge(core.ImageTooLarge):
    """More bytes than the service buffers for one request."""

    code = "body-too-large"


class BodyTimeout(RequestError):
    """The client did not send its whole body in time."""

    code = "body-timeout"


class TooManyImages(RequestError):
    """More images than one request may hold."""

    code = "too-many-images"


class BadTimeout(RequestError):
    """The header X-Request-Timeout does not say a number of seconds."""

    code = "bad-timeout"


class Busy(RequestError):
    """More work waits than may; `retry_after` seconds should make room. hold: seconds, below 1, by which the
    answer is held back first.
    """

    code = "busy"

    def __init__(self, message: str, retry_after: float, hold: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.hold = hold


class EngineUnavailable(RequestError):
    """No worker is ready: it is loading, or was lost and is being restarted."""

    code = "engine-unavailable"
    retry_after = 1.0


class DeadlineExceeded(RequestError):
    """The image waited past the deadline and was not executed."""

    code = "deadline-exceeded"


class BadModel(RequestError):
    """A model that is to be loaded has files that cannot be used."""

    code = "bad-model"


class LoadFailed(RequestError):
    """A model's files are good, but no worker came up with it; what was served before still is."""

    code = "load-failed"


class ChangeInProgress(RequestError):
    """Another model is being loaded or unloaded."""

    code = "change-in-progress"
    retry_after = 1.0


class DefaultModel(RequestError):
    """The default model cannot be unloaded."""

    code = "default-model"


class KeyRequired(RequestError):
    """No API key, or one that is not valid. reason: `missing`, `unknown` or `expired`."""

    code = "key-required"

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class NotAllowed(RequestError):
    """The key's role is not enough for this route."""

    code = "not-allowed"


class RateLimited(RequestError):
    """The key has sent too many images; `retry_after` seconds make room."""

    code = "rate-limited"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ClientDisconnected(RequestError):
    """The client is gone; nobody reads this answer."""

    code = "client-disconnected"


@dataclass(frozen=True)
class Problem:
    """How one kind of failure is answered: HTTP status, slug of its type and a title that never changes."""

    status: int
    slug: str
    title: str


# An exception is answered by the first class of its own inheritance order (most specific first) found here.
PROBLEMS: dict[type[Exception], Problem] = {
    BadBody: Problem(400, "bad-body", "The body does not have the promised form"),
    BadTimeout: Problem(400, "bad-timeout", "The timeout is not a number of seconds"),
    KeyRequired: Problem(401, "key-required", "An API key is needed"),
    NotAllowed: Problem(403, "not-allowed", "The API key does not allow this"),
    core.ModelNotFound: Problem(404, "model-not-found", "No such model"),
    BodyTimeout: Problem(408, "body-timeout", "The body was not sent in time"),
    ChangeInProgress: Problem(409, "change-in-progress", "Another model is being loaded or unloaded"),
    DefaultModel: Problem(409, "default-model", "The default model cannot be unloaded"),
    core.ImageTooLarge: Problem(413, "image-too-large", "The image is too large"),
    BodyTooLarge: Problem(413, "body-too-large", "The body is too large"),
    TooManyImages: Problem(413, "too-many-images", "Too many images in one request"),
    core.UnsupportedImage: Problem(415, "unsupported-image", "This kind of image is not supported"),
    UnsupportedBody: Problem(415, "unsupported-body", "This kind of body is not supported"),
    core.CorruptImage: Problem(422, "corrupt-image", "The image cannot be decoded"),
    core.ImageError: Problem(422, "bad-image", "The image cannot be used"),
    core.OptionError: Problem(422, "bad-option", "An option has no such value"),
    core.BoxesError: Problem(422, "bad-boxes", "The boxes cannot be used"),
    BadModel: Problem(422, "bad-model", "The model's files cannot be used"),
    RateLimited: Problem(429, "rate-limited", "The API key has sent too many images"),
    ClientDisconnected: Problem(499, "client-disconnected", "The client closed the connection"),
    core.RuntimeFailure: Problem(500, "runtime-failure", "The model failed on this image"),
    core.NonFiniteOutput: Problem(500, "non-finite-output", "The model answered NaN for this image"),
    core.OutOfMemory: Problem(503, "out-of-memory", "The device has no memory left for this image"),
    core.DeviceLost: Problem(503, "device-lost", "The model's device has failed"),
    LoadFailed: Problem(500, "load-failed", "No worker came up with the model"),
    core.ArtifactError: Problem(500, "bad-artifact", "The model's files cannot be used"),
    Busy: Problem(503, "busy", "The server has as much to do as it can"),
    EngineUnavailable: Problem(503, "engine-unavailable", "No model worker is ready"),
    DeadlineExceeded: Problem(504, "deadline-exceeded", "The image waited too long and was not run"),
    Exception: Problem(500, "internal", "Internal error"),
}
INVALID_REQUEST = Problem(422, "invalid-request", "A parameter is invalid")
INVALID_CODE = core.OptionError.code


def problem_for(error: BaseException) -> Problem:
    """The row of PROBLEMS for this error; `internal` for anything unforeseen."""
    for kind in type(error).__mro__:
        if kind in PROBLEMS:
            return PROBLEMS[kind]
    return PROBLEMS[Exception]


def problem_for_status(status: int) -> Problem:
    """The problem of a plain HTTP status (404, 405, ...) raised by the router."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "HTTP error"
    return Problem(status, phrase.lower().replace(" ", "-").replace("'", ""), phrase)


def problem_body(problem: Problem, detail: str, request_id: str, code: str = _SERVICE_CODE) -> dict[str, Any]:
    """The RFC 9457 object. `type` is a reference into this server's own /docs page; `code` is what `Client`
    reads.
    """
    return {
        "type": f"/docs#{problem.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }


def problem_of(error: BaseException, request_id: str) -> dict[str, Any]:
    """The RFC 9457 object of an exception. `retry_after_ms`, an extension: Retry-After, not rounded."""
    document = problem_body(problem_for(error), detail_of(error), request_id, wire_code(type(error)))
    seconds = retry_after_of(error)
    if seconds is not None:
        document["retry_after_ms"] = math.ceil(seconds * 1000)
    return document


def wire_code(error: type[BaseException]) -> str:
    """The code of the core class that a client of this library should raise for an error of this class."""
    for kind in error.__mro__:
        if kind.__module__ == core.__name__ and kind is not core.HindsightError:
            return str(kind.code)  # type: ignore[attr-defined]  # every class of that module has one
    return _SERVICE_CODE


def detail_of(error: BaseException) -> str:
    """What the client may read: our own errors speak; anything else stays in the log."""
    if isinstance(error, core.HindsightError):
        return str(error)
    return "The server failed on this request; its log has the cause under this request id."


def retry_after_of(error: BaseException) -> float | None:
    """Seconds after which the same request may fare better, where that can be said."""
    if isinstance(error, core.OutOfMemory):
        return _OUT_OF_MEMORY_RETRY
    return error.retry_after if isinstance(error, RequestError) else None


def error_headers(error: BaseException) -> dict[str, str]:
    """Of an answer to this error: `Retry-After` in whole seconds, where there is one."""
    if isinstance(error, BodyTimeout):  # a client this slow is not waited for again (RFC 9110, 15.5.9)
        return {"Connection": "close"}
    seconds = retry_after_of(error)
    return {} if seconds is None else {"Retry-After": str(whole_seconds(seconds))}


def whole_seconds(seconds: float) -> int:
    """As Retry-After says it: rounded up, and at least 1."""
    return max(1, math.ceil(seconds))
