"""The sockets a server listens on, their addresses, and what is worth a warning about them."""

import ipaddress
import logging
import socket
from dataclasses import dataclass

from hindsight.errors import OptionError
from service.logs import log
from service.settings import Settings


@dataclass(frozen=True)
class Listeners:
    """Bound before any model is loaded, so that a busy port is told at once."""

    public: socket.socket
    admin: socket.socket | None

    @property
    def sockets(self) -> list[socket.socket]:
        return [self.public] if self.admin is None else [self.public, self.admin]

    @property
    def admin_port(self) -> int | None:
        return None if self.admin is None else int(self.admin.getsockname()[1])


def listen(settings: Settings) -> Listeners:
    """Bind the port, and the admin port if there is one. Raises OptionError."""
    public = listen_on(settings.host, settings.port, "host", "port")
    if settings.admin_port is None:
        return Listeners(public, None)
    try:
        admin = listen_on(settings.admin_host, settings.admin_port, "admin-host", "admin-port")
    except OptionError:
        public.close()
        raise
    if admin.getsockname()[1] == public.getsockname()[1]:
        # Requests are told apart by the port they came to.
        raise OptionError("the admin port and the port must have different numbers")
    return Listeners(public, admin)


def url_of(listener: socket.socket, *, tls: bool) -> str:
    """The address to visit."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:
        host = "localhost"
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def warn_of_exposure(settings: Settings, listeners: Listeners) -> None:
    """Say at the start what strangers could do. Nothing is refused: a firewall may stand in front."""
    host = str(listeners.public.getsockname()[0])
    if not _is_loopback(host):
        if settings.keys_file is None and settings.tls_client_ca is None:
            log(
                logging.WARNING,
                "whoever reaches this port may use this server: no keys file is set",
                host=host,
                help="hindsight keys create NAME --file FILE, then serve with --keys-file FILE",
            )
        elif settings.tls_certificate is None and not settings.trusted_proxies:
            log(
                logging.WARNING,
                "API keys reach this port unencrypted: no TLS certificate is set",
                host=host,
                help="--tls-certificate FILE, or a TLS proxy in front, named by --set trusted_proxies=IP",
            )
    if listeners.admin is not None and not _is_loopback(str(listeners.admin.getsockname()[0])):
        log(
            logging.WARNING,
            "whoever reaches the admin port may read the metrics",
            host=listeners.admin.getsockname()[0],
        )


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def listen_on(host: str, port: int, host_flag: str = "host", port_flag: str = "port") -> socket.socket:
    """A listening socket. Raises OptionError, which names the flags."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # Accepted connections inherit it: a body must not wait for the acknowledgement of its headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (socket.gaierror, UnicodeError) as error:
        raise OptionError(
            f"cannot listen on {host!r} ({error}); --{host_flag} takes an address or a name of this machine"
        ) from None
    except OSError as error:
        raise OptionError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; "
            f"choose another --{host_flag} or --{port_flag}"
        ) from None
