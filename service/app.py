"""The application: builds the parts, wires them, starts and stops them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware

from hindsight.preprocess import ImageLimits
from hindsight.version import __version__
from service import handlers, query
from service.access import Access, AccessControl, grpc_authorize
from service.allocator import trim_now_and_then
from service.batcher import Batcher
from service.body import BodyBudget
from service.decode import CpuPool
from service.engine import Engine
from service.inflight import CountRequests, Requests
from service.kserve import rest as kserve
from service.label_studio import routes as label_studio
from service.logs import log
from service.memory import ImageMemory
from service.metrics import Metrics
from service.middleware import RequestContext
from service.model_control import ModelControl
from service.openapi import describe_access, move_problem_schemas
from service.pipeline import Services
from service.registry import ModelRegistry, load_models
from service.routes import detect, detect_query, health, models, page, rescore
from service.settings import Settings
from service.tracing import Tracing
from service.worker import WorkerSpec

if TYPE_CHECKING:
    from service.kserve.grpc_server import GrpcServer

_DESCRIPTION = (
    "Object detection with a second opinion on every box: class score, predicted IoU, purity and integrity. "
    "Errors are RFC 9457 problem documents; every answer carries X-Request-Id."
)
_CORS_HEADERS = [
    "Authorization",
    "Content-Type",
    "Traceparent",
    "X-API-Key",
    "X-Request-Id",
    "X-Request-Timeout",
]


@dataclass(frozen=True)
class Hooks:
    """What the command line wants to hear. `ready`: every worker is warm. `start_failed`: a worker did not
    come up (reason).
    """

    ready: Callable[[], None] = field(default=lambda: None)
    start_failed: Callable[[str], None] = field(default=lambda reason: None)


def create_app(
    settings: Settings | None = None, registry: ModelRegistry | None = None, hooks: Hooks | None = None
) -> FastAPI:
    """The service as an ASGI application. Raises ModelNotFound, ArtifactError, KeysError, OptionError before
    anything starts.
    """
    settings = settings or Settings()
    registry = registry or load_models(
        settings.named_models, settings.model_repository, skip_bad=settings.skip_bad_models
    )
    metrics = Metrics()
    requests = Requests()
    access = Access(settings, metrics)
    tracing = Tracing() if settings.traces else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = _build(settings, registry, requests, metrics)
        app.state.services = services
        _connect(services, hooks)
        for engine in services.engines:
            engine.start()
        services.batcher.start()
        watching = (
            None if access.ring is None else asyncio.create_task(access.ring.watch(), name="watch keys")
        )
        trimming = asyncio.create_task(trim_now_and_then(), name="trim memory")
        app.state.grpc_server = await _start_grpc(services, app, hooks)
        try:
            yield
        finally:
            trimming.cancel()
            if watching is not None:
                watching.cancel()
            if app.state.grpc_server is not None:
                # Whoever drains (service/server.py) has given the calls their time before.
                await app.state.grpc_server.stop(0 if requests.draining else settings.shutdown_timeout)
            await services.control.stop()
            await services.batcher.stop()
            for engine in services.engines:
                await engine.stop()
            services.pool.close()
            if tracing is not None:
                await asyncio.to_thread(tracing.close)

    # redirect_slashes: a redirect would make clients send their photo twice; a 404 tells them at once.
    app = FastAPI(
        title="Hindsight",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.requests = requests
    app.state.access = access
    app.state.metrics = metrics  # for whoever serves the app, see service/http_protocol.py
    # The last one added is the outermost.
    app.add_middleware(AccessControl, access=access)
    if settings.cors_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origin,
            allow_methods=["GET", "POST"],
            allow_headers=_CORS_HEADERS,
            expose_headers=["Retry-After", "Server-Timing", "X-Request-Id"],
        )
    app.add_middleware(CountRequests, requests=requests)
    app.add_middleware(RequestContext, metrics=metrics, settings=settings, tracing=tracing)
    handlers.install_handlers(app)
    for module in (detect, rescore, models, health, page, kserve, label_studio):
        app.include_router(module.router)
    keys_required = settings.keys_file is not None and not settings.anonymous
    app.openapi = lambda: _openapi(app, keys_required)  # type: ignore[method-assign]  # FastAPI's documented way
    query.KNOWN.update(
        {
            "/detect": {*detect_query.DetectQuery.model_fields},
            "/rescore": {*rescore.RescoreQuery.model_fields},
        }
    )
    return app


def _build(settings: Settings, registry: ModelRegistry, requests: Requests, metrics: Metrics) -> Services:
    folders = {artifact.identity: str(artifact.path.resolve()) for artifact in registry}
    engines = [
        Engine(WorkerSpec(folders, settings.backend, device, settings.threads), settings, metrics)
        for device in settings.device
    ]
    memory = ImageMemory(settings.max_decoded_bytes)
    metrics.image_memory.set_function(lambda: memory.held)
    for artifact in registry:
        metrics.queue_depth.labels(artifact.manifest.name)  # there from the start, as zero
    limits = ImageLimits(max_bytes=settings.max_body_bytes, max_pixels=settings.max_pixels)
    return Services(
        settings=settings,
        registry=registry,
        engines=engines,
        batcher=Batcher(engines, settings, metrics),
        pool=CpuPool(settings.decode_threads, limits, metrics),
        metrics=metrics,
        budget=BodyBudget(settings.max_buffered_bytes),
        memory=memory,
        requests=requests,
        control=ModelControl(registry, engines, requests, settings, metrics),
    )


async def _start_grpc(services: Services, app: FastAPI, hooks: Hooks | None) -> "GrpcServer | None":
    settings = services.settings
    if settings.grpc_port is None:
        return None
    # grpcio is an extra
    from service.kserve.grpc_server import GrpcServer
    from service.kserve.grpc_tls import grpc_certificate

    server = GrpcServer(services, grpc_authorize(app.state.access), grpc_certificate(settings))
    try:
        await server.start(settings.host, settings.grpc_port)
    except OSError as error:
        if hooks is None:
            raise
        asyncio.get_running_loop().call_soon(hooks.start_failed, str(error))
        return None
    app.state.grpc_port = server.port
    return server


def _connect(services: Services, hooks: Hooks | None) -> None:
    was_ready = False

    def engine_ready(engine: Engine, seconds: Mapping[str, float]) -> None:
        nonlocal was_ready
        for artifact in services.registry:
            if artifact.identity in seconds:
                manifest = artifact.manifest
                services.batcher.times.seed(manifest.name, manifest.resize, seconds[artifact.identity])
        if not was_ready and all(each.is_ready for each in services.engines):
            was_ready = True
            if hooks is not None:
                hooks.ready()

    def engine_start_failed(engine: Engine, reason: str) -> None:
        level = logging.ERROR
        if hooks is not None and not was_ready:
            level = logging.DEBUG  # the command line says it, in one line
            hooks.start_failed(f"device {engine.device}: {reason}")
        log(level, "worker did not start", device=engine.device, reason=reason)

    for engine in services.engines:
        engine.on_ready = engine_ready
        engine.on_start_failed = engine_start_failed


def _openapi(app: FastAPI, keys_required: bool) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        app.openapi_schema = describe_access(move_problem_schemas(document), keys_required)
    return app.openapi_schema
