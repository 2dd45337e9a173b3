"""detect_many: order, failures in their places, bounds on what is under way, several images to a request."""

from __future__ import annotations

import asyncio
import contextvars
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import hindsight
from hindsight.client import core
from hindsight.client.grouping import Grouping, Item
from hindsight.errors import CorruptImage, ModelNotFound, OptionError, ServiceError, UnsupportedImage
from tests.stub_server import BUSY, FOUND, JUDGED, Driven, Seen, StubServer, says, stays_silent

SOON = 20.0  # seconds
CORRUPT = {"detail": "cut short", "code": "corrupt-image", "status": 422}
LARGE = 100_000  # bytes of an image that travels alone
Make = Callable[..., Any]


@pytest.fixture
def server(server: StubServer) -> StubServer:
    server.always = echo
    return server


@pytest.fixture
def client(make: Make) -> Any:
    return make(retries=1)


def image(number: int, size: int = 20) -> bytes:
    """`size` bytes that the stub server tells apart: it answers a score of number / 1000."""
    return b"<%d>" % number + b"." * size


def bad(number: int) -> bytes:
    return b"<bad>" + image(number)


def images_in(seen: Seen) -> list[bytes]:
    return re.findall(rb"(?:<bad>)?<\d+>", seen.body)


def answer_to(content: bytes) -> dict[str, Any]:
    if content.startswith(b"<bad>"):
        return CORRUPT
    number = int(content.strip(b"<>"))
    return {**FOUND, "detections": [{**JUDGED, "score": number / 1000}]}


def echo(server: StubServer, connection: Any, seen: Seen) -> bool:
    """What the real server does: one image is answered alone, several as results."""
    answers = [answer_to(content) for content in images_in(seen)]
    if "multipart" in seen.headers["content-type"]:
        return says({"results": answers})(server, connection, seen)
    return says(answers[0], answers[0].get("status", 200))(server, connection, seen)


def numbers(outcomes: Any) -> list[Any]:
    """The images' numbers back from their scores; of a failure its class."""
    return [
        round(float(each.scores[0]) * 1000) if isinstance(each, hindsight.Detections) else type(each)
        for each in outcomes
    ]


@pytest.mark.parametrize("size", [20, LARGE])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_every_image_is_answered_in_order(
    server: StubServer, client: Any, size: int, concurrency: int
) -> None:
    given = [image(number, size) for number in range(40)]
    assert numbers(client.detect_many(given, concurrency=concurrency)) == list(range(40))
    assert server.most_together <= concurrency


def test_no_images_are_no_requests(server: StubServer, client: Any) -> None:
    assert list(client.detect_many([])) == []
    assert server.connections == 0


@pytest.mark.parametrize("size", [20, LARGE])
def test_a_failure_stays_with_its_image(server: StubServer, client: Any, size: int) -> None:
    given = [image(0, size), bad(1), "nowhere.jpg", image(3, size), 5, image(5, size)]
    outcomes = list(client.detect_many(given))
    assert numbers(outcomes) == [0, CorruptImage, UnsupportedImage, 3, UnsupportedImage, 5]
    assert "cut short" in str(outcomes[1]) and "nowhere.jpg" in str(outcomes[2])


def test_a_busy_moment_of_one_image_among_many_is_waited_out(server: StubServer, client: Any) -> None:
    def one_busy(server: StubServer, connection: Any, seen: Seen) -> bool:
        answers = [answer_to(content) for content in images_in(seen)]
        answers[1] = {**BUSY, "retry_after_ms": 10}
        return says({"results": answers})(server, connection, seen)

    server.script.append(one_busy)
    assert numbers(client.detect_many([image(number) for number in range(4)])) == [0, 1, 2, 3]
    assert [len(images_in(seen)) for seen in server.asked] == [4, 1]


def busy_at_one(wait: float) -> Any:
    """What answers a group, and has no room for its second image."""

    def step(server: StubServer, connection: Any, seen: Seen) -> bool:
        answers = [answer_to(content) for content in images_in(seen)]
        answers[1] = {**BUSY, "retry_after_ms": wait}
        return says({"results": answers})(server, connection, seen)

    return step


def test_one_image_among_many_is_given_the_time_that_the_server_asks_for(
    server: StubServer, client: Any
) -> None:
    server.script.append(busy_at_one(1000))
    assert numbers(client.detect_many([image(number) for number in range(3)])) == [0, 1, 2]
    first, second = server.asked
    assert second.at - first.at >= 1


