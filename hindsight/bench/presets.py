"""The scenarios of docs/bench.md: what is sent in each, and the figures that tell how the server took it.

A preset measures through a Session, and puts its conclusions into the `facts` of what it measured.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from hindsight.bench.load import Closed, Load, Open
from hindsight.bench.requests import Source
from hindsight.bench.samples import Sample, percentile, with_failures
from hindsight.bench.session import Measured, Session
from hindsight.bench.target import other_host
from hindsight.errors import ServiceError

__all__ = ["PRESETS", "Preset", "Wishes", "abandoned", "drift", "find_capacity", "overload", "run_preset"]

_BUSY_CLIENTS = 16  # that keep any server busy, and that any server can keep waiting
_CROWD = 64
_CROWD_PATIENCE = 2.0
_ABANDONED = 40
_ABANDON_AFTER = 0.5
_ROUNDS = 5
_FAIR_IMAGES = 64
_STEPS = (1, 2, 4, 8, 16, 32, 64)
_PLATEAU = 0.95  # of the best rate: more clients than this takes bring nothing but waiting
_SHARES = (0.5, 0.8)  # of the capacity, that strangers then ask for
_SOAK_SHARE = 0.8
_CALM_AFTER = 60.0


@dataclass(frozen=True)
class Wishes:
    """What the user said; None: as the preset has it. `source(n)`: requests of n images each."""

    source: Callable[[int], Source]
    clients: int | None = None
    rate: float | None = None
    patience: float | None = None
    warm_up: float | None = None
    seconds: float | None = None
    images: int | None = None
    seed: int = 0

    def closed(self, clients: int, seconds: float, **other: float | None) -> Load:
        """A closed loop of patient clients, unless `other` says more of the Load."""
        load = Load(Closed(clients), warm_up=1.0, seconds=seconds, seed=self.seed)
        return replace(load, **other)  # type: ignore[arg-type]  # names of Load's own


async def find_capacity(session: Session, wishes: Wishes) -> Measured:
    """Good answers a second for patient clients that ask as fast as they are answered."""
    seconds = 6.0 if wishes.seconds is None else min(6.0, wishes.seconds)
    load = wishes.closed(_BUSY_CLIENTS, seconds)
    found = await session.measure("capacity", load, wishes.source(wishes.images or 1))
    if not found.summary.goodput:
        raise ServiceError(f"no request was answered: {_said(found)}")
    found.facts["capacity_per_second"] = found.summary.goodput
    return found


async def overload(session: Session, wishes: Wishes, polite: bool) -> None:
    """64 clients of 2 s patience, who give up and come back: what share of the capacity is still of use."""
    capacity = await find_capacity(session, wishes)
    crowd = Load(
        Closed(wishes.clients or _CROWD, polite),
        patience=wishes.patience or _CROWD_PATIENCE,
        warm_up=wishes.warm_up or 0.0,  # the first seconds of an overload are part of it
        seconds=wishes.seconds or 20.0,
        seed=wishes.seed,
    )
    name = "polite crowd" if polite else "rude crowd"
    found = await session.measure(name, crowd, wishes.source(wishes.images or 1), judged=True)
    half = found.summary.seconds / 2
    late = sum(half <= sample.done < 2 * half and sample.is_good for sample in found.samples) / half
    found.facts["goodput_of_capacity"] = found.summary.goodput / capacity.summary.goodput
    found.facts["late_goodput_of_capacity"] = late / capacity.summary.goodput


async def abandoned(session: Session, wishes: Wishes, rounds: int = _ROUNDS) -> None:
    """40 requests at once, given up after half a second; then one more: how long does that wait."""
    source = wishes.source(wishes.images or 1)
    single = Load(Closed(1), seconds=None, requests=10, seed=wishes.seed)
    alone = await session.measure("alone", single, source)
    if not alone.summary.good:
        raise ServiceError(f"no request was answered: {_said(alone)}")
    calm = 2 * alone.summary.latency_ms["max"]
    clients = wishes.clients or _ABANDONED
    crowd = Load(Closed(clients), patience=wishes.patience or _ABANDON_AFTER, seconds=None, requests=clients)
    waits = []
    for turn in range(rounds):
        await session.measure(f"crowd {turn + 1}", crowd, source, keep=False)
        following = await session.measure(
            f"next {turn + 1}", replace(single, requests=1), source, judged=True
        )
        waits += with_failures(following.samples)
        await _until_calm(session, replace(single, requests=1), source, calm)
    alone.facts.update(
        alone_ms=alone.summary.latency_ms["p50"],
        next_median_ms=statistics.median(waits),
        next_worst_ms=max(waits),
    )


async def _until_calm(session: Session, single: Load, source: Source, milliseconds: float) -> None:
    """Until two requests in a row take no longer than they should; a minute at most."""
    quick = 0
    for _ in range(int(_CALM_AFTER / 0.2)):
        asked = await session.measure("calm?", single, source, keep=False)
        quick = quick + 1 if max(with_failures(asked.samples)) <= milliseconds else 0
        if quick == 2:
            return
        await asyncio.sleep(0.2)


async def fair(session: Session, wishes: Wishes) -> None:
    """One client with one image at a time, alone and then beside one that posts 64 images at a time."""
    small, images = wishes.source(1), wishes.images or _FAIR_IMAGES
    large, images = await _accepted(session, wishes, images)
    seconds = wishes.seconds or 15.0
    alone = await session.measure("single, alone", wishes.closed(1, min(5.0, seconds)), small)
    # No warm-up: a request that waits all through it and beyond is what this is about.
    one = wishes.closed(1, seconds, patience=wishes.patience or 60.0, warm_up=0.0)
    many = wishes.closed(wishes.clients or max(1, _FAIR_IMAGES // images), seconds, warm_up=0.0)
    many = replace(many, from_host=other_host(session.address))
    beside, poster = await session.measure_together(
        [("single, beside", one, small, True), ("poster", many, large, False)]
    )
    beside.facts.update(
        alone_p50_ms=alone.summary.latency_ms.get("p50", float("inf")),
        beside_p50_ms=percentile(with_failures(beside.counted), 50),
        beside_worst_ms=max(with_failures(beside.counted)),
        poster_images_per_request=images,
        client_addresses=1 if many.from_host is None else 2,
        poster_images_per_second=poster.summary.images_per_second,
    )


async def _accepted(session: Session, wishes: Wishes, images: int) -> tuple[Source, int]:
    """Requests of `images` images, or of half as many until the server takes them."""
    while True:
        source = wishes.source(images)
        probe = Load(Closed(1), seconds=None, requests=1)
        asked = await session.measure(f"{images} images?", probe, source, keep=False)
        if not any(sample.status == 413 for sample in asked.samples):
            return source, images
        if images == 1:
            raise ServiceError(f"the server refuses even one image: {_said(asked)}")
        images //= 2


async def saturation(session: Session, wishes: Wishes) -> None:
    """More and more clients, until they bring nothing; then strangers at half and at 80 % of what that is."""
    source = wishes.source(wishes.images or 1)
    seconds, patience = wishes.seconds or 8.0, wishes.patience or 60.0
    steps = [step for step in _STEPS if step <= (wishes.clients or _STEPS[-1])]
    found: list[Measured] = []
    for clients in steps:
        load = wishes.closed(clients, seconds, patience=patience)
        found.append(await session.measure(f"{clients} clients", load, source))
    best = max(each.summary.goodput for each in found)
    if not best:
        raise ServiceError(f"no request was answered: {_said(found[0])}")
    knee = next(number for number, each in enumerate(found) if each.summary.goodput >= _PLATEAU * best)
    found[knee].facts.update(capacity_per_second=best, clients_enough=steps[knee])
    for share in _SHARES:
        load = Load(
            Open(share * best), patience=patience, warm_up=2.0, seconds=2.5 * seconds, seed=wishes.seed
        )
        await session.measure(f"{share:.0%} of capacity", load, source, judged=share == _SHARES[-1])


async def soak(session: Session, wishes: Wishes) -> None:
    """Strangers at 80 % of the capacity for half an hour: is the last third as the first was."""
    source = wishes.source(wishes.images or 1)
    rate = wishes.rate
    if rate is None:
        rate = _SOAK_SHARE * (await find_capacity(session, wishes)).summary.goodput
    seconds = wishes.seconds or 1800.0
    # The same moments in each third, so that a difference is the server's.
    load = Load(
        Open(rate, period=seconds / 3),
        patience=wishes.patience or 60.0,
        warm_up=5.0 if wishes.warm_up is None else wishes.warm_up,
        seconds=seconds,
        seed=wishes.seed,
    )
    found = await session.measure("soak", load, source, judged=True)
    found.facts.update(drift(found.samples, found.summary.seconds))


def drift(samples: list[Sample], seconds: float) -> dict[str, float]:
    """p50 and p99 of the first and of the last third, and how much more the last is; of good answers."""
    facts = {}
    for percent in (50, 99):
        thirds = []
        for number in (0, 2):
            within = [
                1000 * each.latency
                for each in samples
                if each.is_good and number * seconds / 3 <= each.intended < (number + 1) * seconds / 3
            ]
            thirds.append(percentile(within, percent) if within else float("inf"))
        first, last = thirds
        facts[f"p{percent}_first_ms"], facts[f"p{percent}_last_ms"] = first, last
        facts[f"p{percent}_drift"] = last / first - 1 if first < float("inf") else float("inf")
    return facts


def _said(measured: Measured) -> str:
    return ", ".join(f"{count} x {what}" for what, count in measured.summary.failures.items()) or "nothing"


@dataclass(frozen=True)
class Preset:
    """`run` measures; `shows` says what for."""

    run: Callable[[Session, Wishes], Awaitable[None]]
    shows: str


PRESETS: dict[str, Preset] = {
    "overload-rude": Preset(
        lambda session, wishes: overload(session, wishes, polite=False),
        "how much of the capacity is still of use when 64 clients of little patience retry at once",
    ),
    "overload-polite": Preset(
        lambda session, wishes: overload(session, wishes, polite=True),
        "the same, with clients that wait as long as Retry-After says",
    ),
    "abandoned": Preset(abandoned, "how long the next request waits after 40 were given up"),
    "fair": Preset(fair, "how a client with one image fares beside one that posts 64 at a time"),
    "saturation": Preset(saturation, "how many clients, and how many requests a second, the server serves"),
    "soak": Preset(soak, "whether latency stays what it is over half an hour at 80 % of the capacity"),
}


async def run_preset(name: str, session: Session, wishes: Wishes) -> None:
    """Raises OptionError, ServiceError where the server answers nothing, Interrupted."""
    await PRESETS[name].run(session, wishes)
