"""Who may wait: every image has a place before it is decoded, or is refused at once with the time at which to
come back.

Refusing early is what keeps a server useful under overload. An image whose client will have given up before
its turn costs as much as one that is answered, so what cannot be answered soon is better never begun.

Seconds are those of expected work, measured (estimates.py). Because the queue is fair (scheduler.py), the
wait of a request depends on whose it is: other clients take turns with this one, so one image waits for one
turn of each client, however much that client has in the queue.
"""

import asyncio
import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.callers import Caller
from service.errors import Busy, whole_seconds
from service.metrics import Metrics
from service.settings import Settings

_LONGEST_RETRY = 10.0  # seconds; how busy it will be later, nobody can tell
_SHORTEST = 1e-4  # seconds, of an image: places are few even where work is nothing


@dataclass(frozen=True)
class Capacity:
    """engines: those ready, at least 1. busy: seconds of work that they have begun and not finished."""

    engines: int
    busy: float


@dataclass(eq=False)
class Admitted:
    """One request. images: how many of it wait. seconds: their expected work. decoding: lets a few of them at
    a time to the decoders, or the image of somebody else would wait there for all of them.
    """

    caller: Caller
    model: str
    images: int
    seconds: float
    decoding: asyncio.Semaphore


class Slot:
    """One admitted image's place among those that wait; given back once, when it starts to run or fails.

    neighbour_failed: another image of its request has, or another tile of its image, and so nobody waits for
    this one any more.
    """

    def __init__(self, request: Admitted, seconds: float, leave: Callable[[Admitted], None]) -> None:
        self.request = request
        self.neighbour_failed = False
        self._seconds = seconds
        self._leave: Callable[[Admitted], None] | None = leave

    @property
    def cancelled_because(self) -> str:
        """The metric's reason where its work is cancelled."""
        return "request_failed" if self.neighbour_failed else "disconnected"

    def expect(self, seconds: float) -> None:
        """Its work, which is better known after decoding."""
        if self._leave is not None:
            self.request.seconds += seconds - self._seconds
            self._seconds = seconds

    def release(self) -> None:
        if self._leave is not None:
            leave, self._leave = self._leave, None
            self.request.images -= 1
            self.request.seconds -= self._seconds
            leave(self.request)


class Admission:
    """The places, and the promises given to those who got none."""

    def __init__(
        self, settings: Settings, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._requests: dict[Admitted, None] = {}
        self._taken = 0
        self._promises: list[tuple[float, float]] = []  # a heap: when they return, with how much work
        self._promised = 0.0

    def admit(self, count: int, caller: Caller, model: str, each: float, capacity: Capacity) -> list[Slot]:
        """Places for `count` images of about `each` seconds; none for none. Raises Busy."""
        if not count:
            return []  # a request of no images would never leave
        self.check(count, caller, model, each, capacity)
        decoding = asyncio.Semaphore(self._settings.decode_threads)
        request = Admitted(caller, model, count, count * each, decoding)
        self._requests[request] = None
        self._taken += count
        self._metrics.queue_depth.labels(model).inc(count)
        return [Slot(request, each, self._leave) for _ in range(count)]

    def check(self, count: int, caller: Caller, model: str, each: float, capacity: Capacity) -> None:
        """Raises Busy where `admit` would. An idle server takes whatever has places, for there is nobody to
        wait for, and an estimate that is too high would never be corrected otherwise.
        """
        if not self._requests and not capacity.busy and count <= self._settings.max_queue:
            return
        now = self._clock()
        own = count * each / capacity.engines
        wait = self.expected_wait(caller.client, count * each, capacity)
        places = self._places(caller.client, count)
        excess = {  # seconds until it would fit
            "queue_full": (self._taken + count - places) * max(each, _SHORTEST) / capacity.engines,
            "overload": wait - max(self._settings.max_queue_seconds, own),
            "deadline": wait + own - (caller.deadline - now),
        }
        reason = max(excess, key=lambda name: excess[name])
        if excess[reason] <= 0:
            return
        self._metrics.drops.labels(model, reason).inc(count)
        hold, retry = self._promise(excess[reason], count * each, now, capacity)
        raise Busy(
            f"{self._taken} images wait, and {count} more would wait {wait:.1f} s; "
            f"retry in {whole_seconds(retry)} s",
            retry_after=retry,
            hold=hold if now + hold < caller.deadline else 0.0,
        )

    def expected_wait(self, client: str, own: float, capacity: Capacity) -> float:
        """Seconds that `own` seconds of this client's work would spend waiting for other work."""
        before = sum(
            min(request.seconds, own) for request in self._requests if request.caller.client == client
        )
        turns = own + before  # what this client is served until then; each other one is served no more
        others: dict[str, float] = {}
        for request in self._requests:
            if request.caller.client != client:
                others[request.caller.client] = others.get(request.caller.client, 0.0) + request.seconds
        before += sum(min(seconds, turns) for seconds in others.values())
        return (capacity.busy + before) / capacity.engines

    def _places(self, client: str, count: int) -> int:
        """How many places may be taken in all once this request is in. The last are kept free for those who
        would otherwise be shut out: clients that have nothing waiting, and single images.
        """
        most = self._settings.max_queue
        if not any(request.caller.client == client for request in self._requests):
            return most
        return most * 3 // 4 if count == 1 else most // 2

    def _promise(self, excess: float, work: float, now: float, capacity: Capacity) -> tuple[float, float]:
        """When to return: -> seconds to hold the answer back, and seconds from then on.

        Those who were told before come first, or all would come back at one time and find one place. And
        because clients only read whole seconds, the rest of the time passes before they are told: else they
        would come in crowds, of which the first few would find places, again and again the same.
        """
        while self._promises and self._promises[0][0] <= now:
            self._promised -= heapq.heappop(self._promises)[1]
        if not self._promises:
            self._promised = 0.0  # whatever rounding has left
        retry = excess + self._promised / capacity.engines
        hold = retry % 1 if retry > 1 else 0.0
        retry = min(retry - hold, _LONGEST_RETRY)
        heapq.heappush(self._promises, (now + hold + whole_seconds(retry), work))
        self._promised += work
        return hold, retry

    def _leave(self, request: Admitted) -> None:
        if not request.images:
            del self._requests[request]
        self._taken -= 1
        self._metrics.queue_depth.labels(request.model).dec()