@pytest.mark.parametrize(("arguments", "wait"), [({"retries": 0}, 10), ({"timeout": 100}, 300_000)])
def test_one_image_among_many_is_not_sent_again_for_ever(
    server: StubServer, make: Make, arguments: dict[str, Any], wait: float
) -> None:
    server.script.append(busy_at_one(wait))
    outcomes = list(make(**arguments).detect_many([image(number) for number in range(3)]))
    assert numbers(outcomes) == [0, ServiceError, 2] and len(server.asked) == 1
    assert outcomes[1].retry_after == wait / 1000


@pytest.mark.parametrize("status", [[503], {"a": 1}, None, "503"])
def test_a_status_of_no_sense_fails_its_image_alone(server: StubServer, client: Any, status: Any) -> None:
    def step(server: StubServer, connection: Any, seen: Seen) -> bool:
        answers = [answer_to(content) for content in images_in(seen)]
        return says({"results": [answers[0], {"status": status}]})(server, connection, seen)

    server.script.append(step)
    assert numbers(client.detect_many([image(0), image(1)])) == [0, ServiceError]


@pytest.mark.parametrize("size", [20, LARGE])
@pytest.mark.parametrize("status", [503, 429])
def test_a_busy_server_is_waited_for_however_often_it_refuses(
    server: StubServer, client: Any, monkeypatch: pytest.MonkeyPatch, size: int, status: int
) -> None:
    """The time of a call bounds it: requests beside each other take the room from each other."""
    monkeypatch.setattr(core, "pause", lambda failures, wait: 0.01)
    server.script += [says(BUSY, status)] * 9
    given = [image(number, size) for number in range(4)]
    assert numbers(client.detect_many(given, concurrency=2)) == [0, 1, 2, 3]
    assert len(server.asked) == 9 + (1 if size < LARGE else 4)


@pytest.mark.parametrize(("arguments", "most"), [({"retries": 0}, 1), ({"timeout": 0.5}, 20)])
def test_a_server_that_stays_busy_fails_its_images_alone(
    server: StubServer, make: Make, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], most: int
) -> None:
    """With retries=0 at once, else when the time of the call is over."""
    monkeypatch.setattr(core, "pause", lambda failures, wait: 0.1)
    server.always = busy_with_the_first
    outcomes = list(make(**arguments).detect_many([image(number, LARGE) for number in range(3)]))
    assert numbers(outcomes) == [ServiceError, 1, 2]
    assert outcomes[0].status == 503
    assert sum(images_in(seen) == [b"<0>"] for seen in server.asked) <= most


def busy_with_the_first(server: StubServer, connection: Any, seen: Seen) -> bool:
    step = says(BUSY, 503) if images_in(seen) == [b"<0>"] else echo
    return step(server, connection, seen)


def test_a_gateway_without_its_server_is_tried_as_often_as_was_said(
    server: StubServer, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "pause", lambda failures, wait: 0.01)
    server.script += [says(BUSY, 503), says({}, 502), says(BUSY, 503), says({}, 502)]
    assert numbers(client.detect_many([image(0), image(1, LARGE)], concurrency=1)) == [ServiceError, 1]


def test_small_images_share_a_request_and_photos_do_not(server: StubServer, client: Any) -> None:
    given = [*(image(number) for number in range(20)), image(20, LARGE), image(21), image(22)]
    assert numbers(client.detect_many(given, concurrency=1)) == list(range(23))
    assert [len(images_in(seen)) for seen in server.asked] == [16, 4, 1, 2]


@pytest.mark.parametrize(("most", "requests"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5])])
def test_how_many_share_a_request_can_be_said(
    server: StubServer, client: Any, most: int, requests: list[int]
) -> None:
    given = [image(number, LARGE) for number in range(5)]
    outcomes = client.detect_many(given, concurrency=1, images_per_request=most, score_threshold=0.5)
    assert numbers(outcomes) == list(range(5))
    assert [len(images_in(seen)) for seen in server.asked] == requests
    assert {seen.target for seen in server.asked} == {"/detect?score_threshold=0.5"}


def test_a_server_that_takes_fewer_images_gets_them_one_by_one(server: StubServer, client: Any) -> None:
    server.script.append(says({"detail": "at most 2", "code": "service-error"}, 413))
    assert numbers(client.detect_many([image(number) for number in range(3)])) == [0, 1, 2]
    assert [len(images_in(seen)) for seen in server.asked] == [3, 1, 1, 1]


