"""The routes Label Studio calls, under /label-studio for the default model and /label-studio/NAME for
another. They are left out of the OpenAPI document: their forms are Label Studio's.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request, Response

from hindsight.artifact import Artifact
from hindsight.errors import HindsightError, ModelNotFound
from hindsight.options import DetectOptions
from service.body import BodyLease, Item, parse_json, read_body
from service.callers import TIMEOUT_HEADER, Caller, caller_of
from service.errors import BadBody, TooManyImages, problem_for
from service.formats import to_labelstudio
from service.label_studio.config import Control, read_control
from service.label_studio.media import read_image
from service.logs import log
from service.pipeline import (
    Detected,
    Services,
    detect_image,
    receive_body,
    services_of,
    unless_disconnected,
)
from service.responses import json_response
from service.together import each_for_itself
from service.visit import count_images

_UNDEFINED = "$undefined$"  # where Label Studio puts the data of tasks imported without keys
_MOST_COMMAS = 1_000_000
_RETRY_LATER = {503, 504}

router = APIRouter(prefix="/label-studio", include_in_schema=False)


@router.get("")
@router.get("/")
@router.get("/health")
@router.get("/{model}/health")
async def health(request: Request, model: str | None = None) -> Response:
    services = services_of(request)
    try:
        services.registry.get(model)
    except ModelNotFound:
        # Health needs no key, so it does not tell which models there are.
        raise ModelNotFound(f"no model {str(model)[:64]!r}") from None
    ready = services.ready
    status = "UP" if ready else "DOWN"
    return json_response({"status": status, "model_class": "Hindsight"}, 200 if ready else 503)


@router.post("/setup")
@router.post("/{model}/setup")
async def setup(request: Request, model: str | None = None) -> Response:
    """Label Studio asks when a project is connected. The project's credentials come along and are not
    used.
    """
    artifact = services_of(request).registry.get(model)
    with services_of(request).budget.lease() as lease:
        document = await _document(request, lease)
    read_control(_text(document, "schema"), artifact.manifest.class_names)
    return json_response({"model_version": _version(artifact)})


@router.get("/versions")
@router.get("/{model}/versions")
async def versions(request: Request, model: str | None = None) -> Response:
    return json_response({"versions": [_version(services_of(request).registry.get(model))]})


@router.post("/webhook")
@router.post("/train")
@router.post("/{model}/webhook")
@router.post("/{model}/train")
async def event(request: Request, model: str | None = None) -> Response:
    """Annotations were made: nothing to do here."""
    services_of(request).registry.get(model)
    with services_of(request).budget.lease() as lease:
        await _document(request, lease)
    detail = "this server does not learn from annotations; hindsight train does"
    return json_response({"status": "ignored", "detail": detail})


@router.post("/predict")
@router.post("/{model}/predict")
async def predict(request: Request, model: str | None = None) -> Response:
    """Boxes for each task, in order. A task whose image cannot be used has none, and says why in `error`."""
    services = services_of(request)
    artifact = services.registry.get(model)
    caller = caller_of(request, services.settings)
    with services.budget.lease() as lease:
        body = await receive_body(services, request, caller, lease, artifact.manifest.name)
        most, names = services.settings.label_studio_max_tasks, artifact.manifest.class_names
        tasks, control = await services.pool.run_if_large(len(body), _read_tasks, body, most, names)
        del body
        count_images(artifact.manifest.name, max(1, len(tasks)))
        options = DetectOptions.resolve(artifact.manifest, score_threshold=control.score_threshold)
        whole = TIMEOUT_HEADER in request.headers
        predictor = _Predictor(services, caller, artifact, control, options, one_deadline=whole)
        results = await unless_disconnected(request, predictor.all(tasks))
    return json_response({"results": results, "model_version": _version(artifact)})


@dataclass(frozen=True)
class _Task:
    """What is needed of a task. number: its id, for the log. image: what names its image, or why nothing
    does.
    """

    number: int | str | None
    image: str | HindsightError


def _read_tasks(body: bytes, most: int, class_names: Sequence[str]) -> tuple[list[_Task], Control]:
    """Tasks carry much that is not needed, and Python takes many times its bytes: so in one go, on a thread
    of the pool, and the rest is let go before anything waits.
    """
    document = _parsed(body)
    tasks = document.get("tasks")
    if not isinstance(tasks, list):
        raise BadBody("the request needs tasks, a list")
    if len(tasks) > most:
        raise TooManyImages(f"{len(tasks)} tasks; at most {most} are accepted in one request")
    control = read_control(_text(document, "label_config"), class_names)
    return [_Task(_number_of(task), _image_of(task, control.key)) for task in tasks], control


def _number_of(task: object) -> int | str | None:
    """A task's id, where it is what an id should be: a client may send anything, of any size."""
    number = task.get("id") if isinstance(task, dict) else None
    if isinstance(number, int):
        return number if abs(number) < 2**63 else None
    return number[:64] if isinstance(number, str) else None


