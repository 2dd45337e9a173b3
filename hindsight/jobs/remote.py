"""A running server does the work: several requests at a time, each picture sent as its file is."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hindsight.api import read_image
from hindsight.client import Client
from hindsight.draw import annotate
from hindsight.errors import (
    ImageError,
    ImageTooLarge,
    ModelNotFound,
    OptionError,
    ServiceError,
    UnsupportedImage,
)
from hindsight.jobs.entries import Problem
from hindsight.jobs.work import Reply, Task, Window, problem_of, save_picture
from hindsight.manifest import ClassInfo

__all__ = ["Remote"]

_REFUSALS = frozenset({401, 403, 404})  # the same for every picture
# Statuses that are about what was sent: of proxies too, which know no code of ours.
_OF_THE_IMAGE = {400: ImageError, 413: ImageTooLarge, 415: UnsupportedImage, 422: ImageError}
_AHEAD = 4  # as in crew.py


class Remote:
    """`requests` at a time. client: of the server, for the one version of a model that the job is about."""

    def __init__(
        self, client: Client, options: dict[str, Any], classes: tuple[ClassInfo, ...], requests: int
    ) -> None:
        self._client = client
        self._options = options
        self._classes = classes
        self._requests = requests
        self._to_do: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Reply | Exception] = queue.SimpleQueue()

    def replies(self, tasks: Iterator[Task]) -> Iterator[Reply]:
        """See hindsight.jobs.work.Engine. Raises what would be the answer to every picture: a refused key, an
        unknown model or option.
        """
        window = Window(tasks, _AHEAD * self._requests)
        # Daemons: a request under way does not hold up the end of a job that was stopped.
        for _ in range(self._requests):
            threading.Thread(target=self._ask_on, daemon=True, name="hindsight detect").start()
        running = 0
        while True:
            while running < self._requests and (task := window.next()) is not None:
                self._to_do.put(task)
                running += 1
            if not running:
                return
            reply = self._done.get()
            if isinstance(reply, Exception):
                raise reply
            running -= 1
            window.done(reply.task)
            yield reply

    def close(self) -> None:
        """No further requests; those under way are left to end by themselves."""
        for _ in range(self._requests):
            self._to_do.put(None)

    def _ask_on(self) -> None:
        while (task := self._to_do.get()) is not None:
            try:
                self._done.put(self._ask(task))
            except Exception as error:
                self._done.put(error)

    def _ask(self, task: Task) -> Reply:
        image = Path(task.file) if task.pixels is None else task.pixels
        try:
            found = self._client.detect(image, **self._options)
        except (OptionError, ModelNotFound):
            raise
        except Exception as error:
            if isinstance(error, ServiceError):
                if error.status in _REFUSALS:
                    raise
                if error.status in _OF_THE_IMAGE:
                    return Reply(task, problem=Problem(_OF_THE_IMAGE[error.status].code, str(error)))
            return Reply(task, problem=problem_of(error, task.file))
        if task.target is not None:
            try:
                drawn = annotate(read_image(image), found, self._classes)
                save_picture(drawn, Path(task.target), task.file)
            except Exception as error:
                return Reply(task, problem=problem_of(error, task.file))
        height, width = found.image_hw
        return Reply(task, (width, height), found.to_records())
