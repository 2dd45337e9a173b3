"""Every error Hindsight raises on purpose.

`str(error)` is one line: what was expected, what came, and what to do. `code` is the stable name that the
service puts into its problem documents and the client turns back into the same class.
"""

from __future__ import annotations

from typing import ClassVar


class HindsightError(Exception):
    """Root of the tree: catch this to catch everything below."""

    code: ClassVar[str] = "hindsight-error"


class ArtifactError(HindsightError):
    """A model folder that cannot be trusted or read: missing file, wrong hash, newer format."""

    code = "artifact-error"


class ModelNotFound(HindsightError):
    """No model of that name."""

    code = "model-not-found"


class ImageError(HindsightError):
    """The image that was given cannot be used."""

    code = "image-error"


class CorruptImage(ImageError):
    """A known format, but its bytes are truncated or broken."""

    code = "corrupt-image"


class UnsupportedImage(ImageError):
    """Not an image, a format we do not read, or more than one frame."""

    code = "unsupported-image"


class ImageTooLarge(ImageError):
    """More bytes or more pixels than allowed; found out before decoding."""

    code = "image-too-large"


class OptionError(HindsightError):
    """An option out of range, unknown, or not offered by this model."""

    code = "option-error"


class BoxesError(HindsightError):
    """Boxes for `rescore` that have a wrong shape, a non-finite value, are inverted, outside or too many."""

    code = "boxes-error"


class RuntimeFailure(HindsightError):
    """The runtime could not load or execute the model."""

    code = "runtime-failure"


class DeviceLost(RuntimeFailure):
    """The GPU is in a state that only a new process gets out of: a kernel has read a wrong address, say."""

    code = "device-lost"


class OutOfMemory(RuntimeFailure):
    """The device has no room for this batch; a smaller one may fit."""

    code = "out-of-memory"


class NonFiniteOutput(RuntimeFailure):
    """The model answered NaN or infinity for this image."""

    code = "non-finite-output"


class ServiceError(HindsightError):
    """Raised by `Client` alone: the server could not be reached, was too busy, or failed.

    status: the HTTP status, None if no answer came. retry_after: seconds the server asked to wait, if it said
    so.
    """

    code = "service-error"

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


def errors_by_code() -> dict[str, type[HindsightError]]:
    """Every class of this module under its `code` (not those that other packages derive from them)."""
    found: dict[str, type[HindsightError]] = {}
    pending: list[type[HindsightError]] = [HindsightError]
    while pending:
        kind = pending.pop()
        if kind.__module__ == __name__:
            found[kind.code] = kind
        pending.extend(kind.__subclasses__())
    return found
