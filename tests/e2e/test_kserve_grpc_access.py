"""Keys, rate limits, versions, readiness and TLS hold for gRPC as they do for HTTP."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.e2e.keyed import Keyed, bearer, keyed_server
from tests.e2e.test_kserve_grpc import address, images_input
from tests.e2e.test_operations_tls import Authority
from tests.factories import make_tiny_artifact
from tests.server_process import TILES, ServerProcess, serving, wait_until

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


def test_the_log_names_the_key_of_a_call(keyed: Keyed) -> None:
    with triton.InferenceServerClient(address(keyed.server)) as client:
        infer(client, 2, keyed.user)
    lines = [each for each in keyed.server.log("request") if each["path"].endswith("/ModelInfer")]
    assert (lines[-1]["key"], lines[-1]["model"], lines[-1]["images"]) == ("camera", "tiny", 2)
    assert not any(secret in keyed.server.log_path.read_text() for secret in keyed.secrets)


def silent_call(channel: grpc.Channel, metadata: dict[str, str]) -> tuple[grpc.StatusCode, float]:
    """A call whose message never comes: what it is told, and after how long."""
    never = threading.Event()

    def messages() -> Iterator[bytes]:
        never.wait(90)
        yield b""

    call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
    start = time.monotonic()
    try:
        call(messages(), metadata=list(metadata.items()), timeout=80)
    except grpc.RpcError as error:
        return error.code(), time.monotonic() - start  # type: ignore[attr-defined]
    finally:
        never.set()
    raise AssertionError("it was answered")


def test_a_call_whose_message_does_not_come_is_given_up(tmp_path: Path, tiny: str) -> None:
    """A key is asked for before the message is here, and the time runs: else a few silent calls take every
    place that calls have.
    """
    limits = {"body_timeout": 1, "grpc_max_calls": 2}
    with (
        keyed_server(tmp_path, "--model", tiny, *WORDS, **limits) as keyed,
        grpc.insecure_channel(address(keyed.server)) as channel,
        ThreadPoolExecutor(2) as clients,
    ):
        code, seconds = silent_call(channel, {})
        assert code is grpc.StatusCode.UNAUTHENTICATED and seconds < 30
        silent = [clients.submit(silent_call, channel, bearer(keyed.user)) for _ in range(2)]
        for each in silent:
            code, seconds = each.result()
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED and 0.9 < seconds < 30
        with triton.InferenceServerClient(address(keyed.server)) as client:
            assert infer(client, key=keyed.user).as_numpy("boxes") is not None


def test_a_new_certificate_is_taken_up_without_a_restart(tiny: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    live = tmp_path / "live.pem"

    def install(name: str) -> None:
        made = authority.sign(name)
        live.write_text(made.key.read_text() + made.path.read_text())

    def shown(server: ServerProcess) -> str:
        context = authority.trusted()
        context.set_alpn_protocols(["h2"])
        host, _, port = address(server).partition(":")
        with (
            socket.create_connection((host, int(port)), timeout=60) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as wrapped,
        ):
            return str(dict(wrapped.getpeercert()["subject"][0])["commonName"])  # type: ignore[index,arg-type]

    install("first")
    words = ("--model", tiny, *WORDS, "--tls-certificate", str(live))
    with serving(tmp_path / "run", *words, verify=authority.trusted()) as server:
        assert shown(server) == "first"
        install("second")
        os.kill(server.process.pid, signal.SIGHUP)
        wait_until(lambda: shown(server) == "second", "the new certificate")
        live.write_text("broken")
        os.kill(server.process.pid, signal.SIGHUP)
        message = "the TLS certificate is broken: the one read before stays"
        wait_until(lambda: bool(server.log(message)), "the complaint")
        assert shown(server) == "second"
        place = address(server).replace("127.0.0.1", "localhost")
        roots = str(authority.certificate)
        with triton.InferenceServerClient(place, ssl=True, root_certificates=roots) as client:
            assert infer(client).as_numpy("boxes") is not None


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
