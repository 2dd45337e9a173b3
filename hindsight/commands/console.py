"""How every subcommand speaks: results on stdout, everything else on stderr, one line an error."""

from __future__ import annotations

import errno
import os
import sys
from typing import NoReturn

from rich.console import Console

__all__ = ["BAD_INPUT", "STOPPED", "complain", "fail", "forget_stdout", "output", "progress_console"]

BAD_INPUT = 2  # the exit status, if any input was bad
STOPPED = 128  # plus the signal's number: the exit status of what a signal ends
_LEAST_WIDTH = 120  # columns of a table that goes into a file or a pipe


def complain(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"hindsight: {' '.join(message.split())}\n")


def fail(message: str) -> NoReturn:
    """One line on stderr, and the end."""
    complain(message)
    raise SystemExit(BAD_INPUT)


def forget_stdout() -> None:
    """It takes no more. What still waits for it is dropped, or Python would try again at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the program here; it is the subcommand that knows what is to be said."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def output() -> Console:
    """Stdout, for tables. Whoever prints gets a BrokenPipeError where nobody reads any more."""
    console = _Output()
    if not console.is_terminal:
        console.width = max(console.width, _LEAST_WIDTH)
    return console


def progress_console() -> Console:
    """Stderr, for progress bars; they show only on a terminal."""
    return Console(stderr=True)
