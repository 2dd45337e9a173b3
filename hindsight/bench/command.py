"""`hindsight bench`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from hindsight.bench.asked import (
    What,
    check_combination,
    check_writable,
    header_value,
    parse_sizes,
    place_of,
    positive,
    write_text,
)
from hindsight.bench.charts import draw_histogram, save_picture
from hindsight.bench.checks import Check, Limits, check, parse_quantity
from hindsight.bench.limits import raise_file_limit
from hindsight.bench.load import Arrivals, Closed, Load, Open
from hindsight.bench.photos import Photo, folder_photos, made_photos, sample_photos, sizes_of
from hindsight.bench.presets import PRESETS, Wishes, run_preset
from hindsight.bench.report import document, final_tables, warnings_of, watch
from hindsight.bench.requests import Body, Request, Source, turn
from hindsight.bench.session import Interrupted, Session
from hindsight.bench.target import Server, describe, find_address, problem_of, send_once
from hindsight.commands.console import complain, output, progress_console
from hindsight.errors import OptionError, ServiceError

__all__ = ["bench"]

_MISSED, _INTERRUPTED = 1, 130
_MADE_SIZES = "640x480,1280x960"
_PRESET_HELP = "A scenario: " + "; ".join(f"{name}: {preset.shows}" for name, preset in PRESETS.items()) + "."


def bench(
    url: Annotated[str, typer.Argument(help="The server, such as http://localhost:8000.")],
    preset: Annotated[str | None, typer.Option(help=_PRESET_HELP)] = None,
    clients: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Closed loop: clients that ask again when answered. (default: 8)"),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Open loop instead: requests a second, whether or not answers come."),
    ] = None,
    arrivals: Annotated[
        str, typer.Option(help="Of the open loop: poisson (at random moments) or uniform (evenly spaced).")
    ] = "poisson",
    seconds: Annotated[
        float | None, typer.Option("--seconds", "-s", help="How long to measure. (default: 10)")
    ] = None,
    requests: Annotated[
        int | None, typer.Option("--requests", "-n", min=1, help="How many to measure, instead of how long.")
    ] = None,
    warm_up: Annotated[
        float | None, typer.Option(help="Seconds of load before measuring. (default: 2)")
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(help="Seconds after which a client gives up and closes the connection. (default: 60)"),
    ] = None,
    polite: Annotated[
        bool,
        typer.Option(
            "--polite/--rude",
            help="Clients that are refused wait as long as Retry-After says, or ask again at once.",
        ),
    ] = False,
    photos: Annotated[
        Path | None,
        typer.Option(help="A folder of photos to send. (default: the model's samples, from the server)"),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(help="Made-up photos of these sizes instead, as in 640x480,1920x1080."),
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Images in one request. (default: 1)")] = None,
    route: Annotated[str, typer.Option(help="What to ask for: detect or rescore.")] = "detect",
    body: Annotated[
        str, typer.Option(help="How one image is sent: raw or multipart; several are multipart.")
    ] = "raw",
    boxes: Annotated[int, typer.Option(min=1, help="Boxes in one request, for rescore.")] = 10,
    model: Annotated[str | None, typer.Option(help="Model. (default: the server's)")] = None,
    query: Annotated[
        str, typer.Option(help="More query parameters, as in annotate=true or score_threshold=0.5.")
    ] = "",
    api_key: Annotated[
        str | None,
        typer.Option(envvar="HINDSIGHT_API_KEY", help="Sent as Authorization: Bearer."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of arrivals, made-up photos and boxes.")] = 0,
    yes_remote: Annotated[
        bool, typer.Option("--yes-remote", help="The server is another machine, and yours to load.")
    ] = False,
    max_p99: Annotated[
        float | None,
        typer.Option(help="Exit 1 above this many ms, a request without a good answer being slower."),
    ] = None,
    min_goodput: Annotated[
        str | None,
        typer.Option(help="Exit 1 below this many good answers a second, or % of a preset's capacity."),
    ] = None,
    max_errors: Annotated[
        str | None, typer.Option(help="Exit 1 above this many requests without a good answer, or %.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    histogram: Annotated[Path | None, typer.Option(help="Draw the latency distribution to this PNG.")] = None,
) -> None:
    """Load a server, and see what it takes: rates, latencies, where the time goes. docs/bench.md."""
    limits = Limits(
        positive("--max-p99", max_p99),
        parse_quantity("--min-goodput", min_goodput),
        parse_quantity("--max-errors", max_errors),
    )
    place_of("--preset", preset or next(iter(PRESETS)), tuple(PRESETS))
    place_of("--route", route, ("detect", "rescore"))
    gaps: Arrivals = "uniform" if place_of("--arrivals", arrivals, ("poisson", "uniform")) else "poisson"
    form: Body = "multipart" if place_of("--body", body, ("raw", "multipart")) else "raw"
    check_combination(preset, clients, rate, requests, seconds, images, route, photos, sizes, polite, limits)
    for option, value in {"--rate": rate, "--seconds": seconds, "--patience": patience}.items():
        positive(option, value)
    if warm_up is not None and not 0 <= warm_up < float("inf"):
        raise OptionError(f"--warm-up takes seconds, got {warm_up:g}")
    for file in (json_file, histogram):
        check_writable(file)
    address = find_address(url, allow_remote=yes_remote)
    headers = {"Authorization": f"Bearer {header_value(api_key)}"} if api_key else {}
    given = "&".join(
        part for part in (f"model={quote(model, safe='')}" if model else "", query.lstrip("?")) if part
    )
    what = What(route, form, images or 1, boxes, f"?{given}" if given else "", headers, seed)
    chosen = folder_photos(photos) if photos else made_photos(parse_sizes(sizes), seed) if sizes else None
    raise_file_limit((clients or 64) + 1024 * (rate is not None or preset in ("soak", "saturation")))

    async def prepare() -> tuple[Server, list[Photo]]:
        server = await describe(address, model, headers)
        found = chosen or await sample_photos(server, headers)
        if not found:
            complain(f"the model has no samples: made-up photos of {_MADE_SIZES} are sent")
            found = made_photos(parse_sizes(_MADE_SIZES), seed)
        await _try_one(server, what.requests(server, found, what.images)[0])
        return server, found

    server, found = _run(prepare())
    made: dict[int, list[Request]] = {}

    def source(count: int) -> Source:
        if count not in made:
            made[count] = what.requests(server, found, count)
        return turn(made[count])

    session = Session(server.address)
    if preset is None:
        load = Load(
            Open(rate, gaps) if rate is not None else Closed(clients or 8, polite),
            patience=patience or 60.0,
            warm_up=2.0 if warm_up is None else warm_up,
            seconds=seconds if requests is not None else seconds or 10.0,
            requests=requests,
            seed=seed,
        )
        name = "open loop" if rate is not None else "closed loop"
        work = _single(session, name, load, source(what.images))
    else:
        wishes = Wishes(source, clients, rate, patience, warm_up, seconds, images, seed)
        work = run_preset(preset, session, wishes)
    interrupted = _run(_watched(session, work))
    checks = check(limits, session.measured) if session.measured else []
    if json_file is not None:
        about = {
            "what": "hindsight bench",
            "url": url,
            "preset": preset,
            "server": {"version": server.version, "model": server.model["name"]},
            "route": f"/{route}",
            "body": "multipart" if what.images > 1 or route == "rescore" else form,
            "images_per_request": what.images,
            "photos": sizes_of(found),
        }
        write_text(json_file, json.dumps(document(about, session.measured, checks, interrupted), indent=2))
    if histogram is not None and session.measured:
        judged = [each for each in session.measured if each.judged] or session.measured
        save_picture(draw_histogram(judged[-1], f"POST {url.rstrip('/')}/{route}"), histogram)
    _report(session, checks)
    if interrupted:
        raise typer.Exit(_INTERRUPTED)
    if not all(each.kept for each in checks):
        raise typer.Exit(_MISSED)


async def _single(session: Session, name: str, load: Load, source: Source) -> None:
    await session.measure(name, load, source, judged=True)


async def _try_one(server: Server, request: Request) -> None:
    """Before any load: is the answer the right one? Raises ServiceError with the server's own words."""
    answer = await send_once(server.address, request.payload)
    if answer.status in (401, 403):
        raise ServiceError(f"the server refuses this key ({problem_of(answer)}): see --api-key")
    if answer.status not in request.good:
        raise ServiceError(f"the first request failed, so no load was sent: {problem_of(answer)}")


async def _watched(session: Session, work: Coroutine[Any, Any, None]) -> bool:
    """Run it with the live table; -> whether Ctrl-C ended it."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):  # Windows
        loop.add_signal_handler(signal.SIGINT, session.interrupt)
    watching = asyncio.create_task(watch(session, progress_console()))
    try:
        await work
    except Interrupted:
        return True
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)
    return False


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """On uvloop where there is one: it costs about half."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def _report(session: Session, checks: Sequence[Check]) -> None:
    """After the files: whoever reads stdout may have seen enough of it."""
    console = output()
    if not session.measured:
        complain("interrupted before anything was measured")
        return
    for part in final_tables(session.measured):
        console.print(part)
    for warning in warnings_of(session.measured):
        complain(warning)
    for each in checks:
        console.print(f"{'kept  ' if each.kept else 'MISSED'} {each.text}", style="" if each.kept else "bold")
