"""`hindsight serve`."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hindsight.commands.console import fail, output

if TYPE_CHECKING:
    from service.listeners import Listeners
    from service.registry import ModelRegistry
    from service.settings import Settings

_SAFETY = "Who may call it"
_SETTINGS = "Settings"


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. (default: 127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one. (default: 8000)")] = None,
    grpc_port: Annotated[
        int | None,
        typer.Option(help="KServe V2 over gRPC on this port; 0 picks a free one. (default: off)"),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or folder of a model; repeatable, the first is the default. (default: cells)"
        ),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(
            "--models",
            "--model-repository",
            help="Folder of models, NAME/ or NAME/VERSION/: the newest version of each is served; --model "
            "may be a name in it or NAME@VERSION.",
        ),
    ] = None,
    skip_bad_models: Annotated[
        bool | None,
        typer.Option("--skip-bad-models", help="Start without the models of --models that cannot be used."),
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
        int | None, typer.Option(help="Images that may wait; more get 503. (default: 256)")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds from a request's first byte to the start of its images; "
            "later ones get 504. (default: 30)"
        ),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error. (default: info)")
    ] = None,
    keys_file: Annotated[
        Path | None,
        typer.Option(help="API keys; `hindsight keys create` makes the file.", rich_help_panel=_SAFETY),
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="PEM file of the certificate: serve HTTPS.", rich_help_panel=_SAFETY)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="PEM file of its private key.", rich_help_panel=_SAFETY)
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(help="PEM file: only clients with a certificate of these.", rich_help_panel=_SAFETY),
    ] = None,
    admin_port: Annotated[
        int | None,
        typer.Option(help="Second port for metrics and the loading of models.", rich_help_panel=_SAFETY),
    ] = None,
    admin_host: Annotated[
        str | None, typer.Option(help="Its address. (default: 127.0.0.1)", rich_help_panel=_SAFETY)
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin whose pages may call this server; repeatable.", rich_help_panel=_SAFETY),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file of settings; $HINDSIGHT_CONFIG.", rich_help_panel=_SETTINGS),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any setting by its name; repeatable.",
            rich_help_panel=_SETTINGS,
        ),
    ] = None,
    show_config: Annotated[
        bool,
        typer.Option(
            "--show-config",
            help="Print every setting, its value and where it comes from, and end.",
            rich_help_panel=_SETTINGS,
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --show-config: as JSON.", rich_help_panel=_SETTINGS)
    ] = False,
) -> None:
    """Serve models over HTTP, with a page at /. A setting comes from its flag, else from the environment
    (HINDSIGHT_PORT), else from the file; docs/operations.md lists all of them.
    """
    # Heavy imports wait until the command is called.
    from hindsight.errors import HindsightError
    from hindsight.runtime import check_runtime_name
    from service.config import read_configuration
    from service.config_show import configuration_json, configuration_table
    from service.listeners import listen
    from service.logs import configure_logging
    from service.registry import load_models

    flags = {
        "host": host,
        "port": port,
        "grpc_port": grpc_port,
        "model": tuple(model) if model else None,
        "model_repository": models,
        "skip_bad_models": skip_bad_models,
        "backend": backend,
        "device": tuple(device) if device else None,
        "threads": threads,
        "max_queue": max_queue,
        "timeout": timeout,
        "log_level": log_level,
        "keys_file": keys_file,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
        "tls_client_ca": tls_client_ca,
        "admin_port": admin_port,
        "admin_host": admin_host,
        "cors_origin": tuple(cors_origin) if cors_origin else None,
    }
    try:
        configuration = read_configuration(flags, assignments or (), config)
        if show_config:
            if as_json:
                typer.echo(configuration_json(configuration))
            else:
                output().print(configuration_table(configuration))
            return
        if as_json:
            fail("--json goes with --show-config")
        settings = configuration.settings
        check_runtime_name(settings.backend)
        registry = load_models(
            settings.named_models, settings.model_repository, skip_bad=settings.skip_bad_models
        )
        listeners = listen(settings)
        if settings.grpc_port is not None:
            _check_grpc(settings, settings.grpc_port)
        configure_logging(settings.log_level)
        failure = _run(settings, registry, listeners)
    except HindsightError as error:
        fail(str(error))
    if failure is not None:
        fail(failure)


def _check_grpc(settings: "Settings", port: int) -> None:
    """gRPC takes no socket from us, so what would go wrong later is told now."""
    from hindsight.extras import install_extra
    from service.listeners import listen_on

    # Its own messages on stderr are not JSON; what it has to say reaches the client as a status.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from service.kserve.grpc_tls import grpc_certificate
    except ImportError as error:
        fail(f"--grpc-port needs a package that is missing ({error}): {install_extra('grpc')}")
    grpc_certificate(settings)
    if port:
        listen_on(settings.host, port, port_flag="grpc-port").close()


def _run(settings: "Settings", registry: "ModelRegistry", listeners: "Listeners") -> str | None:
    """Serve until SIGTERM or Ctrl-C; -> the reason if the workers never came up."""
    import uvicorn

    from service.allocator import tune_malloc
    from service.app import Hooks, create_app
    from service.connections import Limits
    from service.http_protocol import guarded_protocol
    from service.listeners import url_of, warn_of_exposure
    from service.native_noise import silence_image_readers
    from service.server import Server
    from service.tls import renew, server_context

    tune_malloc()
    silence_image_readers()
    failure: list[str] = []
    tls = server_context(settings)

    def start_failed(reason: str) -> None:
        failure.append(reason)
        server.should_exit = True

    def ready() -> None:
        models = ", ".join(registry.names)
        devices = ", ".join(settings.device)
        url = url_of(listeners.public, tls=tls is not None)
        admin = listeners.admin
        more = "" if admin is None else f"; admin: {url_of(admin, tls=tls is not None)}"
        grpc_port = getattr(app.state, "grpc_port", None)
        more += "" if grpc_port is None else f"; gRPC port: {grpc_port}"
        with suppress(OSError):  # nobody reads our stdout any more: no reason to stop serving
            typer.echo(f"Hindsight is ready: {url} (models: {models}; devices: {devices}{more})")

    def read_again() -> None:
        if app.state.access.ring is not None:
            app.state.access.ring.reload()
        if tls is not None and renew(tls, settings) and app.state.grpc_server is not None:
            app.state.grpc_server.certificate.renew()

    def drain() -> None:
        app.state.requests.draining = True

    async def abandon() -> None:
        await app.state.services.control.stop()
        await app.state.services.batcher.stop()

    async def stop_grpc() -> None:
        if app.state.grpc_server is not None:
            await app.state.grpc_server.stop(settings.shutdown_timeout)

    app = create_app(settings, registry, Hooks(ready, start_failed))
    app.state.access.admin_port = listeners.admin_port
    warn_of_exposure(settings, listeners)
    if app.state.access.ring is not None:
        app.state.access.ring.warn_of_writers()
    config = uvicorn.Config(
        app,
        http=guarded_protocol(Limits.of(settings), app.state.metrics),
        ws="none",  # else it would depend on what else is installed
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
    )
    config.load()
    config.ssl = tls
    server = Server(
        config,
        drain_delay=settings.drain_delay,
        limit=settings.shutdown_timeout,
        on_drain=drain,
        abandon=abandon,
        stop_others=stop_grpc,
        # Where there is nothing to read again, a closed terminal still ends the server.
        on_hangup=read_again if settings.keys_file is not None or tls is not None else None,
    )
    # uvicorn raises the signal that stopped it again when it is done; a stop that was asked for is not
    # a failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run(sockets=listeners.sockets)
    return failure[0] if failure else None
