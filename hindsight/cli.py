"""`hindsight`: one command made of the parts' own.

A subcommand is a function behind the entry-point group `hindsight.commands`. Only the one that is called is
imported, so `hindsight detect` never loads torch and `hindsight --help` loads nothing; the one-line helps
therefore stand here.
"""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer

from hindsight.commands.console import STOPPED, complain, fail, forget_stdout
from hindsight.errors import HindsightError
from hindsight.extras import install_extra
from hindsight.places import ModelsFolderWarning
from hindsight.version import __version__

__all__ = ["compose", "main"]

_GROUP = "hindsight.commands"
_HELP = {
    "detect": "Find objects in images and videos, each box with a second opinion on itself.",
    "audit": "Find the wrong labels of a data set: a second opinion on every annotated box.",
    "models": "List the models that can be used by name.",
    "pull": "Fetch a model from the Hugging Face Hub, a zip file or a folder.",
    "serve": "Serve models over HTTP, with a page to try them.",
    "bench": "Load a server, and see what it takes.",
    "keys": "Make, list and revoke the API keys of a server.",
    "train": "Train a detector on a COCO, Pascal VOC or YOLO data set.",
    "evaluate": "Measure a checkpoint or a model on a data set.",
    "reproduce": "Train and measure a published table; ours beside the paper's figures.",
    "export": "Turn a checkpoint into a model that runs anywhere.",
    "parity": "Compare runtimes of a model on your photos.",
    "import": "Make a checkpoint of a torchvision or mmdetection detector.",
}
_EXTRA = {
    "detect": "cpu",
    "pull": "hub",
    "audit": "cpu",
    "serve": "cpu",
    "keys": "cpu",
    "train": "train",
    "evaluate": "train",
    "reproduce": "train",
    "export": "export",
    "parity": "cpu",
    "import": "train",
}
_OURS = frozenset({"hindsight", "model", "training", "export", "service"})
# What typer raises for bad usage. It brings a click of its own since 0.26, so the class has two homes.
_UsageError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


def main() -> None:
    """The program `hindsight`. Bad input ends it with one line on stderr and exit status 2, whatever the
    subcommand: unknown options and commands, missing and bad values too.
    """
    words = sys.argv[1:]
    called = next((argument for argument in words if not argument.startswith("-")), None)
    names = [entry.name for entry in _commands()]
    if words and words[0] == called and called not in names:
        fail(_no_such_command(called, names))
    try:
        program = typer.main.get_command(compose(called))
        _without_types_of_flags(program)
        with _warnings_in_one_line():
            status = program.main(words or ["--help"], prog_name="hindsight", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except _UsageError as error:
        usage = _bad_usage(error)
        if not usage:  # a command of commands alone: its help has been shown
            raise SystemExit(0) from None
        fail(usage)
    except HindsightError as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        fail(_missing(called, error))
    except typer.Abort:
        complain("aborted")
        raise SystemExit(1) from None
    except KeyboardInterrupt:  # while modules are imported; later it is the subcommand's, or typer's
        complain("stopped")
        raise SystemExit(STOPPED + signal.SIGINT) from None
    except OSError as error:
        if not _stdout_is_full():
            raise
        fail(f"cannot write to standard output ({error.strerror})")
    raise SystemExit(status if isinstance(status, int) else 0)  # of typer.Exit; commands return nothing


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Those that are meant for users."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, ModelsFolderWarning):
            complain(str(message))
        else:
            before(message, category, *where, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def _stdout_is_full() -> bool:
    """Whether what failed was writing there: then it fails again. If it does not, the line goes before a
    traceback.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.write("\n")
            sys.stdout.flush()
    except OSError:
        forget_stdout()
        return True
    return False


def compose(called: str | None) -> typer.Typer:
    """The whole application, with `called` the only subcommand whose code is loaded."""
    app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_root)
    for entry in _commands():
        function = entry.load() if entry.name == called else _not_loaded
        if isinstance(function, typer.Typer):  # a command with commands of its own
            app.add_typer(function, name=entry.name)
            continue
        app.command(entry.name, help=_HELP.get(entry.name) if entry.name != called else None)(function)
    return app


def _without_types_of_flags(command: Any) -> None:
    """Of our own flags: some versions of typer show `--json <bool>` in a help, though it takes no value."""
    help_option = command.get_help_option(command.context_class(command))  # made once, and kept
    for parameter in (*command.params, help_option):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    for inner in getattr(command, "commands", {}).values():
        _without_types_of_flags(inner)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hindsight {__version__}")
        raise typer.Exit


_Version = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
]


def _root(version: _Version = False) -> None:
    """Object detection that gives each box a second opinion: purity, integrity, IoU."""


def _not_loaded() -> None:
    """Provided by another package."""


def _commands() -> Sequence[EntryPoint]:
    found = {entry.name: entry for entry in entry_points(group=_GROUP)}
    return [found.pop(name) for name in _HELP if name in found] + [found[name] for name in sorted(found)]


def _no_such_command(called: str, names: Sequence[str]) -> str:
    near = get_close_matches(called, names, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
    return f"no command {called!r}; {advice}"


def _bad_usage(error: Any) -> str:
    """What typer says, the command it is about, and where to read on; empty where typer says nothing."""
    said = " ".join(error.format_message().split()).rstrip(".")
    if not said:
        return ""
    context = getattr(error, "ctx", None)
    if context is None:
        return said
    own = context.info_name if context.parent is not None else None
    return f"{f'{own}: ' if own else ''}{said}; {context.command_path} --help says what it takes"


def _missing(called: str | None, error: ModuleNotFoundError) -> str:
    """What to install; an import of our own that fails is our bug and stays one."""
    if (error.name or "").partition(".")[0] in _OURS or called not in _EXTRA:
        raise error
    return f"{called} needs {error.name}: {install_extra(_EXTRA[called])}"
