"""Loading and unloading through KServe V2, with the real tritonclient of both protocols."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tests.e2e.keyed import Keyed, bearer, keyed_server
from tests.e2e.test_kserve_grpc import address
from tests.e2e.test_kserve_rest import refused
from tests.e2e.triton_http import TritonClient
from tests.factories import make_tiny_artifact
from tests.server_process import TILES, assert_problem

WORDS = ("--model", "tiny", "--backend", "sleep:1", "--grpc-port", "0")


def add_version(folder: Path, name: str, version: str) -> Path:
    return make_tiny_artifact(folder / name / version, name=name, version=version).path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    for name in ("tiny", "other"):
        add_version(models, name, "1")
    return models


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Keyed]:
    with keyed_server(tmp_path_factory.mktemp("server"), *WORDS, "--models", str(folder)) as found:
        yield found


@dataclass
class Spoken:
    """One protocol's client, and the statuses it has for what is refused."""

    client: Any
    keyed: Keyed
    not_found: str
    not_allowed: str
    malformed: str

    def index(self) -> dict[tuple[str, str], tuple[str, str]]:
        answer = self.client.get_model_repository_index(headers=bearer(self.keyed.user))
        entries = answer if isinstance(answer, list) else [_plain(each) for each in answer.models]
        return {(each["name"], each["version"]): (each["state"], each["reason"]) for each in entries}


def _plain(entry: Any) -> dict[str, str]:
    return {name: getattr(entry, name) for name in ("name", "version", "state", "reason")}


@pytest.fixture(params=["http", "grpc"])
def spoken(request: pytest.FixtureRequest, keyed: Keyed) -> Iterator[Spoken]:
    made: AbstractContextManager[Any]
    if request.param == "http":
        made = TritonClient(f"127.0.0.1:{keyed.server.port}", network_timeout=60)
        statuses = ("404", "403", "422")
    else:
        made = tritonclient.grpc.InferenceServerClient(address(keyed.server))
        codes = ("NOT_FOUND", "PERMISSION_DENIED", "INVALID_ARGUMENT")
        statuses = tuple(f"StatusCode.{code}" for code in codes)  # type: ignore[assignment]
    with made as client:
        yield Spoken(client, keyed, *statuses)


def test_an_admin_loads_and_unloads(spoken: Spoken, folder: Path) -> None:
    client, headers = spoken.client, bearer(spoken.keyed.admin)
    version = "2" if spoken.not_found == "404" else "3"
    add_version(folder, "other", version)
    assert spoken.index()["other", version] == ("UNAVAILABLE", "unloaded")
    client.load_model("other", headers=headers)
    assert client.is_model_ready("other", headers=headers)
    index = spoken.index()
    assert index["other", version] == index["other.tensor", version] == ("READY", "")
    assert index["other", "1"] == ("UNAVAILABLE", "unloaded"), "the newest takes the place of what was loaded"
    answer = spoken.keyed.server.client.post("/detect", params={"model": "other"}, content=TILES)
    assert answer.json()["version"] == version
    client.unload_model("other", headers=headers, unload_dependents=True)
    assert spoken.index()["other", version] == ("UNAVAILABLE", "unloaded")
    assert ("other.tensor", version) not in spoken.index()
    assert refused(client.load_model, "none", headers=headers)[0] == spoken.not_found
    client.load_model("other", headers=headers)
    assert spoken.index()["other", version] == ("READY", "")


def test_nobody_else_does(spoken: Spoken) -> None:
    for call in (spoken.client.load_model, spoken.client.unload_model):
        status, message = refused(call, "other", headers=bearer(spoken.keyed.user))
        assert status == spoken.not_allowed and "role admin" in message
        with pytest.raises(InferenceServerException, match="API key is needed"):
            call("other")
    assert spoken.index()["tiny", "1"] == ("READY", "")


def test_what_is_not_offered_says_so(spoken: Spoken) -> None:
    client, headers = spoken.client, bearer(spoken.keyed.admin)
    status, message = refused(client.load_model, "other", headers=headers, config="{}")
    assert status == spoken.malformed and "takes no parameters here, got config" in message
    assert "load or unload tiny" in refused(client.load_model, "tiny.tensor", headers=headers)[1]
    assert "default model" in refused(client.unload_model, "tiny", headers=headers)[1]
    for name in ("..", ".hidden", "a b"):
        assert refused(client.load_model, name, headers=headers)[0] == spoken.not_found


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"parameters": []}', b'{"config": "{}"}'])
def test_bodies_that_are_none(keyed: Keyed, body: bytes) -> None:
    answer = keyed.server.client.post("/v2/repository/models/other/load", content=body)
    assert answer.status_code == 400 and answer.json()["error"]


def test_a_repository_has_no_name(keyed: Keyed) -> None:
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with tritonclient.grpc.grpc.insecure_channel(address(keyed.server)) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.RepositoryModelLoadRequest(repository_name="far", model_name="other")
        with pytest.raises(tritonclient.grpc.grpc.RpcError, match="one repository here"):
            stub.RepositoryModelLoad(request, metadata=list(bearer(keyed.admin).items()), timeout=60)


def test_with_an_admin_port_the_public_ones_do_not_load(tmp_path: Path, folder: Path) -> None:
    words = (*WORDS, "--models", str(folder), "--admin-port", "0")
    with keyed_server(tmp_path, *words) as keyed:
        hidden = keyed.server.client.post("/v2/repository/models/tiny/load")
        assert_problem(hidden, 404, "not-found")
        line = keyed.server.ready_line
        inside = line.rpartition("admin: ")[2].partition(";")[0].rstrip(")")
        with tritonclient.grpc.InferenceServerClient(address(keyed.server)) as client:
            status, message = refused(client.load_model, "tiny", headers=bearer(keyed.admin))
            assert status == "StatusCode.PERMISSION_DENIED" and "not loaded on this port" in message
        place = inside.removeprefix("http://")
        with TritonClient(place, network_timeout=60) as client:
            client.load_model("tiny", headers=bearer(keyed.admin))
            assert client.get_model_repository_index(headers=bearer(keyed.user))
        assert httpx.get(f"{inside}/models/tiny", headers=bearer(keyed.user)).json()["last_change"]
