"""Who may call what: ONE table of every path, and the layer that holds requests to it.

Roles: `user` sends images, `metrics` reads /metrics, `admin` loads models and may do all the rest.
"""

import base64
import binascii
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from starlette.datastructures import Headers
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import (
    KeyRequired,
    NotAllowed,
    RateLimited,
    RequestError,
    problem_body,
    problem_for_status,
)
from service.keyring import KeyRing
from service.keys import Key
from service.logs import log
from service.metrics import Metrics
from service.responses import problem_document_response, problem_response
from service.settings import Settings
from service.visit import Visit, begin, during

Audience = Literal["open", "user", "metrics", "admin"]


@dataclass(frozen=True)
class Row:
    """One path; method `*` is any. ports: where it is when there is an admin port."""

    method: str
    path: str
    audience: Audience
    ports: Literal["public", "admin", "both"] = "public"


# The first row that fits decides. A path of no row needs a user's key; a test demands a row for each route.
TABLE = (
    Row("GET", "/healthz", "open", "both"),
    Row("GET", "/readyz", "open", "both"),
    Row("GET", "/metrics", "metrics", "admin"),
    # The page and the reference hold nothing of anybody's; the page asks for a key when it needs one.
    Row("GET", "/", "open"),
    Row("GET", "/page/{path:path}", "open"),
    Row("GET", "/docs", "open"),
    Row("GET", "/docs.css", "open"),
    Row("GET", "/openapi.json", "open"),
    Row("POST", "/detect", "user"),
    Row("POST", "/rescore", "user"),
    Row("GET", "/models", "user", "both"),
    Row("GET", "/models/{name}", "user", "both"),
    Row("GET", "/models/{name}/samples/{file}", "user"),
    Row("POST", "/models/{name}/load", "admin", "admin"),
    Row("POST", "/models/{name}/unload", "admin", "admin"),
    # KServe V2
    Row("GET", "/v2/health/live", "open", "both"),
    Row("GET", "/v2/health/ready", "open", "both"),
    Row("POST", "/v2/repository/index", "user", "both"),
    Row("POST", "/v2/repository/models/{name}/load", "admin", "admin"),
    Row("POST", "/v2/repository/models/{name}/unload", "admin", "admin"),
    Row("GET", "/v2", "user"),
    Row("*", "/v2/{path:path}", "user"),
    # Label Studio
    Row("GET", "/label-studio", "open"),
    Row("GET", "/label-studio/", "open"),
    Row("GET", "/label-studio/health", "open"),
    Row("GET", "/label-studio/{model}/health", "open"),
    Row("*", "/label-studio/{path:path}", "user"),
)
_MATCHERS = tuple((row, compile_path(row.path)[0]) for row in TABLE)
_UNLISTED = Row("*", "unmatched", "user")


def row_of(method: str, path: str) -> Row:
    """The row of a request, HEAD being GET. A wrong method goes by the rules of the path's first row."""
    rows = [row for row, matcher in _MATCHERS if matcher.match(path)]
    fitting = (row for row in rows if row.method in ("*", method))
    return next(fitting, rows[0] if rows else _UNLISTED)


class Access:
    """The rules of one server. `admit` serves any protocol; AccessControl applies it to HTTP."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Raises KeysError for a keys file that cannot be used."""
        self.ring = None if settings.keys_file is None else KeyRing(settings.keys_file, metrics)
        self.has_admin_port = settings.admin_port is not None
        self.admin_port: int | None = None
        """The port that was bound for the admin listener, once it is."""
        self._anonymous = settings.anonymous
        self._metrics = metrics

    def admit(
        self, presented: str | None, audience: Audience, *, images: int = 1, on_admin_port: bool = False
    ) -> Key | None:
        """The key that was presented (None for none), if it opens what `audience` may see; None where no key
        is needed.

        images: what the request costs at the door, before anybody has counted; whoever counts charges the
        rest (`charge` with paid=1). Raises KeyRequired, NotAllowed, RateLimited.
        """
        try:
            key = self._admit(presented, audience, on_admin_port)
        except KeyRequired as error:
            self._metrics.key_rejections.labels(error.reason).inc()
            raise
        except NotAllowed:
            self._metrics.key_rejections.labels("role").inc()
            raise
        if audience == "user":
            self.charge(key, images)
        return key

    def charge(self, key: Key | None, images: int, paid: int = 0) -> None:
        """Count `images` against the key's rate limit; see TokenBucket.take. Raises RateLimited."""
        if self.ring is None or key is None:
            return
        try:
            self.ring.limits.charge(key, images, paid)
        except RateLimited:
            self._metrics.rate_limited.labels(key.name).inc()
            raise

    def _admit(self, presented: str | None, audience: Audience, on_admin_port: bool) -> Key | None:
        if audience == "open" or (audience == "metrics" and (on_admin_port or self.ring is None)):
            return None
        if audience == "admin" and (self.ring is None or not self.ring.has_role("admin")):
            raise NotAllowed(
                "this server has no admin key: make one with `hindsight keys create NAME --role admin --file "
                "FILE` and serve with --keys-file FILE"
            )
        if self.ring is None:
            return None
        if presented is None:
            if audience == "user" and self._anonymous:
                return None
            raise KeyRequired(
                "an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY", reason="missing"
            )
        key = self.ring.find(presented)
        if key.role not in ("admin", audience):
            raise NotAllowed(f"the key {key.name!r} has the role {key.role}; this needs the role {audience}")
        return key


