"""One run of `hindsight detect`, from what was asked to the exit status."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hindsight.commands.console import BAD_INPUT, STOPPED, complain, forget_stdout
from hindsight.commands.detect_engine import Choice, Team, local_team, server_team
from hindsight.commands.detect_report import Report, show_json, show_table, summary
from hindsight.errors import HindsightError, OptionError
from hindsight.jobs.destination import Destination
from hindsight.jobs.entries import Entry
from hindsight.jobs.journal import JobError, Journal
from hindsight.jobs.marks import clear_way
from hindsight.jobs.outputs import Results, write_outputs
from hindsight.jobs.run import Job, Tally, Wanted
from hindsight.jobs.sources import Source, Sources, find_sources, is_one_file, read_list
from hindsight.jobs.targets import annotation_targets, label_targets
from hindsight.video import Sampling, require_video

__all__ = ["Request", "run_job"]

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Request:
    """The command line, checked as far as it can be without looking at files."""

    inputs: list[str]
    choice: Choice
    server: str | None
    recursive: bool
    as_json: bool
    annotate: Path | None
    out: Path | None
    format: str | None
    restart: bool
    sampling: Sampling


def run_job(request: Request) -> int:
    """-> exit status: 0, 2 where any input was bad, 128 and the signal's number where one ended it. Raises
    HindsightError where nothing can be done.
    """
    try:
        with _stoppable():
            return _begin(request)
    except _Stopped as stopped:
        complain("stopped before anything was looked at")
        return STOPPED + stopped.signal


def _begin(request: Request) -> int:
    """All that comes before the first picture, then the job."""
    destination = Destination.of(request.out, request.format)
    if request.restart and destination is None:
        raise OptionError("--restart starts the job of --out over: give --out, too")
    sources = _sources(request, destination)
    for line in [*sources.notes, *sources.problems]:
        complain(line)
    if not sources.files:
        return BAD_INPUT
    if any(source.is_video for source in sources.files):
        require_video()
        if destination is not None and destination.format == "labelstudio":
            raise OptionError(
                "--format labelstudio: its tasks are images, and there are videos among the files"
            )
    single = len(request.inputs) == 1 and is_one_file(request.inputs[0])
    targets = (
        {} if request.annotate is None else annotation_targets(request.annotate, sources.files, single=single)
    )
    kept = destination is not None
    team = (
        local_team(request.choice, pictures=_pictures(sources.files), kept=kept)
        if request.server is None
        else server_team(request.choice, request.server)
    )
    if destination is None:
        clear_way(targets, {})
        status = _run(request, sources.files, team, targets, None, None)
    else:
        journal = destination.open(_description(request, team), targets, restart=request.restart)
        try:
            status = _run(request, sources.files, team, targets, journal, destination)
        finally:
            journal.close()
    return status or (BAD_INPUT if sources.problems else 0)


def _sources(request: Request, destination: Destination | None) -> Sources:
    names: list[str] = []
    problems: list[str] = []
    for text in request.inputs:
        listed = _listed() if text == "-" else [text]
        if not listed:
            problems.append("-: the list on stdin is empty; expected the name of a file on each line")
        names += listed
    own = [] if request.annotate is None else [request.annotate]
    if destination is not None and destination.file is None:
        own.append(destination.folder)
    found = find_sources(names, recursive=request.recursive, own=own)
    found.problems[:0] = problems
    return found


def _listed() -> list[str]:
    # Python has no stdin at all where it was closed.
    return [] if sys.stdin is None else read_list(sys.stdin.buffer.read())


def _pictures(sources: list[Source]) -> int:
    """A guess: a video is many."""
    return sum(1000 if source.is_video else 1 for source in sources)


def _description(request: Request, team: Team) -> dict[str, Any]:
    """What must be the same when the job is resumed."""
    sampling = asdict(request.sampling)
    return {
        **team.job,
        **{f"video {name}": value for name, value in sampling.items()},
        "annotate": None if request.annotate is None else str(request.annotate),
    }


def _run(
    request: Request,
    sources: list[Source],
    team: Team,
    targets: dict[Path, Path],
    journal: Journal | None,
    destination: Destination | None,
) -> int:
    if journal is not None and journal.damaged:
        lines = "1 damaged line" if journal.damaged == 1 else f"{journal.damaged:,} damaged lines"
        complain(f"{journal.path}: {lines}; what was lost is done again")
    begun = time.monotonic()
    report = Report(len(sources), earlier=_earlier(sources, journal), long=journal is not None)
    wanted = Wanted(
        request.sampling, targets, team.classes, _shown(request, team, report, kept=journal is not None)
    )
    job: Job | None = None
    try:
        with report, team.open(report.say) as engine:
            job = Job(sources, engine, wanted, report, journal)
            tally = job.run()
        written: list[Path] = []
        if journal is not None and destination is not None:
            _tell_leftovers(journal, job, tally)
            labels = {str(path): name for path, name in label_targets(sources).items()}
            results = Results(journal, job.keys, team.model, labels)
            written = write_outputs(destination.format, destination.folder, destination.names, results)
    except _Stopped as stopped:
        _tell_how_to_go_on(journal, None if job is None else job.tally, len(sources), "stopped")
        return STOPPED + stopped.signal
    except BrokenPipeError:  # whoever read our lines has gone, as `head` does; nothing more can be said there
        forget_stdout()
        _tell_how_to_go_on(journal, None if job is None else job.tally, len(sources), "stopped")
        return STOPPED + signal.SIGPIPE
    except HindsightError as error:
        if journal is None:
            raise
        complain(str(error))
        _tell_how_to_go_on(journal, None if job is None else job.tally, len(sources), "not finished")
        return BAD_INPUT
    if journal is not None or (sys.stderr.isatty() and tally.images + tally.frames > 1):
        complain(summary(tally, time.monotonic() - begun, [str(path) for path in written]))
    return BAD_INPUT if tally.failed else 0


def _earlier(sources: list[Source], journal: Journal | None) -> int:
    """How many pictures a run before has probably done."""
    if journal is None:
        return 0
    known = (journal.entries.get((source.file, None)) for source in sources if not source.is_video)
    return sum(entry is not None and entry.problem is None for entry in known)


def _shown(request: Request, team: Team, report: Report, *, kept: bool) -> Any:
    """What stdout gets of each picture."""

    def json_lines(entry: Entry) -> None:
        if entry.problem is None:
            with report.paused(), _to_stdout():
                show_json(entry, team.model)

    def tables(entry: Entry) -> None:
        if entry.problem is None:
            with report.paused(), _to_stdout():
                show_table(entry)

    return json_lines if request.as_json else None if kept else tables


@contextmanager
def _to_stdout() -> Iterator[None]:
    """Raises JobError where no more can be written there, to a full disk say; BrokenPipeError as it comes."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        forget_stdout()
        raise JobError(f"cannot write to standard output ({error.strerror})") from error


