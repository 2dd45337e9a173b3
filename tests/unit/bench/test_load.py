"""The load generator against a server whose latencies are known. Bounds are wide on the side where a busy
machine pushes, and narrow on the other.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Iterator

import pytest

from hindsight.bench.load import Closed, Load, Open, Run, arrival_times
from hindsight.bench.samples import Sample, Summary, summarise
from hindsight.bench.wire import Address
from tests.unit.bench.fake_server import FakeServer, Reply, always, problem, small_request, the_same


def run_load(server: FakeServer, load: Load) -> tuple[Run, Summary]:
    async def work() -> Run:
        async with server.running():
            run = Run(server.address, the_same(small_request()), load)
            await run.run()
            return run

    run = asyncio.run(work())
    assert run.recorder.in_flight == 0
    return run, summarise(run.recorder.samples, run.seconds)


def test_latencies_are_the_servers() -> None:
    slow_ones = itertools.cycle([Reply(0.02)] * 9 + [Reply(0.3)])
    _, summary = run_load(FakeServer(slow_ones), Load(Closed(1), seconds=None, requests=30))
    assert summary.requests == summary.good == 30
    latency = summary.latency_ms
    assert 20 <= latency["p50"] < 150
    assert 300 <= latency["p95"] <= latency["p99"] <= latency["max"] < 600
    assert latency["mean"] == pytest.approx(0.9 * latency["p50"] + 0.1 * latency["max"], rel=0.5)


def test_closed_loop_keeps_so_many_clients_busy_and_connections_alive() -> None:
    server = FakeServer(always(0.05))
    run, summary = run_load(server, Load(Closed(6), seconds=1.5))
    assert server.connections == 6 and run.reconnects == 0
    # Little's law: clients = rate x latency.
    assert summary.goodput * summary.latency_ms["mean"] / 1000 == pytest.approx(6, rel=0.15)
    assert 30 < summary.goodput <= 6 / 0.05


def test_warm_up_is_not_measured() -> None:
    replies = itertools.chain(itertools.repeat(Reply(0.4), 1), always(0.01))
    run, summary = run_load(FakeServer(replies), Load(Closed(1), warm_up=0.3, seconds=None, requests=5))
    assert len(run.recorder.samples) == 6 and summary.requests == 5
    assert run.recorder.samples[0].intended < 0
    assert summary.latency_ms["max"] < 400


@pytest.mark.parametrize("arrivals", ["poisson", "uniform"])
def test_open_loop_keeps_its_rate_however_slow_the_server(arrivals: str) -> None:
    server = FakeServer(always(0.5))
    load = Load(Open(40, arrivals), seconds=2.0, seed=3)  # type: ignore[arg-type]  # both are Arrivals
    run, summary = run_load(server, load)
    expected = sum(1 for _ in itertools.takewhile(lambda at: at < 2.0, arrival_times(load.shape, 3, 0.0)))  # type: ignore[arg-type]
    assert summary.requests == summary.good == expected == pytest.approx(80, rel=0.3)
    assert summary.latency_ms["p50"] >= 500
    # Those that were meant to be sent in the last half second are answered after the window.
    assert summary.goodput == pytest.approx(summary.good * 0.75 / 2, rel=0.35)
    assert run.seconds == 2.0


def test_open_loop_counts_the_wait_behind_a_stall() -> None:
    """One at a time, and the first answer takes a second: those behind it waited, and the tool has to say so
    (a tool that sent them only afterwards would report 10 ms).
    """
    server = FakeServer(itertools.chain([Reply(1.0)], always(0.001)), one_at_a_time=True)
    _, summary = run_load(server, Load(Open(20, "uniform"), seconds=0.9))
    assert summary.requests == 18
    waits = sorted(1000 - 50 * number for number in range(18))
    assert summary.latency_ms["p50"] >= waits[8]
    assert summary.latency_ms["p50"] < waits[8] + 400


def test_too_many_in_flight_are_failures_not_silence() -> None:
    load = Load(Open(50, "uniform", max_in_flight=5), seconds=0.5)
    _, summary = run_load(FakeServer(always(2.0)), load)
    assert summary.requests == 25 and summary.good == 5
    assert summary.failures == {"not sent: too many in flight": 20}


def test_clients_that_give_up_close_their_connection_and_are_counted() -> None:
    server = FakeServer(always(0.8))
    run, summary = run_load(server, Load(Closed(3), patience=0.1, seconds=0.55))
    assert summary.good == 0 and summary.latency_ms == {} and summary.goodput == 0
    assert summary.failures == {"gave up": summary.requests}
    assert 3 <= summary.requests <= 18
    assert server.connections == len(run.recorder.samples)  # each on a connection of its own
    assert all(sample.done - sample.intended >= 0.1 for sample in run.recorder.samples)
    assert summary.p99_of_all_ms is None


def test_patience_may_differ_by_request() -> None:
    async def work() -> list[Sample]:
        async with FakeServer(always(0.3)).running() as server:
            requests = itertools.cycle([small_request(patience=0.05), small_request()])
            run = Run(server.address, lambda: next(requests), Load(Closed(1), seconds=None, requests=4))
            await run.run()
            return run.recorder.samples

    assert [sample.outcome for sample in asyncio.run(work())] == ["gave up", "good"] * 2


def refusing(retry_after: str | None) -> Iterator[Reply]:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return itertools.repeat(problem("busy", **headers))


@pytest.mark.parametrize(("retry_after", "rests"), [("1", 1.0), (None, 1.0), ("0.4", 0.4)])
def test_polite_clients_wait_as_long_as_they_are_told(retry_after: str | None, rests: float) -> None:
    server = FakeServer(refusing(retry_after))
    _, summary = run_load(server, Load(Closed(1, polite=True), seconds=1.5))
    assert summary.failures == {"503 busy": summary.requests}
    assert summary.requests <= 1.5 / rests + 1
    gaps = [later - earlier for earlier, later in itertools.pairwise(server.arrivals)]
    assert gaps and min(gaps) >= rests * 0.99


def test_rude_clients_ask_again_at_once() -> None:
    _, summary = run_load(FakeServer(refusing("30")), Load(Closed(1), seconds=0.5))
    assert summary.requests > 10


def test_outcomes_are_told_apart() -> None:
    replies = [
        Reply(),
        Reply(status=500),
        problem("deadline-exceeded", 504),
        problem("model-not-found", 404),
        Reply(status=0),
        Reply(),
    ]
    _, summary = run_load(FakeServer(iter(replies)), Load(Closed(1), seconds=None, requests=5))
    # The last of five met a kept-alive connection that was closed under it: sent once more, on a new one.
    assert summary.failures == {"500": 1, "504 deadline-exceeded": 1, "404 model-not-found": 1}
    assert summary.requests == 5 and summary.good == 2


def test_an_idle_connection_that_the_server_has_closed_is_no_error() -> None:
    server = FakeServer(always(), close_after=1)
    _, summary = run_load(server, Load(Closed(1), seconds=None, requests=8))
    assert summary.good == 8 and server.connections == 8


def test_a_new_connection_that_is_closed_is_an_error() -> None:
    server = FakeServer(always(0.0, 0))
    _, summary = run_load(server, Load(Closed(1), seconds=None, requests=3))
    assert summary.failures == {"the server closed the connection": 3}


def test_nobody_listens() -> None:
    async def work() -> Run:
        async with FakeServer(always()).running() as server:
            address = server.address
        run = Run(address, the_same(small_request()), Load(Closed(2), seconds=0.4))
        await run.run()
        return run

    outcomes = [sample.outcome for sample in asyncio.run(work()).recorder.samples]
    assert 2 <= len(outcomes) <= 20  # it does not spin
    assert all(outcome.startswith("no connection") for outcome in outcomes)


def test_one_bad_image_of_several_makes_the_answer_no_good_one() -> None:
    body = b'{"results": [{"detections": []}, {"status": 422}, {"detections": []}]}'

    async def work() -> Summary:
        async with FakeServer(itertools.repeat(Reply(body=body))).running() as server:
            request = small_request(images=3)
            run = Run(server.address, the_same(request), Load(Closed(1), seconds=None, requests=2))
            await run.run()
            return summarise(run.recorder.samples, run.seconds)

    summary = asyncio.run(work())
    assert (summary.images, summary.good_images, summary.good) == (6, 4, 0)
    assert summary.failures == {"200, not every image answered": 2}


def test_a_status_that_is_expected_is_good() -> None:
    async def work() -> list[Sample]:
        async with FakeServer(itertools.repeat(problem("corrupt-image", 422))).running() as server:
            request = small_request(good=frozenset({422}))
            run = Run(server.address, the_same(request), Load(Closed(1), seconds=None, requests=2))
            await run.run()
            return run.recorder.samples

    assert [sample.outcome for sample in asyncio.run(work())] == ["good", "good"]


def test_stage_times_come_from_server_timing() -> None:
    server = FakeServer(always(0.1, Server_Timing="decode;dur=30, model;dur=50.5;desc=x, total;dur=99"))
    _, summary = run_load(server, Load(Closed(1), seconds=None, requests=5))
    stages = summary.stages_ms
    assert list(stages) == ["decode", "model", "elsewhere"]
    assert (stages["decode"].p50, stages["model"].p50) == (30, 50.5)
    assert stages["elsewhere"].mean == pytest.approx(summary.latency_ms["mean"] - 80.5)
    shares = [stage.share for stage in stages.values() if stage.share is not None]
    assert sum(shares) == pytest.approx(1)


def test_a_cancelled_run_leaves_no_connection_open() -> None:
    async def work() -> None:
        async with FakeServer(always(30)).running() as server:
            run = Run(server.address, the_same(small_request()), Load(Closed(3), seconds=60))
            task = asyncio.create_task(run.run())
            while server.connections < 3:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert run.recorder.in_flight == 0

    asyncio.run(work())


def test_poisson_arrivals_have_exponential_gaps() -> None:
    moments = list(itertools.islice(arrival_times(Open(50), seed=1, begin=0.0), 20_000))
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert statistics.fmean(gaps) == pytest.approx(1 / 50, rel=0.03)
    assert statistics.pstdev(gaps) == pytest.approx(1 / 50, rel=0.03)  # as large as the mean
    assert sum(gap > 1 / 50 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.02)  # 1/e


def test_arrivals_with_a_period_repeat_themselves() -> None:
    moments = list(
        itertools.takewhile(lambda at: at < 6, arrival_times(Open(20, period=2.0), seed=5, begin=-1.0))
    )
    thirds = [[at - start for at in moments if start <= at < start + 2] for start in (0, 2, 4)]
    assert thirds[0] == pytest.approx(thirds[1]) and thirds[0] == pytest.approx(thirds[2])
    assert len(thirds[0]) == pytest.approx(40, abs=25)
    assert moments[0] < 0  # the warm-up


def test_an_ipv6_host_is_named_in_brackets() -> None:
    assert Address("::1", 8000, "::1").authority == "[::1]:8000"
    assert Address("127.0.0.1", 80, "example").authority == "example"