@pytest.mark.parametrize("size", [20, LARGE])
@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (401, "service-error", ServiceError),
        (404, "model-not-found", ModelNotFound),
        (422, "option-error", OptionError),
    ],
)
def test_what_every_image_would_meet_is_raised(
    server: StubServer, client: Any, size: int, status: int, code: str, error: type[Exception]
) -> None:
    server.always = says({"detail": "no", "code": code}, status)
    with pytest.raises(error, match="no"):
        list(client.detect_many([image(number, size) for number in range(100)]))
    assert len(server.asked) < 20


@pytest.mark.parametrize(
    "arguments", [{"concurrency": 0}, {"images_per_request": 0}, {"images_per_request": 65}]
)
def test_arguments_out_of_range_are_refused(client: Any, arguments: dict[str, int]) -> None:
    with pytest.raises(OptionError):
        client.detect_many([image(1)], **arguments)


def test_images_are_taken_as_they_are_needed(server: StubServer) -> None:
    taken = 0

    def camera() -> Iterator[bytes]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield image(number, LARGE)

    with hindsight.Client(server.url) as client:
        outcomes = client.detect_many(camera(), concurrency=2)
        assert taken == 0
        assert numbers([next(outcomes) for _ in range(3)]) == [0, 1, 2]
        assert taken <= 12
        outcomes.close()  # type: ignore[attr-defined]
    assert len(server.asked) <= taken


def test_an_answer_does_not_wait_for_the_next_image(server: StubServer) -> None:
    """A camera gives its second picture when the answer to the first has been seen."""
    seen = threading.Event()

    def camera() -> Iterator[bytes]:
        for number in range(3):
            yield image(number, LARGE)
            assert seen.wait(SOON), "no answer came while the camera had nothing new"
            seen.clear()

    heard = []
    with hindsight.Client(server.url) as client:
        for outcome in client.detect_many(camera()):
            heard.append(outcome)
            seen.set()
    assert numbers(heard) == [0, 1, 2]


def test_nor_does_an_asynchronous_one(server: StubServer) -> None:
    async def run() -> list[Any]:
        seen = asyncio.Event()

        async def camera() -> AsyncIterator[bytes]:
            for number in range(3):
                yield image(number, LARGE)
                async with asyncio.timeout(SOON):
                    await seen.wait()
                seen.clear()

        heard = []
        async with hindsight.AsyncClient(server.url) as client:
            async for outcome in client.detect_many(camera()):
                heard.append(outcome)
                seen.set()
        return heard

    assert numbers(asyncio.run(run())) == [0, 1, 2]


def test_an_asynchronous_source_that_is_cancelled_ends_the_answers(server: StubServer) -> None:
    async def camera() -> AsyncIterator[bytes]:
        yield image(0, LARGE)
        raise asyncio.CancelledError("unplugged")

    async def run() -> list[Any]:
        heard = []
        async with hindsight.AsyncClient(server.url) as client:
            with pytest.raises(asyncio.CancelledError, match="unplugged"):
                async with asyncio.timeout(SOON):
                    async for outcome in client.detect_many(camera()):
                        heard.append(outcome)
        return heard

    assert numbers(asyncio.run(run())) == [0]


@pytest.mark.parametrize("kind", [hindsight.Client, Driven], ids=["sync", "async"])
def test_whoever_is_slow_to_take_answers_has_few_images_taken(server: StubServer, kind: Any) -> None:
    """Answered or not, what nobody has taken yet is bounded: images are in memory until then."""
    taken: list[int] = []

    def camera() -> Iterator[bytes]:
        for number in range(1000):
            taken.append(number)
            yield image(number, LARGE)

    async def listen() -> None:
        async with hindsight.AsyncClient(server.url) as client:
            outcomes = client.detect_many(camera(), concurrency=2)
            assert numbers([await anext(outcomes)]) == [0]
            while len(server.asked) < 4:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)  # for more to be taken, if that were possible
            await outcomes.aclose()  # type: ignore[attr-defined]

    if kind is Driven:
        asyncio.run(listen())
    else:
        with hindsight.Client(server.url) as client:
            outcomes = client.detect_many(camera(), concurrency=2)
            assert numbers([next(outcomes)]) == [0]
            while len(server.asked) < 4:
                time.sleep(0.01)
            time.sleep(0.2)
            outcomes.close()  # type: ignore[attr-defined]
    assert len(taken) <= 8
    assert not [thread for thread in threading.enumerate() if thread.name == "hindsight images"]


