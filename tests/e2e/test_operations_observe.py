"""Metrics, logs and traces of a real server."""

from __future__ import annotations

import gzip
import http.server
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from hindsight.version import __version__
from tests.factories import make_tiny_artifact
from tests.server_process import REPOSITORY, TILES, ServerProcess, serving, wait_until

SLEEP = ("--backend", "sleep:5")
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    made = [make_tiny_artifact(folder / name, name=name) for name in ("tiny", "other")]
    return [option for each in made for option in ("--model", str(each.path))]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory, models: list[str]) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("observed"), *models, *SLEEP, slow_request=0.2) as server:
        yield server


def samples(server: ServerProcess) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of /metrics by its name and sorted labels."""
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_metrics_tell_models_stages_and_devices_apart(observed: ServerProcess) -> None:
    for model in ("tiny", "other", "other"):
        assert observed.client.post("/detect", content=TILES, params={"model": model}).status_code == 200
    found = samples(observed)

    def value(name: str, **labels: str) -> float:
        return found[name, tuple(sorted(labels.items()))]

    for stage in ("decode", "letterbox", "queue", "transfer", "model", "postprocess"):
        assert value("hindsight_stage_seconds_count", model="other", stage=stage) == 2
        assert value("hindsight_stage_seconds_count", model="tiny", stage=stage) == 1
    assert value("hindsight_stage_seconds_sum", model="other", stage="model") >= 0.01
    assert value("hindsight_images_total", model="other", operation="detect") == 2
    assert value("hindsight_batch_size_count", model="other", device="cpu") == 2
    assert value("hindsight_engine_busy_seconds_total", model="other", device="cpu") >= 0.01
    assert value("hindsight_queue_depth", model="tiny") == 0
    assert value("hindsight_worker_ready", device="cpu") == 1
    assert value("hindsight_decode_threads") == 2 and value("hindsight_decode_threads_busy") == 0
    assert value("hindsight_requests_total", route="/detect", method="POST", status="200") == 3
    assert value("hindsight_request_body_bytes_sum", route="/detect") == 3 * len(TILES)
    assert value("hindsight_response_body_bytes_count", route="/detect") == 3
    assert value("hindsight_requests_in_flight") == 1  # the one that asks for the metrics
    assert value("process_resident_memory_bytes") > 1e6
    [build] = [labels for name, labels in found if name == "hindsight_build_info"]
    assert dict(build)["version"] == __version__


def test_nothing_a_client_makes_up_becomes_a_label(observed: ServerProcess) -> None:
    def series() -> set[Any]:
        return set(samples(observed))

    def scan(marker: str) -> None:
        client = observed.client
        client.get(f"/{marker}")
        client.get(f"/page/{marker}")
        client.get(f"/models/{marker}/samples/x")
        client.post("/detect", params={"model": marker}, content=TILES)
        client.post(f"/models/{marker}/load", headers={"x-api-key": marker})
        client.request("PROPFIND", "/detect", headers={"x-request-id": marker})
        with socket.create_connection(("127.0.0.1", observed.port), timeout=60) as raw:
            raw.sendall(
                f"{marker.upper()} / HTTP/1.1\r\nHost: {marker}\r\nConnection: close\r\n\r\n".encode()
            )
            raw.makefile("rb").read()

    scan("attack0")
    before = series()
    for number in range(1, 20):
        scan(f"attack{number}")
    assert series() == before
    assert "attack" not in observed.client.get("/metrics").text


def test_metric_names_carry_their_units_and_the_exposition_parses(observed: ServerProcess) -> None:
    families = list(text_string_to_metric_families(observed.client.get("/metrics").text))
    ours = [family for family in families if family.name.startswith("hindsight_")]
    assert len(ours) >= 18
    for family in ours:
        assert family.documentation
        if family.type == "histogram":
            assert re.search(r"_(seconds|bytes|size)$", family.name), family.name


def logged(server: ServerProcess, request_id: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        return [each for each in server.log("request") if each["request_id"] == request_id]

    wait_until(lambda: bool(found()), "the log line, which is written after the answer")
    [record] = found()
    return record


def test_the_log_line_of_a_request(observed: ServerProcess) -> None:
    headers = {"x-request-id": "line-1", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    files = [("image", ("a.png", TILES))] * 3
    observed.client.post("/detect", params={"model": "other"}, files=files, headers=headers)
    record = logged(observed, "line-1")
    assert (record["level"], record["method"], record["path"]) == ("info", "POST", "/detect")
    assert (record["status"], record["model"], record["images"]) == (200, "other", 3)
    assert record["bytes_in"] > 3 * len(TILES) and record["bytes_out"] > 0 and record["ms"] > 0
    assert record["client"] == "127.0.0.1"
    assert (record["trace_id"], record["parent_id"]) == (TRACE, PARENT)
    assert set(record["stages_ms"]) >= {"read", "decode", "queue", "model", "postprocess", "encode"}
    assert "key" not in record


@pytest.mark.parametrize(
    "traceparent",
    [
        "nonsense",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-01-more",
    ],
)
def test_a_traceparent_that_is_none_is_left_out(observed: ServerProcess, traceparent: str) -> None:
    request_id = f"bad-{abs(hash(traceparent))}"
    observed.client.get("/models", headers={"x-request-id": request_id, "traceparent": traceparent})
    assert "trace_id" not in logged(observed, request_id)


def test_a_slow_request_is_a_warning(tmp_path: Path, models: list[str]) -> None:
    with serving(
        tmp_path, *models, "--backend", "sleep:120", slow_request=0.1, log_level="warning"
    ) as server:
        server.client.get("/models", headers={"x-request-id": "quick"})
        server.client.post("/detect", content=TILES, headers={"x-request-id": "slow"})
        record = logged(server, "slow")
        assert record["level"] == "warning" and record["slow"] is True
        assert "quick" not in server.log_path.read_text()


class Collector:
    """Takes OTLP over HTTP, as the collector of a tracing system does."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the base class's name
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    opened = Collector()
    yield opened
    opened.close()


