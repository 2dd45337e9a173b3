"""The outermost layer: request id in and out, security headers, one log line, metrics and a trace per
request. Pure ASGI, so that `receive` reaches the routes as it is and they can see a client leave.
"""

import logging
import re
import time
import uuid
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.logs import log
from service.metrics import Metrics, method_label
from service.responses import SECURITY_HEADERS, problem_response
from service.settings import Settings
from service.tracing import RequestTrace, Tracing, trace_ids

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Probes, and Prometheus.
_QUIET = {"/healthz", "/readyz", "/metrics", "/label-studio/health", "/v2/health/live", "/v2/health/ready"}


def request_id_from(given: str) -> str:
    """The client's own request id if it is a decent one, else a new one."""
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


class RequestContext:
    """Wraps the app. `scope["state"]` gets `request_id`, `stages` (stage name -> milliseconds, filled by the
    routes), `facts` (more for the log line: key, model, images) and `arrived` (time.monotonic seconds, from
    which deadlines count).
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, settings: Settings, tracing: Tracing | None = None
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing
        self._slow = settings.slow_request
        self._hsts = f"max-age={settings.hsts_seconds}" if settings.hsts_seconds else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        method = scope["method"]
        if method == "HEAD":  # answered as GET; the HTTP server, which keeps its own scope, sends no body
            scope = {**scope, "method": "GET"}
        headers = Headers(scope=scope)
        request_id = request_id_from(headers.get("x-request-id", ""))
        stages: dict[str, float] = {}
        facts: dict[str, Any] = {}
        arrived = time.monotonic()
        scope.setdefault("state", {}).update(
            request_id=request_id, stages=stages, facts=facts, arrived=arrived
        )
        status = received = sent = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(MutableHeaders(scope=message), request_id, scope["scheme"])
            if method != "HEAD":
                sent += len(message.get("body", b""))
            await send(message)

        self._metrics.requests_in_flight.inc()
        with self._trace(method, scope["path"], headers) as trace:
            ids = trace_ids(headers.get("traceparent", "")) | (trace.ids if trace else {})
            client = scope.get("client")
            try:
                await self._app(scope, counted_receive, send_with_headers)
            except Exception as error:
                log(logging.ERROR, "unhandled error", exc=error, request_id=request_id)
                if status == 0:
                    await problem_response(error, request_id)(scope, receive, send_with_headers)
            finally:
                seconds = time.perf_counter() - start
                route = _route_of(scope, status)
                self._metrics.requests_in_flight.dec()
                self._metrics.requests.labels(route, method_label(method), str(status)).inc()
                self._metrics.request_seconds.labels(route).observe(seconds)
                self._metrics.request_bytes.labels(route).observe(received)
                self._metrics.response_bytes.labels(route).observe(sent)
                if trace is not None:
                    trace.finish(route, status, stages, {"request_id": request_id, **facts})
                fields: dict[str, Any] = {**ids, **facts}
                if seconds > self._slow:
                    fields["slow"] = True
                level = logging.DEBUG if scope["path"] in _QUIET else logging.INFO
                log(
                    logging.WARNING if seconds > self._slow else level,
                    "request",
                    request_id=request_id,
                    client=client[0] if client else None,
                    method=method,
                    path=scope["path"],
                    status=status,
                    ms=round(seconds * 1000, 3),
                    bytes_in=received,
                    bytes_out=sent,
                    stages_ms=stages,
                    exc=None,
                    **fields,
                )

    def _add_headers(self, headers: MutableHeaders, request_id: str, scheme: str) -> None:
        headers["X-Request-Id"] = request_id
        for name, value in SECURITY_HEADERS.items():
            headers[name] = value
        if self._hsts is not None and scheme == "https":
            headers["Strict-Transport-Security"] = self._hsts

    def _trace(self, method: str, path: str, headers: Headers) -> AbstractContextManager[RequestTrace | None]:
        if self._tracing is None or path in _QUIET:
            return nullcontext()
        return self._tracing.request(method_label(method), path, headers)


def _route_of(scope: Scope, status: int) -> str:
    """The route's template, never the raw path: a scanner must not create a metric per URL it tries."""
    route = getattr(scope.get("route"), "path", None)
    if route is None and "row" in scope["state"]:  # mounted, or refused before it was routed
        route = scope["state"]["row"].path
    return "unmatched" if status == 404 or route is None else str(route)
