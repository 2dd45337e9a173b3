"""When requests are sent, and what becomes of each.

A closed loop has a number of clients, each of which sends its next request when it has its last answer. An
open loop sends at moments drawn beforehand, answers or no answers, as visitors of a site do.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hindsight.bench.requests import Request, Source
from hindsight.bench.samples import GOOD, Recorder, Sample
from hindsight.bench.target import problem_of
from hindsight.bench.wire import Address, Answer, BrokenExchange, Wire

__all__ = ["Arrivals", "Closed", "Load", "Open", "Run", "arrival_times"]

Arrivals = Literal["poisson", "uniform"]
_PAUSE_AFTER_NO_CONNECTION = 0.05  # seconds: nobody listens, and to ask again at once would only burn a core
_PAUSE_WITHOUT_RETRY_AFTER = 1.0  # seconds a polite client waits where a refusal does not say how long
_REFUSALS = frozenset({429, 503})
_LONGEST_PAUSE = 60.0
_NOT_SENT = "not sent: too many in flight"


@dataclass(frozen=True)
class Closed:
    """`clients` at once. A polite one waits as long as a refusal's Retry-After says; a rude one asks again
    at once.
    """

    clients: int
    polite: bool = False


@dataclass(frozen=True)
class Open:
    """`rate` requests a second. A request that would be the `max_in_flight` + 1st is not sent, and counts as
    failed. With `period` seconds the moments repeat themselves.
    """

    rate: float
    arrivals: Arrivals = "poisson"
    max_in_flight: int = 1024
    period: float | None = None


@dataclass(frozen=True)
class Load:
    """`patience`: seconds after which a client gives up, and closes the connection. Ends after `seconds`, or
    `requests` meant to be sent after the warm-up, whichever comes first. `from_host`: an address of this
    machine to connect from, so that a server takes it for another client.
    """

    shape: Closed | Open
    patience: float = 60.0
    warm_up: float = 0.0
    seconds: float | None = 10.0
    requests: int | None = None
    seed: int = 0
    from_host: str | None = None


def arrival_times(shape: Open, seed: int, begin: float) -> Iterator[float]:
    """Moments without end, from `begin` on: evenly spaced, or with exponential gaps (a Poisson process). What
    repeats itself begins at 0.
    """
    if shape.arrivals == "uniform":
        for number in itertools.count():
            yield begin + number / shape.rate
    elif shape.period is None:
        yield from _poisson(shape.rate, seed, begin, math.inf)
    else:
        yield from _poisson(shape.rate, seed, begin, 0.0)
        for number in itertools.count():
            yield from _poisson(shape.rate, seed, number * shape.period, (number + 1) * shape.period)


def _poisson(rate: float, seed: int, begin: float, end: float) -> Iterator[float]:
    rng, at = random.Random(seed), begin
    while (at := at + rng.expovariate(rate)) < end:
        yield at


class Run:
    """One load on one server. `stop()` ends it early; samples are in `recorder`."""

    def __init__(
        self, address: Address, source: Source, load: Load, recorder: Recorder | None = None
    ) -> None:
        self.recorder = recorder or Recorder()
        self.load = load
        self.reconnects = 0
        self.cpu_share = 0.0
        """Of one core, that this process used meanwhile."""
        self._address, self._source = address, source
        self._idle: list[Wire] = []
        self._measured = 0
        self._stopped = asyncio.Event()
        self._zero = time.perf_counter()
        self._ended: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the measurement began; negative during the warm-up."""
        return time.perf_counter() - self._zero

    @property
    def seconds(self) -> float:
        """How long the measurement took; so far, while it runs."""
        return max(0.0, self.elapsed if self._ended is None else self._ended)

    def stop(self) -> None:
        """Send no more. What is in flight is still waited for."""
        self._stopped.set()

    async def run(self) -> None:
        """Send it all, and wait for every answer. Cancelled, it closes every connection at once."""
        began, cpu = time.perf_counter(), time.process_time()
        self._zero = began + self.load.warm_up
        shape = self.load.shape
        ending = asyncio.create_task(self._end_in_time())
        try:
            async with asyncio.TaskGroup() as group:
                if isinstance(shape, Open):
                    await self._send_at(
                        arrival_times(shape, self.load.seed, -self.load.warm_up), shape, group
                    )
                else:
                    for _ in range(shape.clients):
                        group.create_task(self._client(shape.polite))
        finally:
            ending.cancel()
            if self._ended is None:  # the last of a number of requests has been answered
                self._ended = self.elapsed
            self.cpu_share = (time.process_time() - cpu) / (time.perf_counter() - began)
            for wire in self._idle:
                wire.abandon()
            self._idle.clear()

    async def _end_in_time(self) -> None:
        if self.load.seconds is None:
            await self._stopped.wait()
        else:
            await self._rest(self.load.seconds - self.elapsed)
        self._ended = self.elapsed if self.load.seconds is None else min(self.elapsed, self.load.seconds)
        self._stopped.set()

    def _may_send(self, intended: float) -> bool:
        """Counts it, if it is measured."""
        load = self.load
        if self._stopped.is_set() or (load.seconds is not None and intended >= load.seconds):
            return False
        if intended >= 0 and load.requests is not None:
            if self._measured == load.requests:
                return False
            self._measured += 1
        return True

    async def _client(self, polite: bool) -> None:
        while self._may_send(intended := self.elapsed):
            pause = await self._send(self._source(), intended, polite)
            if pause:
                await self._rest(pause)

    async def _send_at(self, moments: Iterator[float], shape: Open, group: asyncio.TaskGroup) -> None:
        for intended in moments:
            await self._rest(intended - self.elapsed)
            if not self._may_send(intended):
                return
            request = self._source()
            if self.recorder.in_flight >= shape.max_in_flight:
                now = self.elapsed
                self.recorder.add(Sample(request.kind, intended, now, now, _NOT_SENT, 0, request.images))
            else:
                # Counted now: the task has not begun when the next moment comes.
                self.recorder.in_flight += 1
                group.create_task(self._send(request, intended, False, counted=True))

    async def _rest(self, seconds: float) -> None:
        """Wait, but not past the end."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            pass

    async def _send(self, request: Request, intended: float, polite: bool, counted: bool = False) -> float:
        """One request, from connection to record; -> seconds to rest before the next."""
        self.recorder.in_flight += not counted
        patience = self.load.patience if request.patience is None else request.patience
        sent, pause = self.elapsed, 0.0
        try:
            async with asyncio.timeout(max(0.0, intended + patience - sent)):
                answer = await self._exchange(request)
        except TimeoutError:
            sample = Sample(request.kind, intended, sent, self.elapsed, "gave up", 0, request.images)
        except BrokenExchange as error:
            sample = Sample(request.kind, intended, sent, self.elapsed, str(error), 0, request.images)
            pause = _PAUSE_AFTER_NO_CONNECTION
        else:
            sample = self._sample_of(request, answer, intended, sent)
            if polite and answer.status in _REFUSALS:
                pause = _retry_after(answer)
        finally:
            self.recorder.in_flight -= 1
        self.recorder.add(sample)
        return pause

    async def _exchange(self, request: Request) -> Answer:
        """On a kept-alive connection if there is one. A server may close such a one while nothing is under
        way: the request that meets that is sent once more, on a new one, as every HTTP client does.
        """
        wire = self._take()
        if wire is None:
            wire = await Wire.connect(self._address, self.load.from_host)
        try:
            answer = await wire.exchange(request.payload)
        except BrokenExchange as error:
            if wire.exchanges == 1 or not error.unanswered:
                raise
            self.reconnects += 1
            wire = await Wire.connect(self._address, self.load.from_host)
            answer = await wire.exchange(request.payload)
        if wire.usable:
            self._idle.append(wire)
        return answer

    def _take(self) -> Wire | None:
        while self._idle:
            wire = self._idle.pop()
            if wire.usable:
                return wire
        return None

    def _sample_of(self, request: Request, answer: Answer, intended: float, sent: float) -> Sample:
        outcome, good_images = GOOD, request.images
        if answer.status not in request.good:
            outcome, good_images = problem_of(answer).partition(":")[0], 0
        elif request.images > 1:
            good_images = _count_good(answer.body, request.images)
            if good_images < request.images:
                outcome = f"{answer.status}, not every image answered"
        return Sample(
            request.kind,
            intended,
            sent,
            answer.done - self._zero,
            outcome,
            answer.status,
            request.images,
            good_images,
            _stages_of(answer),
        )


def _retry_after(answer: Answer) -> float:
    text = answer.headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:  # absent, or a date
        seconds = _PAUSE_WITHOUT_RETRY_AFTER
    return min(max(seconds, 0.0), _LONGEST_PAUSE) if seconds == seconds else _PAUSE_WITHOUT_RETRY_AFTER


def _count_good(body: bytes, images: int) -> int:
    """Of an answer for several images: those that carry no problem. All, of an answer without `results`."""
    try:
        results = json.loads(body)["results"]
        return sum(1 for result in results if "status" not in result)
    except (ValueError, KeyError, TypeError):
        return images


def _stages_of(answer: Answer) -> dict[str, float]:
    """Server-Timing: `decode;dur=2.7, model;dur=70.1` -> milliseconds by name."""
    stages = {}
    for entry in answer.headers.get("server-timing", "").split(","):
        name, _, rest = entry.strip().partition(";")
        for parameter in rest.split(";"):
            key, _, value = parameter.strip().partition("=")
            if key == "dur":
                try:
                    stages[name] = float(value)
                except ValueError:
                    continue
    return stages
