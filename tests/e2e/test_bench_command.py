"""`hindsight bench` as a user runs it, on a server that only waits. What it measures is not judged here: the
machine may be busy, and tests/unit/bench has servers whose latencies are known.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.factories import make_tiny_artifact
from tests.server_process import REPOSITORY, ServerProcess, serving, wait_until

# The function itself: the entry point may be newer than the installed metadata.
BENCH = """
import typer
from hindsight.bench.command import bench
from hindsight.commands.console import fail
from hindsight.errors import HindsightError
try:
    typer.run(bench)
except HindsightError as error:
    fail(str(error))
"""
MODELS = json.dumps({"models": [{"name": "x", "samples": []}], "default": "x"}).encode()


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("waiting")
    make_tiny_artifact(folder / "tiny")
    with serving(folder, "--model", str(folder / "tiny"), "--backend", "sleep:5", max_images=16) as running:
        yield running


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BENCH, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def bench(*arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    process = start(*arguments)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def measured(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(file.read_text())
    return document


@pytest.mark.parametrize(
    ("options", "images", "path"),
    [
        (["--clients", "2"], 1, "/detect"),
        (["--rate", "50", "--arrivals", "uniform", "--body", "multipart"], 1, "/detect"),
        (["--images", "3", "--sizes", "64x48,320x200", "--query", "score_threshold=0.5"], 3, "/detect"),
        (["--route", "rescore", "--boxes", "7"], 1, "/rescore"),
        (["--query", "annotate=true", "--model", "tiny"], 1, "/detect"),
    ],
    ids=["raw", "open loop, multipart", "several images", "rescore", "annotated"],
)
def test_every_kind_of_request_is_answered(
    waiting: ServerProcess, tmp_path: Path, options: list[str], images: int, path: str
) -> None:
    file = tmp_path / "figures.json"
    options = [*options, "-n", "20", "--warm-up", "0.2", "--json", str(file)]
    code, out, err = bench(waiting.url, *options)
    assert code == 0 and "Traceback" not in err, out + err  # it may say that the machine is busy
    document = measured(file)
    [found] = document["measured"]
    assert document["route"] == path and not document["interrupted"]
    assert found["requests"] == found["good"] == 20 and found["failures"] == {}
    assert found["good_images"] == 20 * images
    assert found["latency_ms"]["p50"] >= found["stages_ms"]["model"]["p50"] >= 5
    assert "good/s" in out and "model" in out


def test_a_folder_of_photos_and_the_picture(waiting: ServerProcess, tmp_path: Path) -> None:
    for name, size in {"a.jpg": (80, 60), "b.png": (40, 30), "notes.txt": (1, 1)}.items():
        if name.endswith("txt"):
            (tmp_path / name).write_text("no photo")
        else:
            Image.new("RGB", size).save(tmp_path / name)
    file, picture = tmp_path / "figures.json", tmp_path / "picture.png"
    code, out, err = bench(
        waiting.url, "--photos", str(tmp_path), "-n", "30", "--json", str(file), "--histogram", str(picture)
    )
    assert code == 0 and "Traceback" not in err, out + err  # it may say that the machine is busy
    assert measured(file)["photos"] == {"80x60": 1, "40x30": 1}
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG" and drawn.width > 1000
        assert drawn.convert("L").getextrema()[0] < 80  # not an empty sheet


def test_limits_decide_the_exit_status(waiting: ServerProcess) -> None:
    kept = ["--max-p99", "60000", "--min-goodput", "0.001", "--max-errors", "0"]
    code, out, _ = bench(waiting.url, "-n", "10", "--warm-up", "0", *kept)
    assert code == 0 and out.count("kept") == 3
    code, out, _ = bench(waiting.url, "-n", "10", "--warm-up", "0", "--max-p99", "1", "--max-errors", "0")
    assert code == 1 and "MISSED p99" in out and out.count("kept") == 1


PRESETS: dict[str, tuple[list[str], set[str]]] = {
    "overload-rude": (
        ["-s", "1", "--clients", "6", "--patience", "0.05", "--warm-up", "0.2"],
        {"capacity_per_second", "goodput_of_capacity"},
    ),
    "overload-polite": (
        ["-s", "1", "--clients", "6", "--warm-up", "0.2"],
        {"capacity_per_second", "goodput_of_capacity"},
    ),
    "abandoned": (["--clients", "5", "--patience", "0.01"], {"alone_ms", "next_median_ms", "next_worst_ms"}),
    "fair": (["-s", "1"], {"alone_p50_ms", "beside_p50_ms", "beside_worst_ms", "poster_images_per_request"}),
    "saturation": (["-s", "0.5", "--clients", "4"], {"capacity_per_second", "clients_enough"}),
    "soak": (["-s", "3", "--rate", "20"], {"p50_drift", "p99_drift"}),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_come_to_their_conclusions(waiting: ServerProcess, tmp_path: Path, preset: str) -> None:
    file, (options, facts) = tmp_path / "figures.json", PRESETS[preset]
    code, out, err = bench(waiting.url, "--preset", preset, *options, "--json", str(file))
    assert code == 0, out + err
    document = measured(file)
    found = {name: value for each in document["measured"] for name, value in each["facts"].items()}
    assert facts <= found.keys()
    assert all(found[name] is not None for name in facts)
    assert any(each["judged"] for each in document["measured"])
    if preset == "fair":
        assert found["poster_images_per_request"] == 16  # 64 in four requests
        assert found["client_addresses"] == 2
        lines = [record for record in waiting.log("request") if record["path"] == "/detect"]
        assert {(record["client"], record.get("images")) for record in lines} >= {
            ("127.0.0.1", 1),
            ("127.0.0.2", 16),
        }


def test_ctrl_c_shows_what_was_measured_so_far(waiting: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    before = waiting.metric("hindsight_images_total")
    process = start(waiting.url, "-s", "120", "--warm-up", "0", "--json", str(file))
    wait_until(lambda: waiting.metric("hindsight_images_total") > before + 50, "some load")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "good/s" in out and "Traceback" not in err
    document = measured(file)
    assert document["interrupted"] and document["measured"][0]["good"] > 0
    assert document["measured"][0]["seconds"] < 100


class _Answers(http.server.BaseHTTPRequestHandler):
    """Whatever the test wants."""

    status, body = 200, b"<html>hello</html>"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def somebody(status: int, body: bytes) -> Iterator[str]:
    handler = type("Handler", (_Answers,), {"status": status, "body": body})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def assert_refused(said: str, *arguments: str) -> None:
    """One line on stderr, exit status 2, nothing on stdout."""
    code, out, err = bench(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("hindsight: ") and said in err


def test_somebody_else_is_not_loaded() -> None:
    with somebody(200, b"<html>hello</html>") as url:
        assert_refused("it is no Hindsight", url)


def test_a_key_that_is_refused() -> None:
    with somebody(401, b"no") as url:
        assert_refused("--api-key", url)


def test_a_server_without_samples_that_answers_is_sent_made_up_photos() -> None:
    with somebody(200, MODELS) as url:
        code, out, err = bench(url, "-n", "4", "--warm-up", "0", "--clients", "1")
    assert code == 0, err
    assert "made-up photos" in err and "good/s" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["http://127.0.0.1:1"], "is `hindsight serve` running there?"),
        (["ftp://127.0.0.1"], "url must look like"),
        (["http://192.0.2.1:8000"], "--yes-remote"),
        (["http://no-such-host.invalid"], "has no address"),
        (["http://127.0.0.1:1", "--photos", "/nowhere"], "is not there"),
        (["http://127.0.0.1:1", "--preset", "overload"], "there are: overload-rude"),
        (["http://127.0.0.1:1", "--sizes", "640"], "WIDTHxHEIGHT"),
        (["http://127.0.0.1:1", "--sizes", "1x99999"], "sides are 1 to"),
        (["http://127.0.0.1:1", "--clients", "3", "--rate", "2"], "give one of them"),
        (["http://127.0.0.1:1", "--rate", "0"], "--rate must be more than 0"),
        (["http://127.0.0.1:1", "--max-errors", "few"], "a number or a percentage"),
        (["http://127.0.0.1:1", "--min-goodput", "80%"], "in % is of the capacity"),
        (["http://127.0.0.1:1", "--json", "/nowhere/x.json"], "no such folder"),
        (["http://127.0.0.1:1", "--preset", "fair", "--route", "rescore"], "rescore does not take"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str) -> None:
    assert_refused(said, *arguments)


def test_the_servers_own_words_about_the_first_request(waiting: ServerProcess) -> None:
    assert_refused("score_threshold must be", waiting.url, "--query", "score_threshold=7")
    assert_refused("no model 'other'; it has tiny", waiting.url, "--model", "other")
