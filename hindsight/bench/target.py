"""Which server is loaded: found, allowed, and a Hindsight."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from hindsight.bench.wire import Address, Answer, BrokenExchange, UntrustedServer, Wire
from hindsight.errors import OptionError, ServiceError

__all__ = ["Server", "ask", "describe", "find_address", "other_host", "problem_of", "send_once"]

_PATIENCE = 30.0  # seconds a single question may take
_SECOND_LOOPBACK = "127.0.0.2"


@dataclass(frozen=True)
class Server:
    """What a Hindsight says of itself: the chosen model's entry of GET /models."""

    address: Address
    model: dict[str, Any]
    version: str | None


def find_address(url: str, *, allow_remote: bool = False) -> Address:
    """The address behind `url`. Raises OptionError for what is no URL, and for a host that is not this
    machine unless `allow_remote`; ServiceError where the name has no address.

    Every connection goes to the address that was checked, never to the name again.
    """
    parts = urlsplit(url if "//" in url else f"http://{url}")
    try:
        name, port = parts.hostname, parts.port
    except ValueError as error:
        raise OptionError(f"url {url!r} is not valid ({error})") from None
    if parts.scheme not in ("http", "https") or not name or parts.query or parts.fragment or parts.username:
        raise OptionError(f"url must look like http://localhost:8000, got {url!r}")
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    port = port or (443 if tls else 80)
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ServiceError(f"{name} has no address ({getattr(error, 'strerror', None) or error})") from error
    hosts = [str(entry[4][0]) for entry in found]
    remote = [host for host in hosts if not ipaddress.ip_address(host.partition("%")[0]).is_loopback]
    if remote and not allow_remote:
        raise OptionError(
            f"{name} is {remote[0]}, which is not this machine. Load that its owner did not ask for is an "
            "attack: if the server is yours, say --yes-remote"
        )
    host = next((host for host in hosts if _listens(host, port)), hosts[0])
    return Address(host, port, name, parts.path.rstrip("/"), tls)


def other_host(address: Address) -> str | None:
    """An address of this machine from which the server at `address` takes us for another client than from the
    one that the system chooses. Only the IPv4 loopback of Linux has several; None elsewhere.
    """
    if not address.host.startswith("127."):
        return None
    try:
        with socket.socket() as probe:
            probe.bind((_SECOND_LOOPBACK, 0))
    except OSError:
        return None
    return _SECOND_LOOPBACK


def _listens(host: str, port: int) -> bool:
    """A name such as localhost may be both ::1 and 127.0.0.1, with the server on one of them."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


async def describe(address: Address, model: str | None, headers: dict[str, str]) -> Server:
    """Ask the server what it is. Raises ServiceError where nobody answers, or somebody else; OptionError
    where it has no such model.
    """
    answer = await ask(address, "GET", "/models", headers)
    if answer.status in (401, 403):
        raise ServiceError(f"the server refuses this key ({problem_of(answer)}): see --api-key")
    try:
        document = json.loads(answer.body)
        entries = {str(entry["name"]): entry for entry in document["models"]}
        chosen = model or str(document["default"])
    except (ValueError, KeyError, TypeError):
        raise ServiceError(
            f"{address.authority} answers, but it is no Hindsight: GET {address.prefix}/models is "
            f"{answer.status} {answer.headers.get('content-type', 'without a type')}"
        ) from None
    if chosen not in entries:
        raise OptionError(f"the server has no model {chosen!r}; it has {', '.join(entries)}")
    return Server(address, entries[chosen], await _version(address, headers))


async def _version(address: Address, headers: dict[str, str]) -> str | None:
    """Of the server's software; None where it does not say."""
    try:
        return str(json.loads((await ask(address, "GET", "/openapi.json", headers)).body)["info"]["version"])
    except (ServiceError, ValueError, KeyError, TypeError):
        return None


async def ask(
    address: Address, method: str, path: str, headers: dict[str, str], body: bytes | None = None
) -> Answer:
    """One request on a connection of its own. Raises ServiceError where no answer comes."""
    lines = [f"{method} {quote(address.prefix + path, safe='/?&=%')} HTTP/1.1", f"Host: {address.authority}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}"] if body is not None else []
    head = "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")
    return await send_once(address, [head, body or b""])


async def send_once(address: Address, request: Sequence[bytes]) -> Answer:
    """These bytes, on a connection of their own. Raises ServiceError where no answer comes."""
    try:
        async with asyncio.timeout(_PATIENCE):
            wire = await Wire.connect(address)
            try:
                return await wire.exchange(request)
            finally:
                wire.abandon()
    except TimeoutError:
        raise ServiceError(f"no answer from {address.authority} within {_PATIENCE:g} s") from None
    except UntrustedServer as error:
        raise ServiceError(str(error)) from error
    except BrokenExchange as error:
        raise ServiceError(
            f"no answer from {address.authority} ({error}): is `hindsight serve` running there?"
        ) from error


def problem_of(answer: Answer) -> str:
    """What an answer that is none says: a problem document's slug and detail, or the bare status."""
    slug, detail = "", ""
    if answer.headers.get("content-type", "").startswith("application/problem+json"):
        try:
            document = json.loads(answer.body)
            slug, detail = str(document["type"]).rpartition("#")[2], str(document.get("detail", ""))
        except (ValueError, KeyError, TypeError):
            pass
    return " ".join(part for part in (str(answer.status), slug) if part) + (f": {detail}" if detail else "")
