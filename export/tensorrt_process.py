"""The builder's process as its parent sees it: started, listened to, ended in time; and where it may write.

It shall never outlive its parent, and what a parent that was killed has left shall not stay for good.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from export.errors import ExportError

DRAFTS = ".draft-"  # begins the name of a folder in which an engine is being built
_LAST_LINES = 3  # of TensorRT's log, in an error
_SAY_EVERY = 10.0  # seconds, while nothing new is heard


@contextmanager
def draft_folder(root: Path) -> Iterator[Path]:
    """A folder in `root` to build in, removed in the end; those that dead builds have left are removed first.

    A build holds a lock on its folder, which the system takes from a process that dies. A lock on `root`
    keeps others from looking between a folder's making and its locking. Raises OSError.
    """
    root.mkdir(exist_ok=True)
    with ExitStack() as stack:
        with _held(root) as is_held:
            for left in root.glob(f"{DRAFTS}*") if is_held else ():
                _remove_if_dead(left)
            name = tempfile.mkdtemp(prefix=DRAFTS, dir=root)
            stack.enter_context(_held(Path(name)))
        stack.callback(shutil.rmtree, name, ignore_errors=True)
        yield Path(name)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """With a lock on the folder; False where its file system locks none, as NFS: then nothing is swept."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        is_held = True
    except OSError:
        is_held = False
    try:
        yield is_held
    finally:
        os.close(handle)


def _remove_if_dead(draft: Path) -> None:
    with suppress(OSError):  # no folder, gone meanwhile, or another user's
        handle = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: at work
            shutil.rmtree(draft)
        finally:
            os.close(handle)


def run_builder(
    description: Path, environment: Mapping[str, str], minutes: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Run export.tensorrt_worker on a job file; -> its last message.

    progress: told each step, and how long it has taken where it takes long. Raises ExportError where the
    builder refuses, dies, or is not done after `minutes`.
    """
    # -P: the folder this is called in may hold an `export` of its own
    command = [sys.executable, "-P", "-m", "export.tensorrt_worker", str(description), str(os.getpid())]
    log = description.with_name("log")
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=dict(environment),
            encoding="utf-8",
            errors="replace",  # libraries may print anything
        ) as process,
    ):
        try:
            last = _listen(process, minutes, progress)
        except BaseException:
            process.kill()
            raise
    if "refused" in last:
        raise ExportError(f"TensorRT built no engine: {last['refused']}")
    if "done" not in last:  # how the process ends after that is no matter: all files are written
        raise ExportError(f"TensorRT built no engine ({_ending(process.returncode)}): {_last_lines(log)}")
    return last


def _listen(
    process: subprocess.Popen[str], minutes: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """The last message before the builder closes its end."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    assert process.stdout is not None
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    begin = said = time.monotonic()
    last: dict[str, Any] = {}
    at = "starting"
    while True:
        with suppress(queue.Empty):
            line = lines.get(timeout=min(1.0, minutes * 60))
            if line is None:
                return last
            message = _message(line)
            last = message or last
            if "progress" in message:
                at, said = message["progress"], time.monotonic()
                progress(at)
        now = time.monotonic()
        if now - begin > minutes * 60:
            raise ExportError(
                f"TensorRT built no engine: not done after {minutes:g} minutes, last at {at!r}; "
                "--build-minutes N gives it more"
            )
        if now - said >= _SAY_EVERY:
            said = now
            progress(f"{at} ({(now - begin) / 60:.0f} of at most {minutes:g} min)")


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    with suppress(ValueError, OSError):  # closed by the other thread, which gave up
        for line in stream:
            lines.put(line)
    lines.put(None)


def _message(line: str) -> dict[str, Any]:
    """A line of the worker; libraries may print their own between them."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _ending(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"its process died of {signal.Signals(-status).name}"
    except ValueError:
        return f"its process died of signal {-status}"


def _last_lines(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return " | ".join([line for line in lines if line][-_LAST_LINES:]) or "it said nothing"
