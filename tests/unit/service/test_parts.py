"""The small parts of the service, each on its own."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time

import numpy as np
import pytest
from pydantic import ValidationError

from hindsight import errors as core
from hindsight.manifest import ResizeRule
from hindsight.preprocess import ImageLimits
from service import errors
from service.blocks import AttachedBlock, BlockFullError, OwnedBlock, read_arrays, write_arrays
from service.body import parse_images
from service.decode import CpuPool
from service.estimates import ServiceTimes
from service.logs import JsonFormatter
from service.memory import ImageMemory
from service.metrics import Metrics
from service.multipart import parse_multipart
from service.refusals import MALFORMED, Refusal, refusal_bytes
from service.responses import SECURITY_HEADERS, problem_response, to_json
from service.settings import Settings


def all_errors(root: type[Exception]) -> list[type[Exception]]:
    return [root, *(found for child in root.__subclasses__() for found in all_errors(child))]


JOBS = tuple(f"hindsight.{part}" for part in ("datasets.", "audit.", "jobs.", "hub.", "video"))
"""No server imports them."""


def test_every_error_has_a_row_of_its_own_kind_in_the_table() -> None:
    expected_500 = {
        core.HindsightError,
        core.ServiceError,
        errors.RequestError,
        core.ArtifactError,
        core.RuntimeFailure,
        core.NonFiniteOutput,
        errors.LoadFailed,
    }
    for kind in all_errors(core.HindsightError):
        if not kind.__module__.startswith(("hindsight.", "service.")) or kind.__module__.startswith(JOBS):
            continue
        problem = errors.problem_for(kind.__new__(kind))
        assert (problem.status == 500) == (kind in expected_500), kind


def test_slugs_are_unique_so_that_links_into_the_docs_work() -> None:
    slugs = [problem.slug for problem in (*errors.PROBLEMS.values(), errors.INVALID_REQUEST)]
    assert len(set(slugs)) == len(slugs)


def test_clients_get_the_codes_of_the_core_tree() -> None:
    assert errors.wire_code(core.CorruptImage) == "corrupt-image"
    assert errors.wire_code(errors.BodyTooLarge) == core.ImageTooLarge.code
    assert errors.wire_code(errors.Busy) == core.ServiceError.code
    assert errors.wire_code(KeyError) == core.ServiceError.code


def test_an_unforeseen_error_says_nothing_of_the_inside() -> None:
    response = problem_response(KeyError("secret/path"), "id-1")
    assert response.status_code == 500
    assert b"secret" not in response.body and b"id-1" in response.body


def test_a_refusal_before_any_request_carries_the_security_headers() -> None:
    head = refusal_bytes(Refusal(MALFORMED, "malformed", "no HTTP"), []).partition(b"\r\n\r\n")[0].decode()
    for name, value in SECURITY_HEADERS.items():
        assert f"\r\n{name.lower()}: {value}\r\n" in head + "\r\n"


def test_every_503_says_when_to_come_back() -> None:
    later = [
        core.OutOfMemory("no room"),
        errors.Busy("full", retry_after=2.5),
        errors.EngineUnavailable("restarting"),
    ]
    for error in later:
        answer = problem_response(error, "id")
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
        assert json.loads(bytes(answer.body))["retry_after_ms"] > 0


def test_retry_after_is_whole_seconds_and_at_least_one() -> None:
    assert problem_response(errors.Busy("x", 0.01), "i").headers["retry-after"] == "1"
    assert problem_response(errors.Busy("x", 2.1), "i").headers["retry-after"] == "3"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_never_holds_what_json_has_not(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json({"score": value})


def test_tensors_survive_the_way_through_shared_memory() -> None:
    arrays = {
        "images": np.arange(2 * 3 * 5 * 3, dtype=np.uint8).reshape(2, 3, 5, 3),
        "sizes": np.array([[3, 5], [2, 4]], np.int64),
        "empty": np.zeros((2, 0, 4), np.float32),
        "strided": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    }
    owner, reader = OwnedBlock(), AttachedBlock()
    try:
        owner.ensure(100)
        layout = json.loads(json.dumps(write_arrays(owner.buffer, arrays)))
        back = read_arrays(reader.attach(owner.name), layout, copy=True)
        for name, array in arrays.items():
            assert back[name].dtype == array.dtype
            np.testing.assert_array_equal(back[name], array)
        first = owner.name
        owner.ensure(50)
        assert owner.name == first
        owner.ensure(2_000_000)
        assert owner.name != first and len(owner.buffer) >= 2_000_000
        with pytest.raises(BlockFullError):
            write_arrays(owner.buffer, {"big": np.zeros(4_000_000, np.uint8)})
    finally:
        reader.close()
        owner.close()


def test_an_image_past_its_deadline_is_not_even_decoded() -> None:
    async def scenario() -> None:
        pool, lease = CpuPool(1, ImageLimits(), Metrics()), ImageMemory(10**6).lease()
        with pytest.raises(errors.DeadlineExceeded):
            await pool.prepare(b"not an image", ResizeRule(96, 160), time.monotonic() - 1, lease)
        with pytest.raises(core.UnsupportedImage):
            await pool.prepare(b"not an image", ResizeRule(96, 160), time.monotonic() + 60, lease)
        pool.close()

    asyncio.run(scenario())


def test_multipart_parts_come_out_byte_for_byte() -> None:
    nasty = b"\r\n--b\r\r\n-\x00--bb" * 50
    body = b"".join(
        b'--b0undary\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n'
        b"Content-Type: image/png\r\n\r\n" + part + b"\r\n"
        for part in (nasty, b"", b"last")
    )
    kind = "multipart/form-data; boundary=b0undary"
    assert parse_multipart(kind, body + b"--b0undary--\r\n", {"image": 3})["image"] == [nasty, b"", b"last"]
    with pytest.raises(errors.TooManyImages):
        parse_multipart(kind, body + b"--b0undary--\r\n", {"image": 2})
    with pytest.raises(errors.BadBody, match="closing"):
        parse_multipart(kind, body, {"image": 3})


def test_base64_larger_than_the_limit_is_refused_by_its_length() -> None:
    settings = Settings(max_body_bytes=1000)
    images = parse_images("application/json", json.dumps({"image": "A" * 4000}).encode(), settings)
    assert isinstance(images.items[0], core.ImageTooLarge)


def test_service_times_learn_and_scale_to_unseen_shapes() -> None:
    times = ServiceTimes()
    assert times.seconds(("m", "detect", (10, 10))) > 0
    times.seed("m", ResizeRule(480, 640), 0.06)
    assert times.seconds(("m", "detect", (480, 640))) == pytest.approx(0.06)
    assert times.seconds(("m", "detect", (960, 640))) == pytest.approx(0.12)
    for _ in range(20):
        times.observe(("m", "detect", (480, 640)), 4, 0.4)
    assert times.seconds(("m", "detect", (480, 640))) == pytest.approx(0.1, rel=0.01)


def test_settings_come_from_the_environment_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HINDSIGHT_MODEL", "a, b")
    monkeypatch.setenv("HINDSIGHT_MAX_QUEUE", "99")
    assert Settings().model == ("a", "b") and Settings().max_queue == 99
    assert Settings(max_queue=20, max_images=20).max_queue == 20


@pytest.mark.parametrize(
    "bad",
    [
        {"max_images": 257},
        {"timeout": 121},
        {"port": -1},
        {"timeout": 0},
        {"timeout": math.inf},
        {"max_body_bytes": 10**10},
        {"model": ()},
        {"thread": 1},
    ],
)
def test_settings_that_make_no_sense_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**bad)  # type: ignore[arg-type]


def test_a_log_record_is_one_line_of_json_whatever_it_says() -> None:
    record = logging.LogRecord("hindsight.service", logging.INFO, "f", 1, 'two\nlines "quoted"', None, None)
    record.fields = {"path": "/\u2028\n", "odd": object}
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == 'two\nlines "quoted"'
