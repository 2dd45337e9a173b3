"""Loading and unloading while the server runs. One change at a time, of the whole set of models:

every device warms a second worker with the new set beside the one that serves; when all are warm, all devices
and the registry change at one instant; requests that began before it keep their model, and the old workers
end when the last of them has been answered. If any of it fails before that instant, nothing has changed.
"""

import asyncio
import logging
import math
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

from hindsight.artifact import Artifact, load_artifact
from hindsight.errors import ArtifactError, HindsightError
from hindsight.repository import ModelRepository
from hindsight.versions import version_order
from service.engine import Engine
from service.errors import BadModel, ChangeInProgress, DefaultModel, EngineUnavailable, LoadFailed
from service.inflight import Requests
from service.logs import log
from service.metrics import Metrics
from service.model_sources import ModelSources
from service.registry import ModelRegistry
from service.settings import Settings
from service.worker_process import StartFailed, WorkerProcess


@dataclass
class Change:
    """A load or an unload, under way or ended. `version`: None while it is not known, and for an unload of
    all versions.
    """

    operation: Literal["load", "unload"]
    name: str
    version: str | None
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    error: HindsightError | None = None
    task: "asyncio.Task[None] | None" = None
    step: str = "reading the files"

    @property
    def state(self) -> Literal["running", "done", "failed"]:
        if self.ended is None:
            return "running"
        return "done" if self.error is None else "failed"

    @property
    def seconds(self) -> float:
        return (time.monotonic() if self.ended is None else self.ended) - self.started


