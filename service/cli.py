"""`hindsight serve`."""

import signal
import socket
from contextlib import suppress
from typing import Annotated, Any

import typer

from hindsight.commands.console import fail


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. (default: 127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one. (default: 8000)")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or folder of a model; repeatable, the first is the default. (default: cells)"
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="Runtime: onnxruntime; torch or torch:OPTIONS (fp32, tf32, fp16, bf16, compile, nvjpeg, "
            "graphs=N, with commas between); tensorrt or tensorrt:OPTIONS (fp32, fp16, bf16, embedded), "
            "after hindsight export --to tensorrt; sleep:MS for load tests. (default: onnxruntime)"
        ),
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="cpu, cuda or cuda:N; repeatable. (default: cpu)")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of one execution. (default: the runtime's choice)")
    ] = None,
    max_queue: Annotated[
        int | None, typer.Option(help="Images that may wait; more get 503. (default: 64)")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds an image may wait; later ones get 504. (default: 10)")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error. (default: info)")
    ] = None,
) -> None:
    """Serve models over HTTP, with a page at /. Every setting is also an environment variable HINDSIGHT_*."""
    # Heavy imports wait until the command is called.
    from pydantic import ValidationError

    from hindsight.errors import HindsightError
    from hindsight.runtime import check_runtime_name
    from service.logs import configure_logging
    from service.registry import load_models
    from service.settings import Settings

    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "model": tuple(model) if model else None,
        "backend": backend,
        "device": tuple(device) if device else None,
        "threads": threads,
        "max_queue": max_queue,
        "timeout": timeout,
        "log_level": log_level,
    }
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
        check_runtime_name(settings.backend)
        registry = load_models(settings.model)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        fail(f"{where} {first['input']!r}: {reason}" if where else reason)
    except HindsightError as error:
        fail(str(error))
    listener = _listen(settings.host, settings.port)
    configure_logging(settings.log_level)
    failure = _run(settings, registry, listener)
    if failure is not None:
        fail(failure)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, before any model is loaded: a busy port is told at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # Accepted connections inherit it: a body must not wait for the acknowledgement of its headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (socket.gaierror, UnicodeError) as error:
        fail(f"cannot listen on {host!r} ({error}); --host takes an address or a name of this machine")
    except OSError as error:
        fail(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --host or --port")


def _run(settings: Any, registry: Any, listener: socket.socket) -> str | None:
    """Serve until SIGTERM or Ctrl-C; -> the reason if the workers never came up."""
    import uvicorn

    from service.app import Hooks, create_app
    from service.connections import Limits
    from service.http_protocol import guarded_protocol
    from service.native_noise import silence_image_readers

    silence_image_readers()
    failure: list[str] = []

    def start_failed(reason: str) -> None:
        failure.append(reason)
        server.should_exit = True

    def ready() -> None:
        models = ", ".join(artifact.manifest.name for artifact in registry)
        devices = ", ".join(settings.device)
        with suppress(OSError):  # nobody reads our stdout any more: no reason to stop serving
            typer.echo(f"Hindsight is ready: {_url(listener)} (models: {models}; devices: {devices})")

    app = create_app(settings, registry, Hooks(ready, start_failed))
    config = uvicorn.Config(
        app,
        http=guarded_protocol(Limits.of(settings), app.state.metrics),
        ws="none",  # else it would depend on what else is installed
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout)),
    )
    server = uvicorn.Server(config)
    # uvicorn raises the signal that stopped it again when it is done; a stop that was asked for is not
    # a failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])
    return failure[0] if failure else None


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
