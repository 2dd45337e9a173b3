"""The application: builds the parts, wires them, starts and stops them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from hindsight.preprocess import ImageLimits
from hindsight.version import __version__
from service import handlers, query
from service.allocator import trim_now_and_then
from service.batcher import Batcher
from service.body import BodyBudget
from service.decode import CpuPool
from service.engine import Engine
from service.metrics import Metrics
from service.middleware import RequestContext
from service.openapi import move_problem_schemas
from service.pipeline import Services
from service.registry import ModelRegistry, load_models
from service.routes import detect, health, models, page, rescore
from service.settings import Settings
from service.worker import WorkerSpec

_DESCRIPTION = (
    "Object detection with a second opinion on every box: class score, predicted IoU, purity and integrity. "
    "Errors are RFC 9457 problem documents; every answer carries X-Request-Id."
)


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
    """The service as an ASGI application. Raises ModelNotFound, ArtifactError before anything starts."""
    settings = settings or Settings()
    registry = registry or load_models(settings.model)
    hooks = hooks or Hooks()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = _build(settings, registry, metrics)
        app.state.services = services
        _connect(services, hooks)
        for engine in services.engines:
            engine.start()
        services.batcher.start()
        trimming = asyncio.create_task(trim_now_and_then(), name="trim memory")
        try:
            yield
        finally:
            trimming.cancel()
            await services.batcher.stop()
            for engine in services.engines:
                await engine.stop()
            services.pool.close()

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
    app.state.metrics = metrics  # for whoever serves the app, see service/http_protocol.py
    app.add_middleware(RequestContext, metrics=metrics)
    handlers.install_handlers(app)
    for module in (detect, rescore, models, health, page):
        app.include_router(module.router)
    page.mount_page(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way
    query.KNOWN.update(
        {"/detect": {*detect.DetectQuery.model_fields}, "/rescore": {*rescore.RescoreQuery.model_fields}}
    )
    return app


def _build(settings: Settings, registry: ModelRegistry, metrics: Metrics) -> Services:
    folders = {artifact.manifest.name: str(artifact.path.resolve()) for artifact in registry}
    engines = [
        Engine(WorkerSpec(folders, settings.backend, device, settings.threads), settings, metrics)
        for device in settings.device
    ]
    limits = ImageLimits(max_bytes=settings.max_body_bytes, max_pixels=settings.max_pixels)
    return Services(
        settings=settings,
        registry=registry,
        engines=engines,
        batcher=Batcher(engines, settings, metrics),
        pool=CpuPool(settings.decode_threads, limits),
        metrics=metrics,
        budget=BodyBudget(settings.max_buffered_bytes),
    )


def _connect(services: Services, hooks: Hooks) -> None:
    was_ready = False

    def engine_ready(engine: Engine, seconds: dict[str, float]) -> None:
        nonlocal was_ready
        for artifact in services.registry:
            services.batcher.times.seed(
                artifact.manifest.name, artifact.manifest.resize, seconds[artifact.manifest.name]
            )
        if not was_ready and all(each.is_ready for each in services.engines):
            was_ready = True
            hooks.ready()

    def engine_start_failed(engine: Engine, reason: str) -> None:
        if not was_ready:
            hooks.start_failed(f"device {engine.device}: {reason}")

    for engine in services.engines:
        engine.on_ready = engine_ready
        engine.on_start_failed = engine_start_failed


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        app.openapi_schema = move_problem_schemas(document)
    return app.openapi_schema
