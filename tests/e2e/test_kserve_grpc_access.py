"""Keys, rate limits, versions, readiness and TLS hold for gRPC as they do for HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.e2e.keyed import Keyed, bearer, keyed_server
from tests.e2e.test_kserve_grpc import address, images_input
from tests.e2e.test_operations_tls import Authority
from tests.factories import make_tiny_artifact
from tests.server_process import TILES, ServerProcess, serving

WORDS = ("--backend", "sleep:1", "--grpc-port", "0")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_artifact(tmp_path_factory.mktemp("model") / "tiny").path)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> Iterator[Keyed]:
    with keyed_server(tmp_path_factory.mktemp("keyed"), "--model", tiny, *WORDS) as found:
        yield found


def infer(
    client: triton.InferenceServerClient, images: int = 1, key: str | None = None
) -> triton.InferResult:
    headers = None if key is None else bearer(key)
    return client.infer("tiny", [images_input([TILES] * images)], headers=headers)


def test_calls_need_a_key_and_probes_do_not(keyed: Keyed) -> None:
    with triton.InferenceServerClient(address(keyed.server)) as client:
        assert client.is_server_live() and client.is_server_ready()
        for wrong in (None, "hs_" + "0" * 43):
            with pytest.raises(InferenceServerException) as refused:
                infer(client, key=wrong)
            assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
        assert infer(client, key=keyed.user).as_numpy("boxes") is not None


def test_images_count_against_the_rate_of_a_key(keyed: Keyed) -> None:
    with triton.InferenceServerClient(address(keyed.server)) as client:
        infer(client, 3, keyed.slow)
        with pytest.raises(InferenceServerException, match="slow") as refused:
            infer(client, 3, keyed.slow)
        assert refused.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_a_certificate_is_for_grpc_too(tiny: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    made = authority.sign("server")
    tls = {"tls_certificate": made.path, "tls_key": made.key}
    with serving(tmp_path / "run", "--model", tiny, *WORDS, verify=authority.trusted(), **tls) as server:
        place = address(server).replace("127.0.0.1", "localhost")
        with triton.InferenceServerClient(
            place, ssl=True, root_certificates=str(authority.certificate)
        ) as client:
            assert infer(client).as_numpy("boxes") is not None
        with (
            grpc.insecure_channel(place) as channel,
            pytest.raises(grpc.FutureTimeoutError),
        ):
            grpc.channel_ready_future(channel).result(timeout=2)


def test_an_encrypted_key_is_refused_for_grpc_at_the_start(tiny: str, tmp_path: Path) -> None:
    made = Authority(tmp_path).sign("server", password="open")
    tls = {"tls_certificate": made.path, "tls_key": made.key, "tls_key_password": "open"}
    with pytest.raises(AssertionError, match="gRPC reads no encrypted keys"):
        ServerProcess(tmp_path, "--model", tiny, *WORDS, **tls)
