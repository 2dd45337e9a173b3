"""Who does the work of `hindsight detect`: this process, worker processes, or a server."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from hindsight.api import load, resolve_options
from hindsight.artifact import DEFAULT_MODEL, find_artifact
from hindsight.client import Client
from hindsight.errors import ModelNotFound, OptionError, ServiceError
from hindsight.jobs.cores import usable_cores
from hindsight.jobs.crew import Crew
from hindsight.jobs.outputs import Model
from hindsight.jobs.remote import Remote
from hindsight.jobs.work import Alone, Engine
from hindsight.jobs.worker import WorkerSpec
from hindsight.manifest import ClassInfo
from hindsight.runtime import check_runtime_name

__all__ = ["DEFAULT_BACKEND", "DEFAULT_DEVICE", "Choice", "Team", "local_team", "server_team"]

KEY_VARIABLE = "HINDSIGHT_API_KEY"
DEFAULT_BACKEND = "onnxruntime"
DEFAULT_DEVICE = "cpu"
_MOST_WORKERS = 8  # by default: each holds a model of its own in memory
_WORTH_A_WORKER = 8  # pictures; fewer are done before it is up
_WORTH_WORKERS = 100  # pictures from which workers are started for whoever has not asked for them
_REQUESTS = 4  # at a time, to a server
_PATIENCE = 60.0  # seconds for an image, repeats included: a server may be busy, or start anew
_REPEATS = 1000  # more than fit into that time: it alone decides
_TILES_PATIENCE = 300.0  # for one in tiles, which may be dozens of images to the server
_GREY = "#808080"  # of a class that only an older version of the model has


@dataclass(frozen=True)
class Choice:
    """The command line's. workers, threads: None where not given. options: of DetectOptions, None where not
    given.
    """

    model: str | None
    backend: str
    device: str
    workers: int | None
    threads: int | None
    options: dict[str, Any]

    def __post_init__(self) -> None:
        for name in ("workers", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True)
class Team:
    """Who answers. job: what a journal holds a resumed job to. open: the engine; it is given whom to tell."""

    model: Model
    classes: tuple[ClassInfo, ...]
    job: dict[str, Any]
    open: Callable[[Callable[[str], None]], Any]


def local_team(choice: Choice, *, pictures: int, kept: bool) -> Team:
    """The model on this machine. pictures: how many there are, as far as known. kept: the job has a journal,
    and so is worth processes of its own.

    Raises ModelNotFound, ArtifactError, OptionError.
    """
    check_runtime_name(choice.backend)
    artifact = find_artifact(choice.model or DEFAULT_MODEL)
    manifest = artifact.manifest
    tiling, options = resolve_options(manifest, **choice.options)  # once, not as every image's failure
    workers, threads = _shares(choice, pictures, kept)
    spec = WorkerSpec(
        str(artifact.path.absolute()),
        artifact.identity,
        choice.backend,
        choice.device,
        threads,
        choice.options,
    )

    @contextmanager
    def opened(report: Callable[[str], None]) -> Iterator[Engine]:
        if workers is not None:
            crew = Crew(spec, workers, report)
            try:
                yield crew
            finally:
                crew.close()
            return
        with load(artifact.path, runtime=choice.backend, device=choice.device, threads=threads) as detector:
            yield Alone(detector, choice.options)

    job = {"model": artifact.identity, "backend": choice.backend, **asdict(options)}
    if tiling is not None:
        job |= asdict(tiling)
    model = Model(manifest.name, manifest.version, manifest.class_names)
    return Team(model, manifest.classes, _as_json(job), opened)


def server_team(choice: Choice, url: str) -> Team:
    """A running server, asked for the one version of the model that answers now.

    Raises ModelNotFound, OptionError, ServiceError.
    """
    if (choice.backend, choice.device, choice.threads) != (DEFAULT_BACKEND, DEFAULT_DEVICE, None):
        raise OptionError(
            "--backend, --device and --threads are the server's own: leave them out with --server"
        )
    key = os.environ.get(KEY_VARIABLE) or None
    with Client(url, api_key=key) as client:
        entry, version = _served(client, choice.model)
    name = str(entry["name"])
    colours = {info["name"]: info["colour"] for info in entry["classes"]}
    names = _class_names(entry, version)
    classes = tuple(ClassInfo(each, colours.get(each, _GREY)) for each in names)
    given: dict[str, Any] = {option: value for option, value in choice.options.items() if value is not None}

    @contextmanager
    def opened(report: Callable[[str], None]) -> Iterator[Engine]:
        patience = _TILES_PATIENCE if "tile" in given else _PATIENCE
        with Client(
            url, model=f"{name}@{version}", api_key=key, timeout=patience, retries=_REPEATS
        ) as pinned:
            engine = Remote(pinned, given, classes, choice.workers or _REQUESTS)
            try:
                yield engine
            finally:
                engine.close()

    job = {"model": f"{name}@{version} of a server", **choice.options}
    return Team(Model(name, version, names), classes, _as_json(job), opened)


def _shares(choice: Choice, pictures: int, kept: bool) -> tuple[int | None, int | None]:
    """(worker processes, None for this process; threads of each, None for the runtime's own choice)."""
    if choice.workers is None and not kept and pictures < _WORTH_WORKERS:
        return None, choice.threads
    cores = usable_cores()
    if choice.workers is not None:
        workers = max(1, min(choice.workers, pictures))
    elif choice.device != "cpu":
        workers = 1  # they would share the device
    else:
        useful = max(1, math.ceil(pictures / _WORTH_A_WORKER))
        workers = max(1, min(_MOST_WORKERS, useful, cores // (choice.threads or 1)))
    return workers, choice.threads or max(1, cores // workers)


def _served(client: Client, wanted: str | None) -> tuple[dict[str, Any], str]:
    """What the server says of the model, and the version that is asked for or answers by default."""
    try:
        name, _, version = (wanted or client.default_model()).partition("@")
        entries = client.models()
    except ServiceError as error:
        if error.status in (401, 403):
            raise ServiceError(_about_key(client.url, error), status=error.status) from error
        if error.status != 404:
            raise
        raise ServiceError(
            f"{client.url} is not a server's address ({error}); expected one such as http://localhost:8000",
            status=404,
        ) from error
    entry = next((each for each in entries if each["name"] == name), None)
    if entry is None:
        known = ", ".join(str(each["name"]) for each in entries)
        raise ModelNotFound(f"{client.url} has no model {name!r}; it has {known or 'none'}")
    loaded = [each for each in entry["versions"] if each["classes"] is not None]
    for each in loaded:
        if each["version"] == version or (not version and each["default"]):
            return entry, str(each["version"])
    known = ", ".join(str(each["version"]) for each in loaded)
    if not version:
        raise ServiceError(f"{client.url} names no default version of {name}; it has {known}")
    raise ModelNotFound(f"{client.url} has no version {version!r} of {name}; it has {known}")


def _about_key(url: str, error: ServiceError) -> str:
    """For people at a shell."""
    if os.environ.get(KEY_VARIABLE):
        return f"{url} refuses the API key of ${KEY_VARIABLE}: {error}"
    return f"{url} needs an API key: set ${KEY_VARIABLE}"


def _class_names(entry: dict[str, Any], version: str) -> tuple[str, ...]:
    return next(tuple(each["classes"]) for each in entry["versions"] if each["version"] == version)


def _as_json(job: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from a file: lists for tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in job.items()}
