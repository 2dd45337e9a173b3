"""A server's routes as coroutines: requests repeated where that helps, answers made into the library's types.

One Core belongs to one event loop. Images come as encoded bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hindsight.client import wire
from hindsight.client.grouping import Outcome
from hindsight.client.http import Address, Answer, Lost, Pool, Request
from hindsight.client.retry import BUSY, PASSING, pause, retry_after
from hindsight.detections import Detections, Rescored
from hindsight.errors import HindsightError, ModelNotFound, OptionError, ServiceError
from hindsight.version import __version__

__all__ = ["Core", "Settings"]

T = TypeVar("T")
_EVERYONES = frozenset({*range(300, 400), 401, 403})  # statuses that every image would get
_TOO_MUCH = 413


@dataclass(frozen=True)
class Settings:
    """What a client was made with. timeout: seconds of one call, repeats and pauses included. retries: how
    often a request is sent again.
    """

    address: Address
    model: str | None
    timeout: float
    retries: int
    api_key: str | None

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise OptionError(f"timeout must be seconds above 0, got {self.timeout!r}")
        if self.retries < 0:
            raise OptionError(f"retries must be a whole number from 0, got {self.retries!r}")
        key = self.api_key
        if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
            raise OptionError("api_key must be one line of ASCII characters")

    def headers(self) -> dict[str, str]:
        """Of every request."""
        key = {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key.strip()}"}
        return {"Accept": "application/json", "User-Agent": f"hindsight/{__version__}", **key}


class Core:
    """See the module."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = settings.address.url
        self._pool = Pool(settings.address)
        self._facts: dict[tuple[str, str], wire.Facts] = {}

    def close(self) -> None:
        """End the kept connections; requests under way go on."""
        self._pool.close()

    async def models(self) -> list[dict[str, Any]]:
        return await self._models(self._deadline())

    async def default_model(self) -> str:
        """The name that the server takes where none is given."""
        document = await self._listing(self._deadline())
        try:
            return str(document["default"])
        except KeyError as error:
            raise self._not_ours(error) from error

    async def detect(self, image: bytes, options: Mapping[str, Any], *, patient: bool = False) -> Detections:
        """patient: see `_send`."""
        deadline = self._deadline()
        target = wire.target_of("/detect", self._settings.model, options)
        answer = await self._send("POST", target, wire.image_upload(image), deadline, patient=patient)
        return await self._read(wire.detections_of, self._document(answer), deadline)

    async def rescore(self, image: bytes, boxes: wire.Boxes, model: str | None) -> Rescored:
        deadline = self._deadline()
        target = wire.target_of("/rescore", self._settings.model if model is None else model)
        answer = await self._send("POST", target, wire.rescore_upload(image, boxes), deadline)
        return await self._read(wire.rescored_of, self._document(answer), deadline)

    async def detect_group(
        self, images: Sequence[bytes | HindsightError], options: Mapping[str, Any], gate: asyncio.Semaphore
    ) -> list[Outcome]:
        """Each image's detections or error, in order; an image that is an error stays one. Several travel in
        one request, and a busy server is waited for as long as the time of a call allows. Raises what
        concerns every image: OptionError, ModelNotFound, a key that is refused.
        """
        sent = [image for image in images if isinstance(image, bytes)]
        async with gate:
            found = iter(
                await (self._together(sent, options) if len(sent) > 1 else self._each(sent, options))
            )
        return [next(found) if isinstance(image, bytes) else image for image in images]

    async def _each(self, images: Sequence[bytes], options: Mapping[str, Any]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for image in images:
            try:
                outcomes.append(await self.detect(image, options, patient=True))
            except HindsightError as error:
                outcomes.append(_of_one(error))
        return outcomes

    async def _together(self, images: Sequence[bytes], options: Mapping[str, Any]) -> list[Outcome]:
        deadline = self._deadline()
        target = wire.target_of("/detect", self._settings.model, options)
        try:
            answer = await self._send("POST", target, wire.images_upload(images), deadline, patient=True)
            if answer.status == _TOO_MUCH:  # all together, perhaps: a server may be set to take fewer
                return await self._each(images, options)
            results = self._document(answer).get("results")
            if not isinstance(results, list) or len(results) != len(images):
                raise self._not_ours(ValueError(f"expected {len(images)} results"))
        except HindsightError as error:
            return [_of_one(error)] * len(images)
        answered = asyncio.get_running_loop().time()
        return [
            await self._one_of_many(image, result, options, answered, deadline)
            for image, result in zip(images, results, strict=True)
        ]

    async def _one_of_many(
        self, image: bytes, result: Any, options: Mapping[str, Any], answered: float, deadline: float
    ) -> Outcome:
        if not isinstance(result, dict):
            return self._not_ours(ValueError("a result is no object"))
        if "detections" not in result:
            error, status = wire.problem_error(self._url, result), result.get("status")
            if not isinstance(status, int) or status not in PASSING:
                return _of_one(error)
            again = answered + pause(1, wire.wait_of(result))
            if not self._settings.retries or again >= deadline:
                return _of_one(error)
            await asyncio.sleep(again - asyncio.get_running_loop().time())
            return (await self._each([image], options))[0]
        try:
            return await self._read(wire.detections_of, result, deadline)
        except HindsightError as error:
            return _of_one(error)

    async def _read(
        self, read: Callable[[dict[str, Any], wire.Facts], T], document: dict[str, Any], deadline: float
    ) -> T:
        """`document`, with what is known of its model."""
        facts = await self._facts_of(document, deadline)
        try:
            return read(document, facts)
        except (KeyError, TypeError, ValueError) as error:
            # The version may have been replaced by another of the same name since its classes were asked for.
            self._facts.clear()
            if await self._facts_of(document, deadline) == facts:
                raise self._not_ours(error) from error
        try:
            return read(document, await self._facts_of(document, deadline))
        except (KeyError, TypeError, ValueError) as error:
            raise self._not_ours(error) from error

    async def _facts_of(self, document: Mapping[str, Any], deadline: float) -> wire.Facts:
        """Asked for anew with each version that answers for the first time."""
        key = str(document.get("model")), str(document.get("version"))
        if key not in self._facts:
            models = await self._models(deadline)
            try:
                self._facts |= wire.facts_of(models)
            except (KeyError, TypeError) as error:
                raise self._not_ours(error) from error
        try:
            return self._facts[key]
        except KeyError:
            raise ServiceError(
                f"{self._url}: {' '.join(key)} was unloaded before its class names could be asked for; retry"
            ) from None

    async def _models(self, deadline: float) -> list[dict[str, Any]]:
        document = await self._listing(deadline)
        try:
            return list(document["models"])
        except (KeyError, TypeError) as error:
            raise self._not_ours(error) from error

    async def _listing(self, deadline: float) -> dict[str, Any]:
        return self._document(await self._send("GET", "/models", None, deadline))

    def _document(self, answer: Answer) -> dict[str, Any]:
        """Of a good answer. Raises what a bad one says."""
        if self._settings.api_key is None and wire.asks_for_key(answer):
            raise ServiceError(
                f"{self._url} needs an API key: give it to the client as api_key=", status=answer.status
            )
        return wire.document_of(self._url, answer)

    def _deadline(self) -> float:
        """Of a call that begins now, whatever it asks for: the loop's time."""
        return asyncio.get_running_loop().time() + self._settings.timeout

    async def _send(
        self,
        method: str,
        target: str,
        upload: wire.Upload | None,
        deadline: float,
        *,
        patient: bool = False,
    ) -> Answer:
        """The answer, whatever it says. patient: a busy server uses up none of the retries, so that the
        call's time alone ends the waiting: among many requests one may be refused often, for the others'
        sake. Raises ServiceError where there is no answer within the call's time.
        """
        settings = self._settings
        loop = asyncio.get_running_loop()
        failures = counted = 0
        while True:
            answer: Answer | None = None
            lost: Lost | None = None
            request = self._request(method, target, upload, deadline - loop.time())
            try:
                async with asyncio.timeout_at(deadline):
                    answer = await self._pool.exchange(request)
            except TimeoutError:
                raise ServiceError(f"no answer from {self._url} within {settings.timeout:g} s") from None
            except Lost as error:
                lost = error
            if answer is not None and answer.status not in PASSING:
                return answer
            failures += 1
            counted += not (patient and answer is not None and answer.status in BUSY)
            seconds = pause(failures, None if answer is None else retry_after(answer.headers))
            again = 0 < settings.retries >= counted and loop.time() + seconds < deadline
            if not again or (lost is not None and not lost.passing):
                if answer is not None:
                    return answer
                assert lost is not None, "there is no answer"
                raise ServiceError(f"no answer from {self._url} ({lost}): {lost.advice}") from lost
            await asyncio.sleep(seconds)

    def _request(self, method: str, target: str, upload: wire.Upload | None, seconds: float) -> Request:
        headers = self._settings.headers()
        body = b""
        if upload is not None:
            headers["Content-Type"] = upload.content_type
            # A bit less than we wait, so that the server's own word, which says more, still arrives.
            headers["X-Request-Timeout"] = f"{max(0.001, min(0.9 * seconds, 999_999)):.3f}"
            body = upload.body
        return Request(method, self._settings.address.prefix + target, headers, body)

    def _not_ours(self, error: Exception) -> ServiceError:
        return ServiceError(f"{self._url} answered what is no answer of Hindsight's ({error})")


def _of_one(error: HindsightError) -> HindsightError:
    """`error`, unless every other image would get it too: then it is raised."""
    everyones = isinstance(error, OptionError | ModelNotFound) or (
        isinstance(error, ServiceError) and error.status in _EVERYONES
    )
    if everyones:
        raise error
    return error
