"""The requests that are sent: their bytes are made before the clock runs."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

import numpy as np

from hindsight.bench.photos import Photo
from hindsight.bench.wire import Address

__all__ = [
    "Body",
    "Request",
    "Source",
    "detect_requests",
    "mixed",
    "post_request",
    "rescore_requests",
    "turn",
]

Body = Literal["raw", "multipart"]
_BOUNDARY = "hindsight-bench-94c1f7a2"
_MOST_BYTES = 128 * 2**20  # of all made requests together
_MOST_REQUESTS = 256

OK = frozenset({200})


@dataclass(frozen=True)
class Request:
    """`payload` goes out as it is. `images`: in it. `kind`: the name of its like in the report. `good`: the
    statuses that are the right answer. `patience`: seconds this client waits, where it is not everybody's.
    """

    payload: tuple[bytes, ...]
    images: int = 1
    kind: str = "detect"
    good: frozenset[int] = field(default=OK)
    patience: float | None = None


Source = Callable[[], Request]
"""Gives the next request to send."""


def detect_requests(
    address: Address,
    photos: Sequence[Photo],
    *,
    body: Body = "raw",
    images: int = 1,
    query: str = "",
    headers: dict[str, str] | None = None,
    field_name: str = "image",
    path: str = "/detect",
    kind: str = "detect",
) -> list[Request]:
    """POST /detect with `images` photos each, every photo in turn. More than one need multipart."""
    size = max(1, max(len(photo.data) for photo in photos) * images)
    count = max(1, min(len(photos), _MOST_REQUESTS, _MOST_BYTES // size))
    turning = itertools.cycle(photos)
    made = []
    for _ in range(count):
        chosen = [next(turning) for _ in range(images)]
        if body == "raw" and images == 1:
            content_type, parts = chosen[0].media_type, [chosen[0].data]
        else:
            content_type = f"multipart/form-data; boundary={_BOUNDARY}"
            parts = [*itertools.chain(*(_file_part(field_name, photo) for photo in chosen)), _END]
        payload = post_request(address, path + query, content_type, parts, headers)
        made.append(Request(payload, images, kind))
    return made


def rescore_requests(
    address: Address,
    photos: Sequence[Photo],
    *,
    boxes: int,
    seed: int,
    query: str = "",
    headers: dict[str, str] | None = None,
    kind: str = "rescore",
) -> list[Request]:
    """POST /rescore: each photo with `boxes` boxes drawn anew, inside of it."""
    rng = np.random.default_rng(seed)
    made = []
    for photo in photos[: max(1, _MOST_BYTES // max(len(photo.data) for photo in photos))]:
        sides = np.array([photo.width, photo.height], np.float64)
        corners = rng.uniform(0, 0.8, (boxes, 2))
        ends = corners + rng.uniform(0.1, 0.2, (boxes, 2))
        drawn = np.concatenate([corners * sides, ends * sides], axis=1).round(1).tolist()
        parts = [
            *_file_part("image", photo),
            _part_head('name="boxes"', "application/json") + json.dumps(drawn).encode() + b"\r\n",
            _END,
        ]
        content_type = f"multipart/form-data; boundary={_BOUNDARY}"
        payload = post_request(address, f"/rescore{query}", content_type, parts, headers)
        made.append(Request(payload, 1, kind))
    return made


def post_request(
    address: Address,
    target: str,
    content_type: str,
    parts: Sequence[bytes],
    headers: dict[str, str] | None = None,
) -> tuple[bytes, ...]:
    """The bytes of one POST: head and body."""
    length = sum(len(part) for part in parts)
    lines = [
        f"POST {quote(address.prefix + target, safe='/?&=%,:+')} HTTP/1.1",
        f"Host: {address.authority}",
        f"Content-Type: {content_type}",
        f"Content-Length: {length}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return (head, *parts)


def turn(requests: Sequence[Request]) -> Source:
    """One after the other, again and again."""
    turning: Iterator[Request] = itertools.cycle(requests)
    return lambda: next(turning)


def mixed(kinds: Sequence[tuple[float, Source]], seed: int, period: int | None = None) -> Source:
    """Each kind with its weight, drawn with `seed`; with `period`, the draws begin anew after so many."""
    weights = [weight for weight, _ in kinds]
    sources = [source for _, source in kinds]
    rng = random.Random(seed)
    drawn = 0

    def draw() -> Request:
        nonlocal rng, drawn
        if period is not None and drawn == period:
            rng, drawn = random.Random(seed), 0
        drawn += 1
        return rng.choices(sources, weights)[0]()

    return draw


def _part_head(disposition: str, content_type: str) -> bytes:
    lines = (
        f"--{_BOUNDARY}",
        f"Content-Disposition: form-data; {disposition}",
        f"Content-Type: {content_type}",
    )
    return "\r\n".join([*lines, "", ""]).encode()


def _file_part(name: str, photo: Photo) -> list[bytes]:
    return [_part_head(f'name="{name}"; filename="photo"', photo.media_type), photo.data, b"\r\n"]


_END = f"--{_BOUNDARY}--\r\n".encode()
