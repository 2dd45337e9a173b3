"""hindsight.AsyncClient."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Unpack

from hindsight.client.core import Core, Settings
from hindsight.client.grouping import Grouping, Item, Outcome, attached, groups_ahead, item_of
from hindsight.client.http import Address
from hindsight.client.wire import Boxes, Options, encoded
from hindsight.detections import Detections, Rescored
from hindsight.picture import ImageLike

__all__ = ["AsyncClient"]

_Sent = tuple[list[Item], "asyncio.Task[list[Outcome]]"]


class AsyncClient:
    """hindsight.Client for asyncio: the same arguments, methods and errors. It belongs to the event loop that
    it is first used in. A task that is cancelled closes its connection at once; the server drops its
    work.
    Files are read and arrays encoded in threads, so the loop does not wait for them.
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
        self.url = url
        self.model = model
        self._core = Core(Settings(Address.of(url, tls), model, timeout, retries, api_key))
        self._closed = False

    async def detect(self, image: ImageLike, **options: Unpack[Options]) -> Detections:
        """Client.detect."""
        core = self._open_core()
        content = await asyncio.to_thread(encoded, image)
        return (await core.detect(content, options)).with_image(image, keep=False)

    def detect_many(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike],
        *,
        concurrency: int = 4,
        images_per_request: int | None = None,
        **options: Unpack[Options],
    ) -> AsyncIterator[Outcome]:
        """Client.detect_many, for `async for`; `images` may be asynchronous too."""
        most = groups_ahead(concurrency)
        return self._detect_many(images, concurrency, most, Grouping(images_per_request), options)

    async def rescore(self, image: ImageLike, boxes: Boxes, *, model: str | None = None) -> Rescored:
        """Client.rescore."""
        core = self._open_core()
        return await core.rescore(await asyncio.to_thread(encoded, image), boxes, model)

    async def models(self) -> list[dict[str, Any]]:
        """Client.models."""
        return await self._open_core().models()

    async def default_model(self) -> str:
        """Client.default_model."""
        return await self._open_core().default_model()

    async def close(self) -> None:
        """End the kept connections; calls that are under way end first."""
        self._closed = True
        self._core.close()
        await asyncio.sleep(0)  # their sockets are closed in the loop's next turn
        await asyncio.sleep(0)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _detect_many(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike],
        concurrency: int,
        most: int,
        grouping: Grouping,
        options: Options,
    ) -> AsyncIterator[Outcome]:
        core = self._open_core()
        gate, room = asyncio.Semaphore(concurrency), asyncio.Semaphore(most)
        ready: asyncio.Queue[_Sent | BaseException | None] = asyncio.Queue()
        under_way: set[asyncio.Task[list[Outcome]]] = set()

        async def feed() -> None:
            """Beside the answers, which need not wait until a slow source has its next image."""
            ended: BaseException | None = None
            try:
                async for group in _groups(images, grouping):
                    await room.acquire()
                    contents = [item.content for item in group]
                    task = asyncio.create_task(core.detect_group(contents, options, gate))
                    under_way.add(task)
                    ready.put_nowait((group, task))
            except BaseException as error:  # it is raised where the answers are taken
                ended = error
            ready.put_nowait(ended)

        feeder = asyncio.create_task(feed())
        try:
            while (sent := await ready.get()) is not None:
                if isinstance(sent, BaseException):
                    raise sent
                group, answer = sent
                for outcome in attached(group, await answer):
                    yield outcome
                under_way.discard(answer)
                room.release()
        finally:
            tasks: list[asyncio.Task[Any]] = [feeder, *under_way]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _open_core(self) -> Core:
        if self._closed:
            raise RuntimeError("this client is closed")
        return self._core


async def _groups(
    images: Iterable[ImageLike] | AsyncIterable[ImageLike], grouping: Grouping
) -> AsyncIterator[list[Item]]:
    """As taking.py's."""
    ended: Exception | None = None
    try:
        async for image in _each(images):
            grouping.add(await asyncio.to_thread(item_of, image))
            for group in grouping.complete():
                yield group
    except Exception as error:
        ended = error
    for group in grouping.rest():
        yield group
    if ended is not None:
        raise ended


async def _each(images: Iterable[ImageLike] | AsyncIterable[ImageLike]) -> AsyncIterator[ImageLike]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image
