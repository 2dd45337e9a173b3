"""The options of `hindsight bench`, checked: all of them before anything is sent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hindsight.bench.checks import Limits
from hindsight.bench.photos import Photo
from hindsight.bench.requests import Body, Request, detect_requests, rescore_requests
from hindsight.bench.target import Server
from hindsight.errors import OptionError

__all__ = [
    "What",
    "check_combination",
    "check_writable",
    "header_value",
    "parse_sizes",
    "place_of",
    "positive",
    "write_text",
]

_MEASURE_CAPACITY = frozenset({"overload-rude", "overload-polite", "saturation", "soak"})


@dataclass(frozen=True)
class What:
    """What is sent: the options of that, checked."""

    route: str
    body: Body
    images: int
    boxes: int
    query: str
    headers: dict[str, str]
    seed: int

    def requests(self, server: Server, photos: list[Photo], images: int) -> list[Request]:
        if self.route == "rescore":
            return rescore_requests(
                server.address,
                photos,
                boxes=self.boxes,
                seed=self.seed,
                query=self.query,
                headers=self.headers,
            )
        return detect_requests(
            server.address, photos, body=self.body, images=images, query=self.query, headers=self.headers
        )


def check_combination(
    preset: str | None,
    clients: int | None,
    rate: float | None,
    requests: int | None,
    seconds: float | None,
    images: int | None,
    route: str,
    photos: Path | None,
    sizes: str | None,
    polite: bool,
    limits: Limits,
) -> None:
    """Options that would not do what they say together."""
    if photos is not None and sizes is not None:
        raise OptionError("--photos and --sizes exclude each other")
    if clients is not None and rate is not None:
        raise OptionError("--clients makes a closed loop and --rate an open one: give one of them")
    if route == "rescore" and (images or 1) > 1:
        raise OptionError("rescore takes one image in a request; leave --images out")
    if polite and rate is not None:
        raise OptionError("--polite is for clients of a closed loop: in an open one nobody comes back")
    capacity_known = preset in _MEASURE_CAPACITY and rate is None
    if limits.min_goodput is not None and limits.min_goodput.is_share and not capacity_known:
        presets = ", ".join(sorted(_MEASURE_CAPACITY))
        raise OptionError(f"--min-goodput in % is of the capacity, which only --preset {presets} measure")
    if preset is None:
        return
    if requests is not None:
        raise OptionError(f"--preset {preset} decides how many requests it sends; see --seconds")
    if rate is not None and preset != "soak":
        raise OptionError(f"--preset {preset} takes no --rate")
    if polite:
        raise OptionError("a preset decides how polite its clients are; leave --polite out")
    if preset == "fair" and route == "rescore":
        raise OptionError("--preset fair posts several images in a request, which rescore does not take")
    if preset == "abandoned" and seconds is not None:
        raise OptionError("--preset abandoned takes as long as it takes; leave --seconds out")


def place_of(option: str, value: str, choices: tuple[str, ...]) -> int:
    """Its place among them."""
    if value not in choices:
        raise OptionError(f"{option} {value!r} is unknown; there are: {', '.join(choices)}")
    return choices.index(value)


def positive(option: str, value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise OptionError(f"{option} must be more than 0, got {value:g}")
    return value


def parse_sizes(text: str) -> list[tuple[int, int]]:
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})x(\d{1,5})\s*", part)
        if match is None:
            raise OptionError(f"--sizes takes WIDTHxHEIGHT, with commas between; got {text!r}")
        found.append((int(match[1]), int(match[2])))
    return found


def header_value(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise OptionError("--api-key must be printable ASCII")
    return text


def check_writable(file: Path | None) -> None:
    """Better now than after half an hour."""
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise OptionError(f"{file} cannot be written: {'a folder' if file.is_dir() else 'no such folder'}")


def write_text(file: Path, text: str) -> None:
    try:
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OptionError(f"{file} cannot be written ({error.strerror})") from error