def test_a_source_that_hangs_does_not_hold_who_stops_listening(server: StubServer) -> None:
    release = threading.Event()

    def camera() -> Iterator[bytes]:
        yield image(0, LARGE)
        release.wait(SOON)
        yield image(1, LARGE)

    began = time.monotonic()
    with hindsight.Client(server.url) as client:
        outcomes = client.detect_many(camera())
        assert numbers([next(outcomes)]) == [0]
        outcomes.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < SOON / 2
    release.set()
    for thread in threading.enumerate():
        if thread.name == "hindsight images":
            thread.join(SOON)
            assert not thread.is_alive()
    assert len(server.asked) == 1, "what comes later is not sent"


def test_what_the_callers_context_says_holds_for_the_source(server: StubServer) -> None:
    request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")
    known = []

    def camera() -> Iterator[bytes]:
        known.append(request_id.get())
        yield image(0)

    token = request_id.set("a")
    with hindsight.Client(server.url) as client:
        assert numbers(client.detect_many(camera())) == [0]
    request_id.reset(token)
    assert known == ["a"]


def test_an_error_of_the_images_own_iterator_comes_through(server: StubServer, client: Any) -> None:
    def camera() -> Iterator[bytes]:
        yield image(0)
        raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged"):
        list(client.detect_many(camera()))


@pytest.mark.parametrize("size", [20, LARGE])
def test_what_came_before_that_error_is_answered_first(server: StubServer, size: int) -> None:
    def camera() -> Iterator[bytes]:
        yield from (image(number, size) for number in range(6))
        raise OSError("unplugged")

    async def listen() -> list[Any]:
        heard = []
        async with hindsight.AsyncClient(server.url) as client:
            with pytest.raises(OSError, match="unplugged"):
                async for outcome in client.detect_many(camera()):
                    heard.append(outcome)
        return heard

    heard = []
    with hindsight.Client(server.url) as client, pytest.raises(OSError, match="unplugged"):
        for outcome in client.detect_many(camera()):
            heard.append(outcome)
    assert numbers(heard) == list(range(6)) == numbers(asyncio.run(listen()))


def test_who_stops_listening_ends_what_is_under_way(server: StubServer) -> None:
    server.script += [echo, echo]  # whichever of the first two comes first
    server.always = stays_silent
    with hindsight.Client(server.url) as client:
        outcomes = client.detect_many([image(number, LARGE) for number in range(9)], concurrency=2)
        assert numbers([next(outcomes)]) == [0]
        while len(server.asked) < 3:
            time.sleep(0.01)
        outcomes.close()  # type: ignore[attr-defined]
        assert server.left.wait(SOON)


def test_the_asynchronous_one_takes_asynchronous_images(server: StubServer) -> None:
    async def camera() -> AsyncIterator[bytes]:
        for number in range(5):
            await asyncio.sleep(0)
            yield image(number)

    async def run() -> list[Any]:
        async with hindsight.AsyncClient(server.url) as client:
            return [outcome async for outcome in client.detect_many(camera())]

    assert numbers(asyncio.run(run())) == list(range(5))


def test_the_loop_turns_while_images_are_under_way(server: StubServer) -> None:
    release = threading.Event()

    def waits(server: StubServer, connection: Any, seen: Seen) -> bool:
        release.wait(SOON)
        return echo(server, connection, seen)

    server.always = waits

    async def run() -> list[Any]:
        async with hindsight.AsyncClient(server.url) as client:
            task = asyncio.create_task(_all(client))
            while not server.asked:
                await asyncio.sleep(0.01)
            release.set()
            return await task

    async def _all(client: hindsight.AsyncClient) -> list[Any]:
        return [outcome async for outcome in client.detect_many([image(1)])]

    assert numbers(asyncio.run(run())) == [1]


def test_groups_keep_the_order_and_the_bounds() -> None:
    sizes = [10, 40_000, 10, 10, 30_000] + [30_000] * 10
    grouping = Grouping(None)
    groups: list[list[int]] = []

    for size in sizes:
        grouping.add(Item(b"", b"x" * size))
        groups += [[item.size for item in group] for group in grouping.complete()]
    groups += [[item.size for item in group] for group in grouping.rest()]
    assert [size for group in groups for size in group] == sizes
    assert all(sum(group) <= 256 * 1024 or len(group) == 1 for group in groups)
    assert [40_000] in groups