def test_traces_reach_a_collector_with_a_span_for_every_stage(
    tmp_path: Path, models: list[str], collector: Collector
) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
    }
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "traced"}
    with serving(tmp_path, *models, *SLEEP, traces=1, **variables) as server:
        files = [("image", ("a.png", TILES))] * 2
        answer = server.client.post("/detect", files=files, headers=headers)
        assert answer.status_code == 200
        server.client.get("/healthz")  # probes are not traced
        assert server.client.post("/detect", content=b"no image").status_code == 415
        record = logged(server, "traced")
        assert server.close() == 0  # which sends what is left
    spans = [span for span in collector.spans() if span.trace_id.hex() == TRACE]
    root = next(span for span in spans if span.name == "POST /detect")
    assert root.parent_span_id.hex() == PARENT
    assert (record["trace_id"], record["span_id"]) == (TRACE, root.span_id.hex())
    attributes = {each.key: each.value for each in root.attributes}
    assert attributes["http.route"].string_value == "/detect"
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["hindsight.images"].int_value == 2
    assert attributes["hindsight.model"].string_value == "tiny"
    stages = ("decode", "letterbox", "queue", "transfer", "model", "postprocess")
    assert Counter(span.name for span in spans) == {
        "POST /detect": 1,
        "read body": 1,
        "encode": 1,
        "image": 2,
        **dict.fromkeys(stages, 2),
    }
    for image in (span for span in spans if span.name == "image"):
        below = [span for span in spans if span.parent_span_id == image.span_id]
        assert [span.name for span in below] == list(stages)
        ends = [(span.start_time_unix_nano, span.end_time_unix_nano) for span in below]
        assert all(before[1] == after[0] for before, after in pairwise(ends))
        assert root.start_time_unix_nano <= ends[0][0] and ends[-1][1] <= root.end_time_unix_nano
        model = below[stages.index("model")]
        assert model.end_time_unix_nano - model.start_time_unix_nano >= 4e6
    others = [span for span in collector.spans() if span.trace_id.hex() != TRACE]
    assert [span.name for span in others if not span.parent_span_id] == ["POST /detect"]
    resource = collector.requests[0].resource_spans[0].resource
    described = {each.key: each.value.string_value for each in resource.attributes}
    assert described["service.name"] == "hindsight" and described["service.version"] == __version__
    assert described["deployment.environment"] == "test"


def test_a_collector_that_is_away_neither_slows_nor_stops_the_server(
    tmp_path: Path, models: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
        }
        with serving(tmp_path, *models, *SLEEP, traces=1, **variables) as server:
            for _ in range(20):
                assert server.client.post("/detect", content=TILES).status_code == 200
            begun = time.monotonic()
            assert server.close() == 0
            assert time.monotonic() - begun < 40


def test_traces_without_the_extra_are_one_line(tmp_path: Path, models: list[str]) -> None:
    hide = "import sys; sys.modules['opentelemetry.sdk.trace'] = None; "
    hide += f"sys.argv = ['hindsight', *{[*models, '--port', '0', '--set', 'traces=true']!r}]; "
    hide += "import typer; from service.cli import serve; typer.run(serve)"
    done = subprocess.run(
        [sys.executable, "-c", hide], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert 'traces needs opentelemetry.sdk.trace: pip install ".[otel]"' in done.stderr


def test_a_variable_of_opentelemetry_that_makes_no_sense_stops_the_start(
    tmp_path: Path, models: list[str]
) -> None:
    with pytest.raises(AssertionError, match="hindsight: traces: an OTEL_ variable") as caught:
        ServerProcess(tmp_path, *models, *SLEEP, traces=1, OTEL_BSP_MAX_QUEUE_SIZE="-3")
    assert "Traceback" not in str(caught.value)


def test_without_traces_the_sdk_of_opentelemetry_is_not_loaded() -> None:
    code = "import service.app, sys; sys.exit('opentelemetry.sdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, timeout=120, check=False)
    assert done.returncode == 0


def test_the_configuration_of_a_start_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "hindsight.toml"
    file.write_text("max_queue = 140\n")
    command = [sys.executable, "-m", "service", "--config", str(file), "--port", "9", "--show-config"]

    def shown(*more: str) -> str:
        done = subprocess.run(
            [*command, *more], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout

    document = json.loads(shown("--json"))
    assert document["max_queue"] == {"value": 140, "source": f"file {file}:1"}
    assert document["port"] == {"value": 9, "source": "flag --port"}
    lines = shown().splitlines()
    assert [line.split() for line in lines if "max_images" in line] == [["max_images", "64", "default"]]
    assert "Queue and time" in {line.strip() for line in lines}


def test_the_metrics_endpoint_says_its_format(observed: ServerProcess) -> None:
    answer = httpx.get(f"{observed.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
