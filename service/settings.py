"""Every knob of the service in one place. service/config.py reads them from a file, the environment and the
flags of `hindsight serve`; the docstrings are the texts of the table in docs/operations.md.
"""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import DirectoryPath, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

LogLevel = Literal["debug", "info", "warning", "error"]
ENVIRONMENT_PREFIX = "HINDSIGHT_"

# The first setting of each group, in the order of the class: how --show-config and the table are divided.
GROUPS = {
    "host": "Where it listens",
    "tls_certificate": "TLS",
    "keys_file": "Access",
    "model": "Models and devices",
    "max_queue": "Queue and time",
    "max_body_bytes": "Limits",
    "log_level": "Logs and traces",
}


class Settings(BaseSettings):
    """Immutable; times in seconds, sizes in bytes. Lists are comma-separated in the environment
    (`HINDSIGHT_MODEL=cells,other`); an empty variable counts as none.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` and `::` are every address of the machine."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port; 0 picks a free one."""
    admin_host: str = "127.0.0.1"
    """Address of the admin port."""
    admin_port: int | None = Field(default=None, ge=0, le=65535)
    """A second port for metrics and the loading of models, which `port` then no longer has."""
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    """Addresses or networks whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed."""

    tls_certificate: Path | None = None
    """PEM file with the certificate and its chain: serve HTTPS, on both ports."""
    tls_key: Path | None = None
    """PEM file with its private key, where the certificate's file does not hold it."""
    tls_key_password: SecretStr | None = None
    """Password of an encrypted private key."""
    tls_client_ca: Path | None = None
    """PEM file of authorities: only clients with a certificate of one of them may connect."""
    hsts_seconds: int = Field(default=31_536_000, ge=0)
    """How long browsers are told, over HTTPS, to use nothing else; 0 says nothing."""

    keys_file: Path | None = None
    """File of API keys, made by `hindsight keys create`: every route but health and the page needs one."""
    anonymous: bool = False
    """With a keys file: requests without a key may detect and rescore, too."""
    cors_origin: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins (`https://example.org`) whose pages may call this server from a browser."""

    model: Annotated[tuple[str, ...], NoDecode] = Field(default=("cells",), min_length=1)
    """Names or folders of models; the first is the default."""
    model_repository: Path | None = None
    """Folder of models, NAME/ or NAME/VERSION/: the newest version of each is served too, and `model` may be
    a name in it or NAME@VERSION (docs/models.md).
    """
    skip_bad_models: bool = False
    """Start without the models of the folder that cannot be used, instead of not at all."""
    backend: str = "onnxruntime"
    """Runtime: `onnxruntime`, `torch:OPTIONS`, `tensorrt:OPTIONS` or `sleep:MS`."""
    device: Annotated[tuple[str, ...], NoDecode] = Field(default=("cpu",), min_length=1)
    """`cpu`, `cuda` or `cuda:N`; one worker process each."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of one execution; the runtime's own choice if left out."""

    max_queue: int = Field(default=256, ge=1)
    """Images admitted and not yet running. The last quarter is for clients that have none waiting yet, and
    the quarter before it for single images: see service/admission.py.
    """
    max_queue_seconds: float = Field(default=1.0, gt=0)
    """A request is refused with 503 when it would wait longer than this for work that comes before it (or
    longer than its own work takes, if that is more). By measured service time.
    """
    timeout: float = Field(default=30.0, gt=0)
    """From the first byte of a request to the start of each of its images: what has not begun to run by then
    is answered 504, unexecuted. A client may ask for another time in X-Request-Timeout.
    """
    max_timeout: float = Field(default=120.0, gt=0)
    """The most that X-Request-Timeout can ask for."""
    max_batch: int = Field(default=8, ge=1)
    """Images in one batch."""
    batch_work_seconds: float = Field(default=0.150, gt=0)
    """Work that one CPU batch may hold, by measured service time."""
    hang_timeout: float = Field(default=30.0, gt=0)
    """A worker silent for this long on one batch is killed and restarted."""
    start_timeout: float = Field(default=120.0, gt=0)
    """A worker that shows no progress for this long while it loads and warms up is killed. Progress is a next
    step, processor time used or something read.
    """
    start_limit: float = Field(default=3600.0, gt=0)
    """A worker that is not up after this long is killed, at work or not."""
    restart_delay: float = Field(default=0.2, gt=0)
    """First pause before a lost worker is replaced; doubles with each quick loss, up to 30 s."""
    shutdown_timeout: float = Field(default=30.0, gt=0)
    """Time running requests have after SIGTERM."""
    drain_delay: float = Field(default=0.0, ge=0)
    """Time between SIGTERM, when /readyz turns 503, and the end of accepting: load balancers notice in it."""

    max_body_bytes: int = Field(default=50_000_000, ge=1)
    """Size of one request's body."""
    max_pixels: int = Field(default=50_000_000, ge=1)
    """Pixels of one image, read from its header before anything is decoded."""
    max_images: int = Field(default=64, ge=1)
    """Images in one request, each tile of a large one counted."""
    body_timeout: float = Field(default=60.0, gt=0)
    """Time a client has to send its whole body."""
    min_body_rate: float = Field(default=240.0, ge=0)
    """Bytes per second that a body must come with on average, after its first 5 seconds."""
    max_buffered_bytes: int = Field(default=512_000_000, ge=1)
    """Bodies held in memory at once, all requests together."""
    max_decoded_bytes: int = Field(default=2_000_000_000, ge=1)
    """Memory for images from decoding until their answer, all requests together, by what their headers say.
    An image waits for its share before it is decoded.
    """
    decode_threads: int = Field(default=2, ge=1)
    """Threads that decode and scale images."""

    media_root: DirectoryPath | None = None
    """The one folder from which Label Studio's tasks may name images; none: data URIs only."""
    label_studio_max_tasks: int = Field(default=256, ge=1)
    """Tasks in one request of Label Studio."""

    grpc_port: int | None = Field(default=None, ge=0, le=65535)
    """KServe V2 over gRPC on this port of the same host; none: no gRPC. 0 picks a free one."""
    grpc_max_message_bytes: int = Field(default=16_000_000, ge=1)
    """gRPC holds a message whole before anybody may refuse it: times grpc_max_calls, the most it holds."""
    grpc_max_calls: int = Field(default=64, ge=1)
    """Calls under way at once; more are refused."""

    max_connections: int = Field(default=1000, ge=1)
    """Open at once; fewer where the process may not open so many files. A new one closes the oldest idle one;
    where none is idle, it is refused with 503.
    """
    max_connections_per_peer: int | None = Field(default=None, ge=1)
    """Of one address. Leave it out behind a proxy, whose address all clients share."""
    header_timeout: float = Field(default=10.0, gt=0)
    """Time a client has to send a request's headers, and to begin its first request."""
    keep_alive_timeout: float = Field(default=5.0, gt=0)
    """Time between an answer and the next request on its connection."""
    write_timeout: float = Field(default=30.0, gt=0)
    """A client that reads nothing of its answer for this long is cut off."""
    max_header_bytes: int = Field(default=32_768, ge=1024)
    """All headers of a request; more is answered with 431."""

    log_level: LogLevel = "info"
    """Least level of the log lines: `debug` (with probes), `info`, `warning` or `error`."""
    slow_request: float = Field(default=5.0, gt=0)
    """A request that takes longer is logged as a warning, with `slow`."""
    traces: bool = False
    """Send OpenTelemetry traces; the standard `OTEL_*` variables say where. Needs the extra `otel`."""

    @property
    def named_models(self) -> tuple[str, ...]:
        """`model`; none where a folder of models is given and no name."""
        if self.model_repository is not None and "model" not in self.model_fields_set:
            return ()
        return self.model

    @field_validator("model", "device", "trusted_proxies", "cors_origin", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            ipaddress.ip_network(each)  # a name or `*` would be believed from anywhere
        return value

    @field_validator("cors_origin")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            parts = urlsplit(each)
            if parts.scheme not in {"http", "https"} or each != f"{parts.scheme}://{parts.netloc}":
                raise ValueError(
                    f"{each!r} is not an origin such as https://example.org; there is no wildcard"
                )
        return value

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if self.tls_certificate is None:
            for name in ("tls_key", "tls_client_ca"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} needs tls_certificate as well")
        if self.anonymous and self.keys_file is None:
            raise ValueError("anonymous needs keys_file: without one, nobody needs a key")
        if self.admin_port is not None and self.admin_port == self.port != 0:
            raise ValueError(f"admin_port and port are both {self.port}; they must differ")
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_images > self.max_queue:
            raise ValueError(
                f"max_images ({self.max_images}) is larger than max_queue ({self.max_queue}), "
                "so a full request could never be admitted: raise --max-queue or lower HINDSIGHT_MAX_IMAGES"
            )
        if self.timeout > self.max_timeout:
            raise ValueError(
                f"timeout ({self.timeout:g} s) is longer than max_timeout ({self.max_timeout:g} s)"
            )
        if self.max_buffered_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_buffered_bytes ({self.max_buffered_bytes}) is smaller than "
                f"max_body_bytes ({self.max_body_bytes})"
            )
        return self
