"""Who asks, and until when an answer is of use to them."""

import math
import re
import time
from dataclasses import dataclass

from starlette.requests import Request

from service.errors import BadTimeout
from service.settings import Settings

TIMEOUT_HEADER = "X-Request-Timeout"
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}")


@dataclass(frozen=True)
class Caller:
    """client: whom the queue is fair to: the name of the API key, else the peer's address. deadline:
    time.monotonic seconds. limit: seconds between the request's first byte and the deadline.
    """

    client: str
    deadline: float
    limit: float

    @classmethod
    def with_default_deadline(cls, settings: Settings, now: float) -> "Caller":
        """Nobody in particular, from now on."""
        return cls("", now + settings.timeout, settings.timeout)


def caller_of(request: Request, settings: Settings) -> Caller:
    """The request's caller. The deadline counts from the moment its headers were here, which RequestContext
    notes. Raises BadTimeout.
    """
    state = request.scope.get("state", {})
    arrived = state.get("arrived", time.monotonic())
    limit = _limit(request.headers.get(TIMEOUT_HEADER), settings)
    peer = request.client.host if request.client is not None else ""
    return Caller(str(state.get("client") or peer), arrived + limit, limit)


def _limit(given: str | None, settings: Settings) -> float:
    if given is None:
        return settings.timeout
    text = given.strip()
    seconds = float(text) if _DECIMAL.fullmatch(text) else math.nan
    if not seconds > 0:
        raise BadTimeout(f"{TIMEOUT_HEADER} must be seconds above 0, as in 2.5; got {given[:32]!r}")
    return min(seconds, settings.max_timeout)
