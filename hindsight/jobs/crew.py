"""Worker processes, each with a model of its own: fed one picture at a time, watched, and replaced."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import chain
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait

from hindsight.errors import RuntimeFailure, errors_by_code
from hindsight.jobs.entries import Problem
from hindsight.jobs.work import WORKER_DIED, Reply, Task, Window
from hindsight.jobs.worker import WorkerSpec, receive_reply, send_task, worker_main

__all__ = ["Crew"]

_PATIENCE = 600.0  # seconds for one picture: the largest takes a few, on a busy machine minutes
_START_PATIENCE = 600.0  # until its model is loaded
_TRIES = 2  # a worker may die of something else than its picture
_FAILED_STARTS = 3  # in a row
_AHEAD = 4  # tasks a worker that the fastest may be ahead of the slowest


class Crew:
    """`workers` processes. report: told in one line what goes wrong and is mended. patience: seconds for one
    picture. Take its replies in one thread, which lives as long: workers die with it.
    """

    def __init__(
        self, spec: WorkerSpec, workers: int, report: Callable[[str], None], *, patience: float = _PATIENCE
    ) -> None:
        self._spec = spec
        self._report = report
        self._patience = patience
        self._ahead = _AHEAD * workers
        self._failed_starts = 0
        self._deaths: dict[int, int] = {}  # task number -> workers that died with it
        self._workers = workers
        self._members: dict[Connection, _Member] = {}

    @property
    def pids(self) -> list[int]:
        """Of the processes there are now."""
        return [member.pid for member in self._members.values()]

    def replies(self, tasks: Iterator[Task]) -> Iterator[Reply]:
        """See hindsight.jobs.work.Engine. Raises what a worker could not load its model for; RuntimeFailure
        where workers die before they are up.
        """
        first = next(tasks, None)
        if first is None:
            return  # no process is started for nothing
        while len(self._members) < self._workers:
            self._hire()
        window = Window(chain([first], tasks), self._ahead)
        while True:
            for member in [each for each in self._members.values() if each.is_ready and each.task is None]:
                task = window.next()
                if task is None:
                    break
                member.give(task)
            members = self._members.values()
            if any(member.is_ready for member in members) and all(member.task is None for member in members):
                return  # there was somebody to take a task, and none came
            for member in self._heard():
                reply = self._hear(member, window)
                if reply is not None:
                    window.done(reply.task)
                    self._deaths.pop(reply.task.number, None)
                    yield reply

    def close(self) -> None:
        """Kill them."""
        for member in self._members.values():
            member.process.kill()
        for member in self._members.values():
            member.end()
        self._members.clear()

    def _heard(self) -> list[_Member]:
        """Those who have something to say, or have said nothing for too long."""
        members = list(self._members.values())
        now = time.monotonic()
        left = min((member.due(self._patience) for member in members), default=math.inf) - now
        ready = wait(list(self._members), timeout=max(left, 0.0) if math.isfinite(left) else None)
        heard = [self._members[each] for each in ready if isinstance(each, Connection)]
        if heard:
            return heard
        late = [member for member in members if member.due(self._patience) <= time.monotonic()]
        for member in late:
            member.process.kill()
            member.is_late = True
        return late

    def _hear(self, member: _Member, window: Window) -> Reply | None:
        """What it says: a reply, or nothing to pass on."""
        try:
            if member.is_late:
                raise EOFError
            if not member.is_ready:
                self._welcome(member)
                return None
            if member.task is None:
                member.connection.recv_bytes()  # it says nothing unasked, so this is its end
                return None
            return member.take_reply()
        except (EOFError, OSError):
            return self._bury(member, window)

    def _welcome(self, member: _Member) -> None:
        message = json.loads(member.connection.recv_bytes())
        if not message["ready"]:
            kind = errors_by_code().get(message["code"], RuntimeFailure)
            raise kind(message["detail"])
        member.is_ready = True
        self._failed_starts = 0

    def _bury(self, member: _Member, window: Window) -> Reply | None:
        """It is dead: somebody else takes its place, and its picture once more."""
        del self._members[member.connection]
        cause = member.end()
        task = member.task
        if not member.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= _FAILED_STARTS:
                raise RuntimeFailure(
                    f"worker processes end before they are up ({cause}); is there memory for them?"
                )
        self._hire()
        if task is None:
            self._report(f"a worker process ended ({cause}) and was replaced")
            return None
        deaths = self._deaths[task.number] = self._deaths.get(task.number, 0) + 1
        if deaths < _TRIES:
            self._report(f"{task.file}: the worker process ended on it ({cause}); it is tried once more")
            window.give_back(task)
            return None
        detail = f"{task.file}: {deaths} worker processes ended on it ({cause})"
        return Reply(task, problem=Problem(WORKER_DIED, detail))

    def _hire(self) -> None:
        # A Ctrl-C meanwhile must neither find a process that is not in the list nor make it, which inherits
        # this mask, print a traceback of its own. The tracker is Python's, and its start would lift the mask.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        try:
            member = _Member(self._spec)
            self._members[member.connection] = member
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Member:
    """One process. task: what it is doing. since: when it was started or given that."""

    def __init__(self, spec: WorkerSpec) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe(duplex=True)
        self.process = context.Process(
            target=worker_main, args=(theirs, json.dumps(asdict(spec))), daemon=True, name="hindsight detect"
        )
        try:
            self.process.start()
        except OSError as error:
            self.connection.close()
            raise RuntimeFailure(f"a worker process cannot be started ({error.strerror})") from error
        finally:
            theirs.close()  # or its death would not close the pipe
        self.is_ready = False
        self.is_late = False
        self.task: Task | None = None
        self.since = time.monotonic()

    @property
    def pid(self) -> int:
        """Its number for the system."""
        return self.process.pid or 0

    def due(self, patience: float) -> float:
        """When it must have said something; infinity while nothing is expected of it."""
        if self.is_ready:
            return math.inf if self.task is None else self.since + patience
        return self.since + _START_PATIENCE

    def give(self, task: Task) -> None:
        """If it has died meanwhile, that shows when it is listened to."""
        self.task, self.since = task, time.monotonic()
        with contextlib.suppress(OSError):
            send_task(self.connection, task)

    def take_reply(self) -> Reply:
        """Raises EOFError, OSError where it died instead."""
        assert self.task is not None
        reply = receive_reply(self.connection, self.task)
        self.task = None
        return reply

    def end(self) -> str:
        """Reap it; -> what it died of."""
        self.connection.close()
        self.process.join(10)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join(10)
        code = self.process.exitcode
        if self.is_late:
            return "no answer for too long"
        return (
            "it cannot be reaped"
            if code is None
            else f"signal {-code}"
            if code < 0
            else f"exit status {code}"
        )