def client_of(key: Key) -> str:
    """Whom the queue is fair to."""
    return f"key {key.name}"


_GRPC_AUDIENCES: dict[str, Audience] = {
    "ServerLive": "open",
    "ServerReady": "open",
    "RepositoryModelLoad": "admin",
    "RepositoryModelUnload": "admin",
}


class AccessControl:
    """The layer between RequestContext and the routes."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope["state"]
        row = row_of(scope["method"], scope["path"])
        state["row"] = row
        access = self._access
        on_admin = access.admin_port is not None and scope["server"][1] == access.admin_port
        if access.has_admin_port and row.ports not in ("both", "admin" if on_admin else "public"):
            state["row"] = _UNLISTED
            other = "the admin port" if row.ports == "admin" else "the public port"
            detail = f"nothing is at {scope['path'][:128]} on this port"
            # Which port has it is said on the admin port alone: the public one does not speak of the other.
            detail += f"; it is on {other}" if on_admin and row is not _UNLISTED else ""
            body = problem_body(problem_for_status(404), detail, state["request_id"])
            response = problem_document_response(body)
            await response(scope, receive, send)
            return
        try:
            key = access.admit(
                presented_key(Headers(scope=scope)),
                row.audience,
                images=int(scope["method"] == "POST"),  # what only asks costs nothing
                on_admin_port=on_admin,
            )
        except RequestError as error:
            response = problem_response(error, state["request_id"], scope["path"])
            if isinstance(error, KeyRequired):
                invalid = "" if error.reason == "missing" else ', error="invalid_token"'
                response.headers["WWW-Authenticate"] = f'Bearer realm="hindsight"{invalid}'
                log(logging.DEBUG, "key refused", request_id=state["request_id"], reason=error.reason)
            await response(scope, receive, send)
            return
        if key is not None:
            state["facts"]["key"] = key.name
            state["client"] = client_of(key)
        with during(Visit(state["facts"], state["stages"], partial(access.charge, key, paid=1))):
            await self._app(scope, receive, send)


def grpc_authorize(access: Access) -> Callable[[str, Mapping[str, str]], Awaitable[str | None]]:
    """The same rules for gRPC: given a call's method and metadata, tells whom the queue is fair to where a
    key says it, or raises KeyRequired, NotAllowed or RateLimited. Metadata carry a key as headers do.
    """

    async def authorize(method: str, metadata: Mapping[str, str]) -> str | None:
        texts = {name: value for name, value in metadata.items() if isinstance(value, str)}
        audience = _GRPC_AUDIENCES.get(method, "user")
        if audience == "admin" and access.has_admin_port:
            raise NotAllowed("models are not loaded on this port")
        key = access.admit(presented_key(Headers(texts)), audience, images=int(method == "ModelInfer"))
        facts = {} if key is None else {"key": key.name}
        # For the task of this call, which awaits us.
        begin(Visit(facts, charge=partial(access.charge, key, paid=1)))
        return None if key is None else client_of(key)

    return authorize


def presented_key(headers: Headers) -> str | None:
    """The key in X-API-Key, else in Authorization: Bearer, or the password of Basic, which is all that some
    clients can send. None where there is none.
    """
    given = headers.get("x-api-key")
    if given is None:
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            given = value.strip()
        elif scheme.lower() == "basic":
            given = _password(value)
    return given or None


def _password(value: str) -> str:
    try:
        return base64.b64decode(value.strip(), validate=True).decode("latin-1").partition(":")[2]
    except binascii.Error:
        return ""