def _image_of(task: object, key: str) -> str | HindsightError:
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict):
        return BadBody("the task has no data")
    if key not in data and _UNDEFINED not in data:
        return BadBody(f"the task's data has no {key[:64]!r}")
    image = data[key] if key in data else data[_UNDEFINED]
    if not isinstance(image, str):
        return BadBody(f"the task's image must be a text, got {type(image).__name__}")
    return image


class _Predictor:
    """Answers the tasks of one request, as many at once as one request may hold images.

    one_deadline: the client said how long it waits. Else each turn has the time of a request, for Label
    Studio waits long, and one request of its holds many images.
    """

    def __init__(
        self,
        services: Services,
        caller: Caller,
        artifact: Artifact,
        control: Control,
        options: DetectOptions,
        *,
        one_deadline: bool,
    ) -> None:
        self._services = services
        self._caller = caller
        self._artifact = artifact
        self._control = control
        self._options = options
        self._one_deadline = one_deadline

    async def all(self, tasks: list[_Task]) -> list[dict[str, Any]]:
        """Raises what is worth a retry (a full queue, a lost worker): Label Studio keeps what it gets."""
        step = self._services.settings.max_images
        results: list[dict[str, Any]] = []
        for start in range(0, len(tasks), step):
            with self._services.budget.lease() as lease:
                items: list[Item] = []
                for task in tasks[start : start + step]:
                    items.append(await self._read(task))
                    lease.take(len(items[-1]) if isinstance(items[-1], bytes) else 0)
                outcomes = await self._detect(items)
            results += [
                self._prediction(task, outcome)
                for task, outcome in zip(tasks[start : start + step], outcomes, strict=True)
            ]
        return results

    async def _read(self, task: _Task) -> Item:
        if isinstance(task.image, HindsightError):
            return task.image
        try:
            return await self._services.pool.run(read_image, task.image, self._services.settings)
        except HindsightError as error:
            return error

    async def _detect(self, items: list[Item]) -> list[Detected | HindsightError]:
        readable = [item for item in items if not isinstance(item, HindsightError)]
        caller = self._caller
        if not self._one_deadline:
            caller = replace(caller, deadline=time.monotonic() + caller.limit)
        slots = self._services.batcher.admit(len(readable), caller, model=self._artifact.manifest.name)
        works = [
            detect_image(self._services, self._artifact, self._options, item, slot)
            for item, slot in zip(readable, slots, strict=True)
        ]
        found = iter(await each_for_itself(slots, works))
        return [item if isinstance(item, HindsightError) else _outcome(next(found)) for item in items]

    def _prediction(self, task: _Task, outcome: Detected | HindsightError) -> dict[str, Any]:
        if isinstance(outcome, HindsightError):
            log(
                logging.WARNING,
                "no prediction for a task",
                task=task.number,
                reason=str(outcome),
            )
            empty = {"model_version": _version(self._artifact), "score": 0.0, "result": []}
            return {**empty, "error": str(outcome)}
        control = self._control
        return to_labelstudio(
            outcome.detections,
            self._artifact.manifest,
            from_name=control.from_name,
            to_name=control.to_name,
            labels=control.labels,
        )


def _outcome(found: Detected | Exception) -> Detected | HindsightError:
    """Raises what is no matter of this image alone."""
    if isinstance(found, Detected):
        return found
    if not isinstance(found, HindsightError) or problem_for(found).status in _RETRY_LATER:
        raise found
    return found


async def _document(request: Request, lease: BodyLease) -> dict[str, Any]:
    """The JSON object of a body. Unknown keys are left alone: each version of Label Studio has its own."""
    services = services_of(request)
    body = await read_body(request, services.settings, lease)
    return await services.pool.run_if_large(len(body), _parsed, body)


def _parsed(body: bytes) -> dict[str, Any]:
    commas = body.count(b",")
    if commas > _MOST_COMMAS:
        raise BadBody(f"the JSON holds about {commas} values; at most {_MOST_COMMAS} are accepted")
    document = parse_json(body)
    if not isinstance(document, dict):
        raise BadBody(f"the JSON body must be an object, got {type(document).__name__}")
    return document


def _text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise BadBody(f"the request needs {key}, the labeling configuration as a text")
    return value


def _version(artifact: Artifact) -> str:
    """One text for /setup and every prediction: Label Studio skips tasks that have one of this version."""
    return f"{artifact.manifest.name} {artifact.manifest.version}"