def _tell_leftovers(journal: Journal, job: Job, tally: Tally) -> None:
    if tally.changed:
        names = ", ".join(sorted(tally.changed)[:5]) + (", ..." if len(tally.changed) > 5 else "")
        complain(f"changed since they were done, and done again: {len(tally.changed):,} ({names})")
    left = len(journal.entries.keys() - set(job.keys))
    if left:
        complain(
            f"left out of the results: {left:,} that a run before has done and that are not named any more"
        )


def _tell_how_to_go_on(journal: Journal | None, tally: Tally | None, files: int, how: str) -> None:
    done = 0 if tally is None else tally.images + tally.frames - sum(tally.failed.values())
    if journal is None:
        complain(f"{how} after {done:,} of {files:,}; with --out a job can be gone on with")
    else:
        kept = sum(entry.problem is None and not entry.is_video for entry in journal.entries.values())
        complain(f"{how}: {kept:,} are done and kept in {journal.path}; run the same command again to go on")


class _Stopped(BaseException):
    """A signal that ends the job. No Exception: whoever handles those must not go on."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C, a service manager's SIGTERM and a closed terminal end the job in order."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)  # the second time at once
        raise _Stopped(number)

    before = {number: signal.getsignal(number) for number in _ENDING}
    # What nohup, or a shell for its background, has switched off stays so.
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
