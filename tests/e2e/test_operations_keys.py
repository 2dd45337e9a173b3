"""API keys, their roles and limits, and the admin port, through real sockets."""

from __future__ import annotations

import base64
import os
import signal
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.routing import BaseRoute, Mount, Route

from hindsight.client import Client
from hindsight.errors import ServiceError
from service import access
from service.app import create_app
from service.keys import create_key, revoke_key
from service.registry import load_models
from service.settings import Settings
from tests.e2e.keyed import Keyed, bearer, keyed_server
from tests.factories import make_tiny_artifact
from tests.server_process import TILES, ServerProcess, assert_problem, serving, wait_until

SLEEP = ("--backend", "sleep:1")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_artifact(tmp_path_factory.mktemp("model") / "tiny").path)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> Iterator[Keyed]:
    folder = tmp_path_factory.mktemp("keyed")
    with keyed_server(folder, "--model", tiny, *SLEEP, log_level="debug") as found:
        yield found


def ask(
    server: ServerProcess, method: str, path: str, headers: dict[str, str] | None = None
) -> httpx.Response:
    content = TILES if method == "POST" else None
    return httpx.request(method, server.url + path, headers=headers, content=content, timeout=60)


def served(routes: Iterable[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Method and path of every route, through the routers that FastAPI includes as they are."""
    for route in routes:
        if hasattr(route, "original_router"):
            inner = prefix + str(route.include_context.prefix)  # type: ignore[attr-defined]
            yield from served(route.original_router.routes, inner)
        elif isinstance(route, Mount):
            yield "GET", prefix + route.path + "/{path:path}"
        else:
            assert isinstance(route, Route), route
            for method in (route.methods or set()) - {"HEAD"}:
                yield method, prefix + route.path


def test_every_route_has_a_row_in_the_table_of_access(tiny: str) -> None:
    settings = Settings(model=(tiny,))
    app = create_app(settings, load_models(settings.model))
    listed = {(row.method, row.path) for row in access.TABLE}
    found = list(served(app.routes))
    assert ("POST", "/detect") in found and ("GET", "/page/{path:path}") in found
    for method, path in found:
        row = access.row_of(method, path)
        assert (row.method, row.path) in listed and row.method in ("*", method), f"{method} {path} has no row"


def test_a_key_is_needed_and_taken_in_every_form(keyed: Keyed) -> None:
    basic = base64.b64encode(f"anybody:{keyed.user}".encode()).decode()
    for headers in (bearer(keyed.user), {"x-api-key": keyed.user}, {"authorization": f"Basic {basic}"}):
        assert ask(keyed.server, "POST", "/detect", headers).status_code == 200
        assert ask(keyed.server, "GET", "/models", headers).status_code == 200
    answer = ask(keyed.server, "POST", "/detect")
    assert "Authorization: Bearer KEY" in assert_problem(answer, 401, "key-required")["detail"]
    assert answer.headers["www-authenticate"] == 'Bearer realm="hindsight"'


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "hsk_wrong"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer \xe4\xf6"},
        {"authorization": "Basic not-base64"},
        {"authorization": "Digest x"},
        {"x-api-key": "x" * 30_000},
    ],
)
def test_no_wrong_key_opens_anything(keyed: Keyed, headers: dict[str, str]) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    for method, path in (("POST", "/detect"), ("GET", "/models"), ("GET", "/metrics"), ("GET", "/nothing")):
        answer = httpx.request(method, keyed.server.url + path, headers=encoded, timeout=60)
        assert_problem(answer, 401, "key-required")


def test_a_wrong_key_is_said_to_be_invalid(keyed: Keyed) -> None:
    answer = ask(keyed.server, "POST", "/detect", bearer(keyed.user + "x"))
    assert answer.headers["www-authenticate"].endswith('error="invalid_token"')


def test_health_and_the_page_need_no_key(keyed: Keyed) -> None:
    for path in ("/healthz", "/readyz", "/", "/page/page.js", "/docs", "/docs.css", "/openapi.json"):
        assert ask(keyed.server, "GET", path).status_code == 200, path


def test_roles_open_what_is_theirs(keyed: Keyed) -> None:
    server = keyed.server
    problem = assert_problem(ask(server, "GET", "/metrics", bearer(keyed.user)), 403, "not-allowed")
    assert "role metrics" in problem["detail"]
    assert ask(server, "GET", "/metrics", bearer(keyed.metrics)).status_code == 200
    assert_problem(ask(server, "POST", "/detect", bearer(keyed.metrics)), 403, "not-allowed")
    for path in ("/models/tiny/load", "/models/tiny/unload", "/v2/repository/models/tiny/load"):
        assert_problem(ask(server, "POST", path), 401, "key-required")
        assert_problem(ask(server, "POST", path, bearer(keyed.user)), 403, "not-allowed")
    for method, path in (("GET", "/metrics"), ("POST", "/detect"), ("GET", "/models")):
        assert ask(server, method, path, bearer(keyed.admin)).status_code == 200


def test_a_rate_limit_counts_images_and_says_when_to_come_back(keyed: Keyed) -> None:
    def send(images: int) -> httpx.Response:
        files = [("image", ("a.png", TILES))] * images
        return httpx.post(
            keyed.server.url + "/detect", files=files, headers={"x-api-key": keyed.slow}, timeout=60
        )

    assert send(3).status_code == 200  # of 4
    answer = send(2)
    problem = assert_problem(answer, 429, "rate-limited")
    assert "0.01 images/s, 4 at once" in problem["detail"]
    assert 50 < int(answer.headers["retry-after"]) <= 200
    assert_problem(send(1), 429, "rate-limited")
    for _ in range(5):  # what only asks costs nothing
        assert ask(keyed.server, "GET", "/models", bearer(keyed.slow)).status_code == 200
    assert ask(keyed.server, "POST", "/detect", bearer(keyed.user)).status_code == 200
    metrics = keyed.server.client.get("/metrics").text
    assert 'hindsight_rate_limited_total{key="slow"} 2.0' in metrics


def test_the_log_names_the_key_and_never_holds_it(keyed: Keyed) -> None:
    server = keyed.server
    headers = {"x-request-id": "logged-1", **bearer(keyed.user)}
    assert ask(server, "POST", "/detect", headers).status_code == 200
    wait_until(lambda: any(r["request_id"] == "logged-1" for r in server.log("request")), "the log line")
    [record] = [each for each in server.log("request") if each["request_id"] == "logged-1"]
    assert (record["key"], record["model"], record["images"]) == ("camera", "tiny", 1)
    assert record["bytes_in"] == len(TILES) and record["bytes_out"] > 100
    assert record["client"] == "127.0.0.1"
    refused = [
        ask(server, "GET", "/metrics", bearer(keyed.user)),
        ask(server, "POST", "/detect", bearer("x")),
    ]
    told = [server.log_path.read_text(), server.client.get("/metrics").text, *(each.text for each in refused)]
    for secret in keyed.secrets:
        assert not any(secret in text or secret[4:20] in text for text in told)


def test_rejections_are_counted_by_reason(keyed: Keyed) -> None:
    ask(keyed.server, "POST", "/detect")
    ask(keyed.server, "POST", "/detect", bearer("x"))
    ask(keyed.server, "GET", "/metrics", bearer(keyed.user))
    text = keyed.server.client.get("/metrics").text
    for reason in ("missing", "unknown", "role"):
        assert f'hindsight_key_rejections_total{{reason="{reason}"}}' in text
    assert 'hindsight_requests_total{method="POST",route="/detect",status="401"}' in text


def test_the_description_says_which_keys_are_needed(keyed: Keyed) -> None:
    document = ask(keyed.server, "GET", "/openapi.json").json()
    operation = document["paths"]["/detect"]["post"]
    assert operation["security"] == [{"bearer": []}, {"header": []}]
    assert {"401", "403", "429"} <= set(operation["responses"])
    assert "security" not in document["paths"]["/healthz"]["get"]


def test_the_python_client_sends_its_key(keyed: Keyed) -> None:
    assert [model["name"] for model in Client(keyed.server.url, api_key=keyed.user).models()] == ["tiny"]
    with pytest.raises(ServiceError, match="API key") as caught:
        Client(keyed.server.url).models()
    assert caught.value.status == 401


@pytest.mark.parametrize("by_signal", [False, True])
def test_keys_change_without_a_restart(tmp_path: Path, tiny: str, by_signal: bool) -> None:
    file = tmp_path / "keys.jsonl"
    first = create_key(file, "first", "user")
    with serving(tmp_path, "--model", tiny, *SLEEP, keys_file=file) as server:

        def reread(message: str, count: int) -> None:
            if by_signal:
                os.kill(server.process.pid, signal.SIGHUP)
            wait_until(lambda: len(server.log(message)) >= count, message)

        second = create_key(file, "second", "user")
        reread("keys read", 1)
        assert ask(server, "GET", "/models", bearer(second)).status_code == 200
        revoke_key(file, "first")
        seen = len(server.log("keys read"))
        reread("keys read", seen + 1)
        wait_until(lambda: ask(server, "GET", "/models", bearer(first)).status_code == 401, "the revocation")
        file.write_text("{broken")
        reread("the keys file is broken: the keys read before stay in force, revoked ones too", 1)
        assert ask(server, "GET", "/models", bearer(second)).status_code == 200
        assert server.process.poll() is None


def test_without_keys_users_may_and_admins_are_told_how(tmp_path: Path, tiny: str) -> None:
    with serving(tmp_path, "--model", tiny, *SLEEP) as server:
        assert ask(server, "POST", "/detect").status_code == 200
        assert ask(server, "POST", "/detect", bearer("any")).status_code == 200
        assert ask(server, "GET", "/metrics").status_code == 200
        problem = assert_problem(ask(server, "POST", "/models/tiny/load"), 403, "not-allowed")
        assert "hindsight keys create" in problem["detail"]
        document = ask(server, "GET", "/openapi.json").json()
        assert {} in document["paths"]["/detect"]["post"]["security"]
    assert server.log("whoever reaches this port may use this server: no keys file is set") == []


def test_an_open_address_without_keys_is_warned_of(tmp_path: Path, tiny: str) -> None:
    with serving(tmp_path, "--model", tiny, *SLEEP, "--host", "0.0.0.0") as server:
        [record] = server.log("whoever reaches this port may use this server: no keys file is set")
        assert record["level"] == "warning" and "--keys-file" in record["help"]


def test_an_open_address_with_keys_but_no_tls_is_warned_of(tmp_path: Path, tiny: str) -> None:
    file = tmp_path / "keys.jsonl"
    key = create_key(file, "a", "user")
    with serving(
        tmp_path, "--model", tiny, *SLEEP, "--host", "0.0.0.0", keys_file=file, anonymous=1
    ) as server:
        [record] = server.log("API keys reach this port unencrypted: no TLS certificate is set")
        assert record["level"] == "warning"
        assert ask(server, "POST", "/detect").status_code == 200  # anonymous
        assert ask(server, "POST", "/detect", bearer(key)).status_code == 200
        assert_problem(ask(server, "POST", "/detect", bearer("wrong")), 401, "key-required")
        assert_problem(ask(server, "GET", "/metrics"), 401, "key-required")
        problem = assert_problem(ask(server, "POST", "/models/tiny/load", bearer(key)), 403, "not-allowed")
        assert "--role admin" in problem["detail"]


def test_the_admin_port_has_what_the_public_one_then_lacks(tmp_path: Path, tiny: str) -> None:
    file = tmp_path / "keys.jsonl"
    user, admin = create_key(file, "u", "user"), create_key(file, "a", "admin")
    flags = ("--model", tiny, *SLEEP, "--admin-port", "0", "--keys-file", str(file))
    with serving(tmp_path, *flags) as server:
        inside = server.ready_line.rpartition("admin: ")[2].rstrip(")")
        assert inside.startswith("http://127.0.0.1:") and inside != server.url
        for path in ("/metrics", "/models/tiny/load", "/models/tiny/unload"):
            method = "GET" if path == "/metrics" else "POST"
            hidden = ask(server, method, path, bearer(admin))
            assert "admin port" not in assert_problem(hidden, 404, "not-found")["detail"]
        assert httpx.get(f"{inside}/metrics").status_code == 200  # the port is the protection
        assert_problem(httpx.post(f"{inside}/models/tiny/load"), 401, "key-required")
        assert_problem(httpx.post(f"{inside}/models/tiny/load", headers=bearer(user)), 403, "not-allowed")
        loaded = httpx.post(f"{inside}/models/tiny/load", headers=bearer(admin), timeout=60)
        assert loaded.status_code == 200
        for path in ("/", "/docs", "/page/page.js"):
            assert_problem(httpx.get(inside + path), 404, "not-found")
        refused = httpx.post(f"{inside}/detect", content=TILES, headers=bearer(user))
        assert "public port" in assert_problem(refused, 404, "not-found")["detail"]
        assert httpx.get(f"{inside}/models", headers=bearer(user)).status_code == 200
        for url in (server.url, inside):
            assert httpx.get(f"{url}/healthz").status_code == httpx.get(f"{url}/readyz").status_code == 200
        # A Host header of the other port changes nothing: the socket decides.
        forged = {"host": inside.removeprefix("http://"), **bearer(admin)}
        assert_problem(ask(server, "GET", "/metrics", forged), 404, "not-found")
        ports = [server.port, int(inside.rpartition(":")[2])]
        assert server.close() == 0
    for port in ports:  # both are gone
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_busy_admin_port_stops_the_start(tmp_path: Path, tiny: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(AssertionError) as caught:
        number = str(taken.getsockname()[1])
        ServerProcess(tmp_path, "--model", tiny, *SLEEP, "--admin-port", number)
    assert "choose another --admin-host or --admin-port" in str(caught.value)


def test_a_keys_file_that_cannot_be_used_stops_the_start(tmp_path: Path, tiny: str) -> None:
    with pytest.raises(AssertionError, match="cannot read the keys file"):
        ServerProcess(tmp_path, "--model", tiny, *SLEEP, keys_file=tmp_path / "none")