class ModelControl:
    """Changes the registry and the engines together."""

    def __init__(
        self,
        registry: ModelRegistry,
        engines: list[Engine],
        requests: Requests,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._registry = registry
        self._engines = engines
        self._requests = requests
        self._metrics = metrics
        self._problems = dict(registry.problems)  # why the last attempt to load a version failed
        folder = settings.model_repository
        self._sources = ModelSources(ModelRepository(folder) if folder is not None else None, registry)
        self._retire_limit = _longest_wait(settings) + settings.hang_timeout
        self._changes: dict[str, Change] = {}
        self._current: Change | None = None
        self._candidates: list[WorkerProcess] = []
        self._retiring: asyncio.Task[None] | None = None

    async def load(self, name: str, version: str | None) -> Change:
        """Begin to load `version` beside those loaded, or the newest on disk in place of those loaded; what
        is loaded already is read anew. `finished` waits for the end. Raises ModelNotFound, BadModel,
        ChangeInProgress, EngineUnavailable.
        """
        change = self._open(Change("load", name, version))
        try:
            artifact = await asyncio.to_thread(self._sources.find, name, version)
        except BaseException as error:
            self._current = None
            if isinstance(error, ArtifactError):
                self._problems[name, version] = str(error)
                raise BadModel(str(error)) from error
            raise
        change.version = artifact.manifest.version
        return self._begin(change, self._load(artifact, beside=version is not None))

    def unload(self, name: str, version: str | None) -> Change:
        """Begin to unload one version, or all. `finished` waits for the end. Raises ModelNotFound,
        DefaultModel, ChangeInProgress, EngineUnavailable.
        """
        loaded = [artifact.manifest.version for artifact in self._registry.versions(name)]
        if not loaded or (version is not None and version not in loaded):
            self._registry.get(name if version is None else f"{name}@{version}")  # says what there is
        if name == self._registry.default and version in (None, *(loaded if len(loaded) == 1 else ())):
            raise DefaultModel(
                f"{name} is the default model: requests that name none would have nothing to run on; "
                "load another version first, or restart the server with another --model first"
            )
        change = self._open(Change("unload", name, version))
        return self._begin(change, self._unload(name, version))

    async def finished(self, change: Change) -> None:
        """Wait until `change` has ended; it goes on if the caller is cancelled. Raises its error."""
        if change.task is not None:
            await asyncio.wait({change.task})
        if change.error is not None:
            raise change.error

    async def stop(self) -> None:
        """Give up what is under way."""
        changing = self._current.task if self._current is not None else None
        for task in (changing, self._retiring):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def overview(self, name: str) -> list[dict[str, Any]]:
        """Each version of a model, loaded, on disk or both, the newest first; empty if there is none."""
        stored = await asyncio.to_thread(self._sources.versions, name)
        loaded = {artifact.manifest.version: artifact for artifact in self._registry.versions(name)}
        default = next(iter(loaded), None)
        return [
            {
                "version": version,
                "state": self._state(name, version, version in loaded, stored.get(version)),
                "default": default is not None and version == default,
                "failure": self._problems.get((name, version)) or stored.get(version),
                **_facts(loaded.get(version or "")),
            }
            for version in sorted(
                {*stored, *loaded}, key=lambda version: version_order(version or ""), reverse=True
            )
        ]

    def last_change(self, name: str) -> dict[str, Any] | None:
        """The last load or unload of a model, or the one under way."""
        change = self._changes.get(name)
        if change is None:
            return None
        return {
            "operation": change.operation,
            "version": change.version,
            "state": change.state,
            "failure": None if change.error is None else str(change.error),
            "seconds": round(change.seconds, 3),
            "steps": self._steps() if change is self._current else [],
        }

    async def names(self) -> list[str]:
        """Every model that is loaded or could be: the default first."""
        stored = await asyncio.to_thread(self._sources.names)
        return list(dict.fromkeys([*self._registry.names, *stored]))

    def _say(self, step: str) -> None:
        if self._current is not None:
            self._current.step = step

    def _steps(self) -> list[str]:
        """What the change under way does, on each device where it has got so far."""
        if self._candidates:
            return [f"{worker.spec.device}: {worker.step}" for worker in self._candidates]
        return [self._current.step] if self._current is not None else []

    def _state(self, name: str, version: str | None, loaded: bool, problem: str | None) -> str:
        change = self._current
        if change is not None and (change.operation, change.name, change.version) == ("load", name, version):
            return "loading"
        if loaded:
            return "loaded"
        return "failed" if problem is not None or (name, version) in self._problems else "unloaded"

    def _open(self, change: Change) -> Change:
        if self._requests.draining:
            raise EngineUnavailable("the server is shutting down; models stay as they are")
        if self._current is not None:
            other = self._current
            raise ChangeInProgress(
                f"the {other.operation} of {other.name} that began {other.seconds:.1f} s ago is still under "
                "way; one at a time"
            )
        self._current = change
        return change

    def _begin(self, change: Change, work: Coroutine[Any, Any, None]) -> Change:
        self._changes[change.name] = change
        change.task = asyncio.create_task(self._carry_out(change, work), name=f"{change.operation} a model")
        return change

    async def _carry_out(self, change: Change, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            change.error = EngineUnavailable("the server is shutting down; the models are as they were")
            raise
        except ArtifactError as error:
            change.error = BadModel(str(error))
        except StartFailed as error:
            change.error = LoadFailed(f"{error}; the models are as they were")
        except Exception as error:
            log(logging.ERROR, "unhandled error in a change of models", exc=error)
            change.error = LoadFailed("the server failed; its log has the cause; the models are as they were")
        finally:
            change.ended = time.monotonic()
            self._current = None
            self._note(change)

    def _note(self, change: Change) -> None:
        key = change.name, change.version
        if change.operation == "load" and change.error is not None:
            self._problems[key] = str(change.error)
        elif change.error is None:
            for known in [known for known in self._problems if known in (key, (change.name, None))]:
                del self._problems[known]
        self._metrics.model_changes.labels(change.operation, change.state).inc()
        log(
            logging.INFO if change.error is None else logging.ERROR,
            f"{change.operation} {change.state}",
            model=change.name,
            version=change.version,
            seconds=round(change.seconds, 3),
            reason=change.error and str(change.error),
        )

    async def _load(self, found: Artifact, *, beside: bool) -> None:
        artifact = await asyncio.to_thread(load_artifact, found.path)
        manifest = artifact.manifest
        if artifact.identity != found.identity:
            raise ArtifactError(f"{found.path}: was changed while it was read; load it again")
        kept = [
            each
            for each in self._registry
            if each.manifest.name != manifest.name or (beside and each.manifest.version != manifest.version)
        ]
        await self._switch([*kept, artifact])
        self._sources.remember(artifact)

    async def _unload(self, name: str, version: str | None) -> None:
        await self._switch(
            [
                each
                for each in self._registry
                if each.manifest.name != name or version not in (None, each.manifest.version)
            ]
        )

    async def _switch(self, artifacts: list[Artifact]) -> None:
        """Serve `artifacts` on every device. StartFailed: some new worker did not come up; nothing has
        changed.
        """
        if self._retiring is not None and not self._retiring.done():
            self._say("waiting for requests that began before the last change")
            await asyncio.wait({self._retiring})  # so that no device ever has three workers
        folders = {artifact.identity: str(artifact.path.resolve()) for artifact in artifacts}
        before = set(self._registry.names)
        workers = self._candidates = [engine.candidate(folders) for engine in self._engines]
        try:
            await _all_started(workers)
            for worker in workers:
                if worker.lost.is_set():
                    raise StartFailed(f"the new worker of {worker.spec.device} died as soon as it was up")
            # Nothing awaits from here on: no request sees one device or the registry without the others.
            self._registry.replace(artifacts)
            for engine, worker in zip(self._engines, workers, strict=True):
                engine.adopt(worker)
            self._requests.new_epoch()
        except BaseException:
            for worker in workers:
                await worker.kill()
            raise
        finally:
            self._candidates = []
        gone = before - set(self._registry.names)
        self._retiring = asyncio.create_task(self._retire(gone), name="retire workers")

    async def _retire(self, gone: set[str]) -> None:
        """End the old workers, and forget the models that are `gone`, when the requests that began before the
        change have been answered.
        """
        try:
            async with asyncio.timeout(self._retire_limit):
                await self._requests.earlier_ended()
        except TimeoutError:
            log(logging.WARNING, "old workers end with requests under way", seconds=self._retire_limit)
        else:
            for name in gone:
                self._metrics.forget_model(name)
        for engine in self._engines:
            await engine.end_retired()


def _longest_wait(settings: Settings) -> float:
    """Seconds from a request's first byte to the start of the last of its images, at most. Label Studio's
    have the time of a request for every `max_images` tasks.
    """
    turns = math.ceil(settings.label_studio_max_tasks / settings.max_images)
    return max(settings.max_timeout, (1 + turns) * settings.timeout)


async def _all_started(workers: list[WorkerProcess]) -> None:
    """Start all; the first failure gives up the others."""
    tasks = [asyncio.create_task(worker.start()) for worker in workers]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, StartFailed):
            raise outcome
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


def _facts(artifact: Artifact | None) -> dict[str, Any]:
    """What a client must know to read the answers of a version that is loaded."""
    if artifact is None:
        return {"classes": None, "has_localization": None, "has_masks": None}
    manifest = artifact.manifest
    return {
        "classes": list(manifest.class_names),
        "has_localization": manifest.has_localization,
        "has_masks": manifest.has_masks,
    }
