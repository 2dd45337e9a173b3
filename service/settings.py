"""Every knob of the service in one place: environment variables `HINDSIGHT_*`, overridden by the flags of
`hindsight serve`.
"""

from typing import Annotated, Literal, Self

from pydantic import DirectoryPath, Field, field_validator, model_validator
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
    max_images: int = Field(default=64, ge=1)
    """Images in one request."""
    body_timeout: float = Field(default=60.0, gt=0)
    """Time a client has to send its whole body."""
    max_buffered_bytes: int = Field(default=512_000_000, ge=1)
    """Bodies held in memory at once, all requests together."""
    max_decoded_bytes: int = Field(default=2_000_000_000, ge=1)
    """Memory for images from decoding until their answer, all requests together, by what their headers say.
    An image waits for its share before it is decoded.
    """
    decode_threads: int = Field(default=2, ge=1)

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
