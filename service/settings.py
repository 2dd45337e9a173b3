"""Every knob of the service in one place: environment variables `HINDSIGHT_*`, overridden by the flags of
`hindsight serve`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

LogLevel = Literal["debug", "info", "warning", "error"]


class Settings(BaseSettings):
    """Immutable; times in seconds, sizes in bytes. Lists are comma-separated in the environment
    (`HINDSIGHT_MODEL=cells,other`).
    """

    model_config = SettingsConfigDict(
        env_prefix="HINDSIGHT_", frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    model: Annotated[tuple[str, ...], NoDecode] = Field(default=("cells",), min_length=1)
    """Names or folders of artifacts; the first is the default model."""
    backend: str = "onnxruntime"
    device: Annotated[tuple[str, ...], NoDecode] = Field(default=("cpu",), min_length=1)
    """One worker process per device."""
    threads: int | None = Field(default=None, ge=1)
    log_level: LogLevel = "info"

    max_queue: int = Field(default=64, ge=1)
    """Images admitted and not yet running; the next one is refused with 503."""
    timeout: float = Field(default=10.0, gt=0)
    """An image that has not started to run this long after its request was read is answered 504, unexecuted.
    """
    max_batch: int = Field(default=8, ge=1)
    batch_work_seconds: float = Field(default=0.150, gt=0)
    """Work that one CPU batch may hold, by measured service time."""
    hang_timeout: float = Field(default=30.0, gt=0)
    """A worker silent for this long on one batch is killed and restarted."""
    start_timeout: float = Field(default=120.0, gt=0)
    """Time a worker has to load and warm up."""
    restart_delay: float = Field(default=0.2, gt=0)
    """First pause before a lost worker is replaced; doubles with each quick loss, up to 30 s."""
    shutdown_timeout: float = Field(default=30.0, gt=0)
    """Time running requests have after SIGTERM."""

    max_body_bytes: int = Field(default=50_000_000, ge=1)
    max_pixels: int = Field(default=50_000_000, ge=1)
    max_images: int = Field(default=16, ge=1)
    """Images in one request."""
    body_timeout: float = Field(default=60.0, gt=0)
    """Time a client has to send its whole body."""
    min_body_rate: float = Field(default=240.0, ge=0)
    """Bytes per second that a body must come with on average, after its first 5 seconds."""
    max_buffered_bytes: int = Field(default=512_000_000, ge=1)
    """Bodies held in memory at once, all requests together."""
    decode_threads: int = Field(default=2, ge=1)

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

    @field_validator("model", "device", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_images > self.max_queue:
            raise ValueError(
                f"max_images ({self.max_images}) is larger than max_queue ({self.max_queue}), "
                "so a full request could never be admitted: raise --max-queue or lower HINDSIGHT_MAX_IMAGES"
            )
        if self.max_buffered_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_buffered_bytes ({self.max_buffered_bytes}) is smaller than "
                f"max_body_bytes ({self.max_body_bytes})"
            )
        return self
