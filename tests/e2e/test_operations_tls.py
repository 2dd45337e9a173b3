"""TLS, CORS, headers and proxies, through real sockets. The certificates are made by `openssl` as the tests
run.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import hindsight
from hindsight.errors import ServiceError
from service.settings import Settings
from service.tls import server_context
from tests.factories import make_tiny_artifact
from tests.server_process import TILES, ServerProcess, serving, wait_until

SLEEP = ("--backend", "sleep:1")


@dataclass(frozen=True)
class Certificate:
    path: Path
    key: Path


class Authority:
    """Signs certificates for localhost, with P-256 keys."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self.certificate = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        self._openssl(
            f"req -x509 {NEW_KEY} -subj /CN={name} -days 2 -keyout {self._key} -out {self.certificate} "
            "-addext basicConstraints=critical,CA:TRUE"
        )

    def sign(self, name: str, password: str | None = None) -> Certificate:
        request, made = self._folder / f"{name}.csr", self._folder / f"{name}.pem"
        key, extra = self._folder / f"{name}.key", self._folder / f"{name}.ext"
        extra.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        secret = "-nodes" if password is None else f"-passout pass:{password}"
        self._openssl(
            f"req {NEW_KEY.replace('-nodes', secret)} -subj /CN={name} -keyout {key} -out {request}"
        )
        self._openssl(
            f"x509 -req -in {request} -CA {self.certificate} -CAkey {self._key} -CAcreateserial -days 2 "
            f"-extfile {extra} -out {made}"
        )
        return Certificate(made, key)

    def trusted(self, client: Certificate | None = None) -> ssl.SSLContext:
        """What a client that believes this authority uses."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        if client is not None:
            context.load_cert_chain(client.path, client.key)
        return context

    def _openssl(self, arguments: str) -> None:
        program = shutil.which("openssl")
        assert program, "these tests make certificates with openssl: install it"
        subprocess.run([program, *arguments.split()], check=True, capture_output=True, timeout=60)


NEW_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_artifact(tmp_path_factory.mktemp("model") / "tiny").path)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory, tiny: str, authority: Authority
) -> Iterator[ServerProcess]:
    served = authority.sign("server")
    flags = ("--tls-certificate", str(served.path), "--tls-key", str(served.key), "--admin-port", "0")
    folder = tmp_path_factory.mktemp("secured")
    with serving(folder, "--model", tiny, *SLEEP, *flags, verify=authority.trusted()) as server:
        yield server


def test_https_serves_and_tells_browsers_to_stay(secured: ServerProcess) -> None:
    assert secured.url.startswith("https://127.0.0.1:")
    answer = secured.client.post("/detect", content=TILES)
    assert answer.status_code == 200
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    admin = secured.ready_line.rpartition("admin: ")[2].rstrip(")")
    assert admin.startswith("https://") and secured.client.get(f"{admin}/metrics").status_code == 200


def test_plain_http_gets_nothing_on_the_tls_port(secured: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", secured.port), timeout=60) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            answer = raw.recv(1000)
        except ConnectionResetError:
            answer = b""
    assert not answer.startswith(b"HTTP")
    assert secured.client.get("/healthz").status_code == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_tls_below_1_2_is_refused(secured: ServerProcess, authority: Authority) -> None:
    served = authority.sign("versions")

    def version(newest: ssl.TLSVersion) -> str | None:
        context = authority.trusted()
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else our own side would refuse the old one first
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_1, newest
        with (
            socket.create_connection(("127.0.0.1", secured.port), timeout=60) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as wrapped,
        ):
            return wrapped.version()

    assert version(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    assert version(ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        version(ssl.TLSVersion.TLSv1_1)
    ours = server_context(Settings(tls_certificate=served.path, tls_key=served.key))  # not OpenSSL's choice
    assert ours is not None and ours.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_new_certificate_is_taken_up_without_a_restart(
    tmp_path: Path, tiny: str, authority: Authority
) -> None:
    live = tmp_path / "live.pem"

    def install(name: str) -> None:
        made = authority.sign(name)
        live.write_text(made.key.read_text() + made.path.read_text())  # one file may hold both

    def shown(server: ServerProcess) -> str:
        context = authority.trusted()
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as wrapped,
        ):
            return str(dict(wrapped.getpeercert()["subject"][0])["commonName"])  # type: ignore[index,arg-type]

    install("first")
    flags = ("--model", tiny, *SLEEP, "--tls-certificate", str(live))
    with serving(tmp_path, *flags, verify=authority.trusted(), hsts_seconds=0) as server:
        assert shown(server) == "first"
        assert "strict-transport-security" not in server.client.get("/healthz").headers
        install("second")
        os.kill(server.process.pid, signal.SIGHUP)
        wait_until(lambda: bool(server.log("TLS certificate read")), "the new certificate")
        assert shown(server) == "second"
        live.write_text("broken")
        os.kill(server.process.pid, signal.SIGHUP)
        message = "the TLS certificate is broken: the one read before stays"
        wait_until(lambda: bool(server.log(message)), "the complaint")
        assert shown(server) == "second"


def test_an_encrypted_key_opens_with_its_password_alone(
    tmp_path: Path, tiny: str, authority: Authority
) -> None:
    made = authority.sign("locked", password="open-sesame")
    flags = ("--model", tiny, *SLEEP, "--tls-certificate", str(made.path), "--tls-key", str(made.key))
    for wrong in ({}, {"tls_key_password": "guess"}):
        with pytest.raises(AssertionError, match="hindsight: tls_certificate") as caught:
            ServerProcess(tmp_path, *flags, **wrong)
        assert "Traceback" not in str(caught.value) and "guess" not in str(caught.value)
    verify = authority.trusted()
    with serving(tmp_path, *flags, verify=verify, tls_key_password="open-sesame") as server:
        assert server.client.get("/healthz").status_code == 200


def test_with_a_client_authority_only_its_clients_connect(
    tmp_path: Path, tiny: str, authority: Authority
) -> None:
    served, friend = authority.sign("mutual"), authority.sign("friend")
    stranger = Authority(tmp_path, "stranger").sign("enemy")
    flags = ["--model", tiny, *SLEEP, "--tls-certificate", str(served.path), "--tls-key", str(served.key)]
    flags += ["--tls-client-ca", str(authority.certificate)]
    with serving(tmp_path, *flags, verify=authority.trusted(friend)) as server:
        assert server.client.post("/detect", content=TILES).status_code == 200
        for wrong in (authority.trusted(), authority.trusted(stranger)):
            with (
                httpx.Client(verify=wrong, timeout=60) as client,
                pytest.raises(httpx.TransportError),
            ):
                client.get(f"{server.url}/healthz")


def test_the_python_client_checks_the_server_and_shows_its_own_certificate(
    tmp_path: Path, tiny: str, authority: Authority
) -> None:
    server_side, friend = authority.sign("for-python"), authority.sign("python-friend")
    flags = (
        "--model",
        tiny,
        *SLEEP,
        "--tls-certificate",
        str(server_side.path),
        "--tls-key",
        str(server_side.key),
    )
    flags += ("--tls-client-ca", str(authority.certificate))
    with serving(tmp_path, *flags, verify=authority.trusted(friend)) as server:
        with hindsight.Client(server.url, tls=authority.trusted(friend)) as client:
            for _ in range(2):
                assert client.models()[0]["name"] == "tiny"
        with (
            hindsight.Client(server.url) as client,
            pytest.raises(ServiceError, match="certificate cannot be trusted"),
        ):
            client.models()
        with (
            hindsight.Client(server.url, tls=authority.trusted(), retries=1) as client,
            pytest.raises(ServiceError, match="no answer"),
        ):
            client.models()


@pytest.mark.parametrize(
    ("option", "words"),
    [("--tls-certificate", "No such file"), ("--tls-client-ca", "tls_client_ca needs tls_certificate")],
)
def test_tls_files_that_cannot_be_used_stop_the_start(
    tmp_path: Path, tiny: str, option: str, words: str
) -> None:
    with pytest.raises(AssertionError, match=words):
        ServerProcess(tmp_path, "--model", tiny, *SLEEP, option, str(tmp_path / "none.pem"))


@pytest.fixture(scope="module")
def behind_proxy(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> Iterator[ServerProcess]:
    flags = ("--model", tiny, *SLEEP, "--cors-origin", "https://app.example", "--set")
    folder = tmp_path_factory.mktemp("proxy")
    with serving(folder, *flags, "trusted_proxies=127.0.0.0/8,10.0.0.0/8") as server:
        yield server


def test_cors_is_for_the_named_origins_alone(behind_proxy: ServerProcess) -> None:
    client = behind_proxy.client
    wanted = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    allowed = client.options("/detect", headers={"origin": "https://app.example", **wanted})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-credentials" not in allowed.headers
    for origin in ("https://evil.example", "https://app.example.evil", "http://app.example", "null"):
        refused = client.options("/detect", headers={"origin": origin, **wanted})
        assert "access-control-allow-origin" not in refused.headers, origin
        posted = client.post("/detect", content=TILES, headers={"origin": origin})
        assert "access-control-allow-origin" not in posted.headers, origin
    answer = client.post("/detect", content=TILES, headers={"origin": "https://app.example"})
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]


def client_logged(server: ServerProcess, request_id: str, forwarded: str) -> str:
    headers = {"x-request-id": request_id, "x-forwarded-for": forwarded, "x-forwarded-proto": "https"}
    answer = server.client.get("/models", headers=headers)
    wait_until(lambda: request_id in server.log_path.read_text(), "the log line")
    [record] = [each for each in server.log("request") if each["request_id"] == request_id]
    return f"{record['client']} {answer.headers.get('strict-transport-security', 'plain')}"


def test_a_trusted_proxy_is_believed_about_the_client_and_tls(behind_proxy: ServerProcess) -> None:
    believed = client_logged(behind_proxy, "fwd-1", "203.0.113.9")
    assert believed == "203.0.113.9 max-age=31536000"
    # What the client itself wrote before the trusted part is not believed.
    assert client_logged(behind_proxy, "fwd-2", "1.1.1.1, 203.0.113.9, 10.1.2.3").startswith("203.0.113.9 ")


def test_nobody_is_believed_unless_named(tmp_path: Path, tiny: str) -> None:
    with serving(tmp_path, "--model", tiny, *SLEEP) as server:
        assert client_logged(server, "fwd-3", "203.0.113.9") == "127.0.0.1 plain"


def test_every_answer_carries_the_security_headers(behind_proxy: ServerProcess) -> None:
    client = behind_proxy.client
    answers = [
        client.get(path) for path in ("/", "/healthz", "/models", "/nothing", "/metrics", "/page/page.js")
    ]
    answers.append(client.post("/detect", content=b"no image"))
    for answer in answers:
        headers = answer.headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "camera=()" in headers["permissions-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers and "strict-transport-security" not in headers
