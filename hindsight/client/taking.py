"""The images of `Client.detect_many`, taken by a thread of their own: an answer need not wait until a slow
source, such as a camera, has its next image.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue

from hindsight.client.grouping import Grouping, Item, Outcome, item_of
from hindsight.picture import ImageLike

__all__ = ["groups_of", "sent_ahead"]

Sent = tuple[list[Item], "Future[list[Outcome]]"]
_STOP_SECONDS = 1.0  # for the source to come to an end of what it is at


@contextmanager
def sent_ahead(
    images: Iterable[ImageLike],
    grouping: Grouping,
    send: Callable[[list[Item]], Future[list[Outcome]]],
    most: int,
) -> Iterator[Iterator[Sent]]:
    """What was sent, in order, each group as soon as it is; at most `most` of them are under way or not yet
    taken from here. An error that `images` ends with comes behind them. At the end what is under way is
    cancelled.
    """
    ready: SimpleQueue[Sent | BaseException | None] = SimpleQueue()
    room = threading.Semaphore(most)
    stopped = threading.Event()
    under_way: set[Future[list[Outcome]]] = set()

    def feed() -> None:
        ended: BaseException | None = None
        try:
            for group in groups_of(images, grouping):
                room.acquire()
                if stopped.is_set():
                    return
                future = send(group)
                under_way.add(future)
                ready.put((group, future))
        except BaseException as error:  # it is raised where the answers are taken
            ended = error
        ready.put(ended)

    def take() -> Iterator[Sent]:
        while (sent := ready.get()) is not None:
            if isinstance(sent, BaseException):
                raise sent
            yield sent
            under_way.discard(sent[1])
            room.release()

    # In a copy of the caller's context, so that what logs or traces there does so here.
    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(feed,), daemon=True, name="hindsight images")
    thread.start()
    try:
        yield take()
    finally:
        stopped.set()
        room.release()
        thread.join(_STOP_SECONDS)
        for future in list(under_way):
            future.cancel()


def groups_of(images: Iterable[ImageLike], grouping: Grouping) -> Iterator[list[Item]]:
    """An error that `images` ends with is raised behind what came before it."""
    ended: Exception | None = None
    try:
        for image in images:
            grouping.add(item_of(image))
            yield from grouping.complete()
    except Exception as error:
        ended = error
    yield from grouping.rest()
    if ended is not None:
        raise ended
