"""The outermost layer: request id in and out, security headers, one log line and metrics per request. Pure
ASGI, so that `receive` reaches the routes untouched and they can see a client leave.
"""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.logs import log
from service.metrics import Metrics
from service.responses import problem_response

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_QUIET = {"/healthz", "/readyz", "/metrics"}  # probes: logged at debug only


def request_id_from(given: str) -> str:
    """The client's own request id if it is a decent one, else a new one."""
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


class RequestContext:
    """Wraps the app. `scope["state"]` gets `request_id`, `stages` (stage name -> milliseconds, filled by the
    routes) and `arrived` (time.monotonic seconds, from which deadlines count).
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        method = scope["method"]
        if method == "HEAD":  # answered as GET; the HTTP server, which keeps its own scope, sends no body
            scope = {**scope, "method": "GET"}
        request_id = request_id_from(Headers(scope=scope).get("x-request-id", ""))
        stages: dict[str, float] = {}
        scope.setdefault("state", {}).update(request_id=request_id, stages=stages, arrived=time.monotonic())
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in _SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            log(logging.ERROR, "unhandled error", exc=error, request_id=request_id)
            if status == 0:
                await problem_response(error, request_id)(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - start
            # The route's template, never the raw path: a scanner must not create a metric per URL it tries.
            route = getattr(scope.get("route"), "path", None) if status != 404 else "unmatched"
            if route is None:  # mounted or plain routes
                route = "/" + scope["path"].split("/")[1] if status < 400 else "unmatched"
            self._metrics.requests.labels(route, method, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(seconds)
            log(
                logging.DEBUG if scope["path"] in _QUIET else logging.INFO,
                "request",
                request_id=request_id,
                method=method,
                path=scope["path"],
                status=status,
                ms=round(seconds * 1000, 3),
                stages_ms=stages,
            )
