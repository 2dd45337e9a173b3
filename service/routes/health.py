"""Probes and metrics."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from service.pipeline import services_of
from service.responses import json_response
from service.schemas import Readiness

router = APIRouter()


@router.get("/healthz", summary="Is the process alive", response_model=None)
async def healthz() -> Response:
    return json_response({"alive": True})


@router.get(
    "/readyz",
    summary="Can it answer: is a worker ready",
    response_model=None,
    responses={
        200: {"description": "Ready.", "model": Readiness},
        503: {
            "description": "Loading, or a lost worker is being restarted, or about to stop.",
            "model": Readiness,
        },
    },
)
async def readyz(request: Request) -> Response:
    services = services_of(request)
    ready, draining = services.ready, services.requests.draining
    workers = [
        {"device": engine.device, "state": engine.state, "step": engine.step, "failure": engine.failure}
        for engine in services.engines
    ]
    document = {"ready": ready, "draining": draining, "workers": workers}
    return json_response(document, 200 if ready else 503)


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    responses={200: {"description": "The text exposition format."}},
)
async def metrics(request: Request) -> Response:
    return Response(services_of(request).metrics.render(), media_type=CONTENT_TYPE_LATEST)
