"""What a body becomes in Python may take twenty times its bytes: it is read in one go on a thread of the
pool, so that no more of it exists than there are threads, and nothing of it while its request waits.
"""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from hindsight.artifact import Artifact
from service.body import BodyBudget
from service.callers import Caller
from service.errors import Busy
from service.kserve import rest
from service.kserve.grpc_methods import METHODS, Asked
from service.kserve.proto.messages import message
from service.label_studio import routes as label_studio
from service.registry import ModelRegistry
from service.settings import Settings

MANY = [[1]] * 96 * 160 * 3
HEAD = {"name": "images", "datatype": "UINT8", "shape": [1, 96, 160, 3]}
SIZES = {"name": "image_sizes", "datatype": "INT64", "shape": [1, 2], "data": [96, 160]}


class House:
    """As much of Services as these calls look at; nobody is admitted."""

    def __init__(self, artifact: Artifact) -> None:
        self.jobs: list[str] = []
        self.settings = Settings()
        self.registry = ModelRegistry([artifact])
        self.budget = BodyBudget(10**9)
        self.pool = self.batcher = self

    async def run_if_large(self, size: int, work: Any, *arguments: Any) -> Any:
        self.jobs.append(work.__name__)
        return work(*arguments)

    def check_room(self, caller: Caller, *, model: str) -> None:
        """There is."""

    def admit(self, count: int, caller: Caller, *, model: str) -> Any:
        raise Busy("full", retry_after=1)


def request_of(house: House, body: bytes) -> Request:
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        for each in messages:
            return each
        await asyncio.sleep(3600)
        raise AssertionError

    app = SimpleNamespace(state=SimpleNamespace(services=house))
    state = {"request_id": "id", "stages": {}, "facts": {}}
    scope = {"type": "http", "headers": [], "app": app, "state": state, "client": ("a", 1)}
    return Request(scope, receive)


def test_over_rest(tiny_artifact: Artifact) -> None:
    house = House(tiny_artifact)
    body = json.dumps({"inputs": [{**HEAD, "data": MANY}, SIZES]}).encode()
    with pytest.raises(Busy):
        asyncio.run(rest.infer(request_of(house, body), "tiny.tensor"))
    assert house.jobs == ["_read_call"]


def test_over_grpc(tiny_artifact: Artifact) -> None:
    house = House(tiny_artifact)
    call = message("ModelInferRequest")(model_name="tiny.tensor")
    images = call.inputs.add(**HEAD)
    images.contents.uint_contents.extend([1] * len(MANY))
    call.inputs.add(name="image_sizes", datatype="INT64", shape=[1, 2]).contents.int64_contents.extend(
        [96, 160]
    )
    asked = Asked(call.SerializeToString(), type(call), Caller("", 1e9, 30))
    with pytest.raises(Busy):
        asyncio.run(METHODS["ModelInfer"](house, asked))  # type: ignore[arg-type]  # as much as it looks at
    assert house.jobs == ["_read_call"] and house.budget._held == 0


def test_tasks_of_label_studio(tiny_artifact: Artifact) -> None:
    config = '<View><Image name="i" value="$x"/><RectangleLabels name="l" toName="i"/></View>'
    tasks = [{"id": 7, "data": {"x": "a.png", "other": MANY}, "annotations": MANY}]
    body = json.dumps({"tasks": tasks, "label_config": config, "more": MANY}).encode()
    names = tiny_artifact.manifest.class_names
    [task], control = label_studio._read_tasks(body, 10, names)
    assert vars(task) == {"number": 7, "image": "a.png"} and control.key == "x"
