"""Every image through the model: several at a time, each kept in the journal as soon as it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice

from hindsight.api import Detector, read_image
from hindsight.audit.dataset import AuditImage
from hindsight.audit.examine import Examined, examine
from hindsight.audit.journal import Journal
from hindsight.datasets import Problem
from hindsight.errors import CorruptImage, ImageError, NonFiniteOutput

__all__ = ["look"]

_AHEAD = 2  # images in hand, per worker


def look(
    images: Sequence[AuditImage],
    detector: Detector,
    journal: Journal,
    workers: int,
    views: int,
    advance: Callable[[], None],
) -> list[tuple[AuditImage, Problem]]:
    """Fill the journal with those of `images` that it lacks; -> the images that cannot be used, and why.

    At most a few images a worker are in memory. Workers are threads of one model: decoding and inference
    leave the interpreter lock. advance: called once an image. Raises RuntimeFailure where the model fails
    altogether, OptionError where the journal cannot be written; what is in the journal stays.
    """
    unusable: list[tuple[AuditImage, Problem]] = []
    waiting = iter(images)
    running: dict[Future[Examined], AuditImage] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="audit") as pool:
        try:
            while True:
                for image in islice(waiting, _AHEAD * workers - len(running)):
                    running[pool.submit(_look_at, detector, image, views)] = image
                if not running:
                    return unusable
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    image = running.pop(future)
                    problem = _keep(future, image, journal)
                    if problem is not None:
                        unusable.append((image, problem))
                    advance()
        finally:
            for future in running:
                future.cancel()


def _keep(future: Future[Examined], image: AuditImage, journal: Journal) -> Problem | None:
    try:
        journal.add(image.signature, image.name, future.result())
    except (ImageError, NonFiniteOutput) as error:
        return Problem(image.path, None, str(error).removeprefix(f"{image.path}: "))
    except OSError as error:  # of the signature: the file went away meanwhile
        return Problem(image.path, None, f"cannot be read ({error.strerror})")
    return None


def _look_at(detector: Detector, image: AuditImage, views: int) -> Examined:
    pixels = read_image(image.path, detector.limits)
    if pixels.shape[:2] != image.image_hw:
        height, width = image.image_hw
        raise CorruptImage(
            f"decodes to {pixels.shape[1]} x {pixels.shape[0]}, but was {width} x {height} when the set "
            "was read"
        )
    return examine(detector, pixels, image.boxes, image.labels, views)
