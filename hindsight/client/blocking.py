"""hindsight.Client."""

from __future__ import annotations

import asyncio
import os
import ssl
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Unpack

from hindsight.client.core import Core, Settings
from hindsight.client.grouping import Grouping, Item, Outcome, attached, groups_ahead
from hindsight.client.http import Address
from hindsight.client.portal import Portal
from hindsight.client.taking import sent_ahead
from hindsight.client.wire import Boxes, Options, encoded
from hindsight.detections import Detections, Rescored
from hindsight.picture import ImageLike

__all__ = ["Client"]


class Client:
    """A server, spoken to over connections that are kept. Safe to share between threads; a process that is
    forked off makes connections of its own. Close it, or use it in a `with`.

    url: such as http://localhost:8000. model: which of the server's models, NAME or NAME@VERSION; None for
    its default. timeout: seconds that a call may take in all; the server is told, and drops what would come
    too late. retries: how often a request is sent again that met a busy server (429, 502, 503) or lost its
    connection; the server's Retry-After is kept to. api_key: for a server that asks for one. tls: how to
    check a server with https, and show a certificate to it. Raises OptionError.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        api_key: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = Settings(Address.of(url, tls), model, timeout, retries, api_key)
        self.url = url
        self.model = model
        self._closed = False
        self._sessions: dict[int, _Session] = {}
        self._finalizer = weakref.finalize(self, _close_all, self._sessions)

    def detect(self, image: ImageLike, **options: Unpack[Options]) -> Detections:
        """As Detector.detect, and the same answer, rounded as JSON has it: scores to 6 decimals, boxes to 3.
        A path's or bytes' file is sent as it is; an array or Pillow image as PNG.

        Raises what the server's answer says, by the classes of hindsight.errors; ServiceError where it could
        not answer.
        """
        session = self._session()
        return session.portal.run(session.core.detect(encoded(image), options)).with_image(image, keep=False)

    def detect_many(
        self,
        images: Iterable[ImageLike],
        *,
        concurrency: int = 4,
        images_per_request: int | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Outcome]:
        """Each image's Detections, in order and as soon as it is there, or the HindsightError it met instead:
        one that fails does not end the others. Images are taken from `images` as they are needed, by a thread
        of its own; it may be a generator, whose error is raised after the answers to what it gave before.

        concurrency: requests under way. images_per_request: None sends small images together and photos
        alone. A busy server (429, 503) is waited for as long as `timeout` allows, which counts for each
        request anew; `retries` does not bound it, but for 0, which sends nothing again. Raises OptionError,
        ModelNotFound and a ServiceError of status 401 or 403, which every image would meet.
        """
        most = groups_ahead(concurrency)
        return self._detect_many(images, concurrency, most, Grouping(images_per_request), options)

    def rescore(self, image: ImageLike, boxes: Boxes, *, model: str | None = None) -> Rescored:
        """As Detector.rescore: [n, 4] xyxy in pixels of the upright image."""
        session = self._session()
        return session.portal.run(session.core.rescore(encoded(image), boxes, model))

    def models(self) -> list[dict[str, Any]]:
        """What the server says of each of its models: name, version, classes, defaults, metrics, ..."""
        session = self._session()
        return session.portal.run(session.core.models())

    def default_model(self) -> str:
        """The name of the model that answers where none is given."""
        session = self._session()
        return session.portal.run(session.core.default_model())

    def close(self) -> None:
        """End the connections, and what is under way in other threads."""
        self._closed = True
        self._finalizer()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _detect_many(
        self, images: Iterable[ImageLike], concurrency: int, most: int, grouping: Grouping, options: Options
    ) -> Iterator[Outcome]:
        session = self._session()
        gate = asyncio.Semaphore(concurrency)

        def send(group: list[Item]) -> Future[list[Outcome]]:
            work = session.core.detect_group([item.content for item in group], options, gate)
            return session.portal.submit(work)

        with sent_ahead(images, grouping, send, most) as groups:
            for group, answer in groups:
                yield from attached(group, session.portal.wait(answer))

    def _session(self) -> _Session:
        """This process's. A fork has neither its parent's thread nor the right to its connections."""
        if self._closed:
            raise RuntimeError("this client is closed")
        pid = os.getpid()
        session = self._sessions.get(pid)
        if session is None:
            made = _Session(self._settings)
            session = self._sessions.setdefault(pid, made)
            if session is not made:  # another thread was faster
                made.portal.close()
        return session


class _Session:
    def __init__(self, settings: Settings) -> None:
        self.core = Core(settings)
        self.portal = Portal(self.core.close)


def _close_all(sessions: dict[int, _Session]) -> None:
    session = sessions.pop(os.getpid(), None)
    if session is not None:
        session.portal.close()
