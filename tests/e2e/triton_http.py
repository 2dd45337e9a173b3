"""tritonclient over HTTP, for `with` blocks."""

from __future__ import annotations

from tritonclient.http import InferenceServerClient


class TritonClient(InferenceServerClient):  # type: ignore[misc]  # it has no types
    """Closed at the end of its block, and not again."""

    def __del__(self) -> None:
        """The original closes once more, and gevent refuses that in whatever thread collects the garbage."""
