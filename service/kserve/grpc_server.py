"""The gRPC server, in the event loop of the HTTP server and with the same Services.

Every call goes through one wrapper: it asks the hook for leave, maps errors to gRPC's codes, and writes the
log line and the metrics that the HTTP middleware writes for a request.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio

from hindsight.errors import HindsightError
from service import visit
from service.callers import Caller
from service.errors import (
    BadBody,
    BodyTimeout,
    Busy,
    detail_of,
    problem_for,
    retry_after_of,
    whole_seconds,
)
from service.kserve.grpc_methods import METHODS, Asked, Method
from service.kserve.grpc_tls import GrpcCertificate
from service.kserve.proto.messages import SERVICE, methods
from service.logs import log
from service.middleware import request_id_from
from service.pipeline import Services

Authorize = Callable[[str, Mapping[str, str]], Awaitable[str | None]]
"""Given a call's method (`ModelInfer`) and metadata by lower-case name: whom the queue is fair to, or None
for the peer's address. Raises HindsightError to refuse.
"""

_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_QUIET = {"ServerLive", "ServerReady", "ModelReady"}  # probes: logged at debug only
_IDENTITY_ONLY = 1
_IDLE_SECONDS = 600  # without a call; clients connect again by themselves
_HANDSHAKE_SECONDS = 10


async def anyone(method: str, metadata: Mapping[str, str]) -> None:
    """The hook of a server that asks nobody for a key."""


class GrpcServer:
    """Listens from `start` to `stop`."""

    def __init__(
        self,
        services: Services,
        authorize: Authorize = anyone,
        certificate: GrpcCertificate | None = None,
    ) -> None:
        self._services = services
        self._authorize = authorize
        self.certificate = certificate
        self._server: grpc.aio.Server | None = None
        self.port = 0
        """The one it listens on, once it does."""

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 picks a free one. Raises OSError."""
        settings = self._services.settings
        # It holds a message whole before anybody may refuse it, so calls times bytes bound the memory. Not
        # compressed: neither images nor most tensors shrink, and gRPC unpacks before it looks at the size.
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", settings.grpc_max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
                ("grpc.so_reuseport", 0),
                ("grpc.max_connection_idle_ms", 1000 * _IDLE_SECONDS),
                ("grpc.server_handshake_timeout_ms", 1000 * _HANDSHAKE_SECONDS),
            ],
            maximum_concurrent_rpcs=settings.grpc_max_calls,
        )
        server.add_generic_rpc_handlers([self._handlers()])
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self.certificate is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, self.certificate.credentials)
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on {address}: {error}") from None
        await server.start()
        self._server = server

    async def stop(self, grace: float) -> None:
        """Refuse new calls at once; those under way have `grace` seconds."""
        if self._server is not None:
            await self._server.stop(grace)

    def _handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                # As a stream, of which one message is read: so a key is asked for, and the time runs, before
                # the message is here. gRPC's own way waits for it without end.
                name: grpc.stream_unary_rpc_method_handler(
                    self._handler(name, METHODS[name], request),
                    response_serializer=response.SerializeToString,
                )
                for name, (request, response) in methods().items()
            },
        )

    def _handler(self, name: str, method: Method, kind: Any) -> Callable[..., Awaitable[Any]]:
        async def handle(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> Any:
            start = time.perf_counter()
            metadata = {key: value for key, value in context.invocation_metadata() or ()}
            request_id = request_id_from(str(metadata.get("x-request-id", "")))
            trailer = [("x-request-id", request_id)]
            code, detail, answer = grpc.StatusCode.OK, "", None
            try:
                client = await self._authorize(name, metadata)
                caller = self._caller(context, client)
                data = await _message(messages, min(caller.limit, self._services.settings.body_timeout))
                with self._services.requests.enter():
                    answer = await method(self._services, Asked(data, kind, caller))
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED  # the client is gone, or its deadline has passed
                raise
            except Exception as error:
                code, detail = _code_of(error), detail_of(error)
                trailer += _retry_after(error)
                if not isinstance(error, HindsightError):
                    log(logging.ERROR, "unhandled error", exc=error, request_id=request_id)
            finally:
                self._note(name, request_id, context.peer(), code, time.perf_counter() - start)
            context.set_trailing_metadata(tuple(trailer))
            if code is not grpc.StatusCode.OK:
                await context.abort(code, detail)
            return answer

        return handle

    def _caller(self, context: grpc.aio.ServicerContext, client: str | None) -> Caller:
        """The deadline is the call's own, if it has one, as far as X-Request-Timeout would be let go."""
        settings, remaining = self._services.settings, context.time_remaining()
        limit = settings.timeout if remaining is None else min(max(0.0, remaining), settings.max_timeout)
        return Caller(client or _address_of(context.peer()), time.monotonic() + limit, limit)

    def _note(self, name: str, request_id: str, peer: str, code: grpc.StatusCode, seconds: float) -> None:
        route = f"{SERVICE}/{name}"
        metrics = self._services.metrics
        metrics.requests.labels(route, "gRPC", code.name).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        slow = seconds > self._services.settings.slow_request
        level = logging.DEBUG if name in _QUIET else logging.INFO
        known = visit.current() or visit.Visit()
        fields = {**known.facts, "slow": True} if slow else known.facts
        log(
            logging.WARNING if slow else level,
            "request",
            request_id=request_id,
            client=_address_of(peer),
            method="gRPC",
            path=route,
            status=code.name,
            ms=round(seconds * 1000, 3),
            stages_ms=known.stages,
            exc=None,
            **fields,
        )


async def _message(messages: AsyncIterator[bytes], seconds: float) -> bytes:
    """The one message of a call. Raises BodyTimeout, BadBody."""
    try:
        async with asyncio.timeout(seconds):
            async for data in messages:
                return data
    except TimeoutError:
        raise BodyTimeout(f"the call's message did not come within {seconds:g} s") from None
    raise BadBody("the call has no message")


def _address_of(peer: str) -> str:
    """192.0.2.1 of "ipv4:192.0.2.1:50123", ::1 of "ipv6:%5B::1%5D:50123": as HTTP has it, so that a client is
    the same one by either protocol. The port is another for each connection.
    """
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else peer


def _code_of(error: Exception) -> grpc.StatusCode:
    """By the status that the table of problems has for it."""
    status = problem_for(error).status
    other = grpc.StatusCode.INVALID_ARGUMENT if status < 500 else grpc.StatusCode.INTERNAL
    return _CODES.get(status, other)


def _retry_after(error: Exception) -> list[tuple[str, str]]:
    """`retry-after` in seconds, as in HTTP, and in the form that gRPC's own retry policy reads. That has
    milliseconds, so no answer is held back here as it is there.
    """
    seconds = retry_after_of(error)
    if seconds is None:
        return []
    seconds += error.hold if isinstance(error, Busy) else 0.0
    return [
        ("retry-after", str(whole_seconds(seconds))),
        ("grpc-retry-pushback-ms", str(math.ceil(seconds * 1000))),
    ]
