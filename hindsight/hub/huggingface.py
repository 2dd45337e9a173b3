"""Models of the Hugging Face Hub: `hf://user/repo`, `hf://user/repo@revision`.

huggingface_hub (extra `hub`) does the talking, so its variables count: HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE
and the token that `hf auth login` has kept. The revision is looked up once; everything is then read of that
one commit, so a repository that changes meanwhile is not a mixture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]

from hindsight.errors import ModelNotFound, OptionError, ServiceError
from hindsight.hub.sources import HUB_PREFIX, Interrupted
from hindsight.version import __version__

__all__ = ["HubSource"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SILENCE = 30.0  # seconds of it on the line
_AGENT = "hindsight"
# The class of everything that can go wrong on the way: httpx's, which huggingface_hub has under another name
# since its second version.
_NetworkError: type[Exception] = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")


class HubSource:
    """A repository of the hub. url: hf://user/repo, with @revision or without."""

    def __init__(self, url: str) -> None:
        """Raises OptionError."""
        repository, _, revision = url.removeprefix(HUB_PREFIX).partition("@")
        if not _NAME.fullmatch(repository) or ("@" in url and not _REVISION.fullmatch(revision)):
            raise OptionError(f"expected hf://user/repo or hf://user/repo@revision, got {url!r}")
        self.name = url
        self.revision = revision or None
        self.commit: str | None = None
        self._repository = repository

    def files(self) -> dict[str, int]:
        """Raises ModelNotFound, ServiceError."""
        with self._errors():
            info = HfApi(library_name=_AGENT, library_version=__version__).model_info(
                self._repository, revision=self.revision, files_metadata=True, timeout=_SILENCE
            )
        if info.sha is None or not _COMMIT.fullmatch(info.sha):
            raise ServiceError(f"{self.name}: the hub names no commit")
        self.commit = info.sha
        return {
            entry.rfilename: entry.size if isinstance(entry.size, int) else -1
            for entry in info.siblings or ()
        }

    def read(self, name: str, start: int) -> Iterator[bytes]:
        """Raises ModelNotFound, ServiceError, Interrupted."""
        if self.commit is None:
            raise ValueError("files() comes first: it settles the commit")
        headers = build_hf_headers(library_name=_AGENT, library_version=__version__)
        # As they are stored: what a coding expands to would not be bounded by its length.
        headers |= {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        url = hf_hub_url(self._repository, name, revision=self.commit)
        with (
            self._errors(reading=name),
            get_session().stream(
                "GET", url, headers=headers, timeout=_SILENCE, follow_redirects=True
            ) as answer,
        ):
            if answer.is_error:
                answer.read()
            hf_raise_for_status(answer)
            skip = 0 if answer.status_code == 206 else start  # a server may send the whole file all the same
            for chunk in answer.iter_raw():  # as it comes: what breaks off is then kept to its last byte
                if skip < len(chunk):
                    yield chunk[skip:] if skip else chunk
                skip = max(0, skip - len(chunk))

    @contextmanager
    def _errors(self, reading: str | None = None) -> Iterator[None]:
        """What the hub and the network say, in one line. reading: the file, whose rest may come later."""
        try:
            yield
        except OfflineModeIsEnabled:
            raise ServiceError(
                f"{self.name}: HF_HUB_OFFLINE is set, so nothing is fetched: unset it, or pull a zip file or "
                "a folder"
            ) from None
        except HfHubHTTPError as error:
            raise self._refusal(error, reading) from None
        except _NetworkError as error:
            if reading is not None:
                raise Interrupted(str(error) or type(error).__name__) from error
            raise ServiceError(
                f"{self.name}: the hub cannot be reached ({error or type(error).__name__}): without a "
                "network pull a zip file or a folder"
            ) from None
        except (HFValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServiceError(f"{self.name}: the hub's answer cannot be read ({error})") from error

    def _refusal(self, error: HfHubHTTPError, reading: str | None) -> Exception:
        status = error.response.status_code if error.response is not None else None
        if isinstance(error, GatedRepoError):
            return ServiceError(
                f"{self.name}: its owner asks for consent: give it on its page, and set HF_TOKEN",
                status=status,
            )
        if isinstance(error, RepositoryNotFoundError):
            return ModelNotFound(
                f"{self.name}: no such repository, or a private one: check the name, or set HF_TOKEN"
            )
        if isinstance(error, RevisionNotFoundError):
            return ModelNotFound(f"{self.name}: the repository has no revision {self.revision or 'main'!r}")
        if isinstance(error, EntryNotFoundError):
            return ModelNotFound(f"{self.name}: {reading} was listed and is not there")
        if reading is not None and (status is None or status >= 500 or status == 429):
            return Interrupted(f"HTTP status {status}")
        if status == 401:
            return ServiceError(f"{self.name}: the hub refuses the token: check HF_TOKEN", status=status)
        return ServiceError(f"{self.name}: the hub answered with HTTP status {status}", status=status)
