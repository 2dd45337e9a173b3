"""Prometheus metrics. One registry per app, so that two apps in one process never share counters."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_STAGE_BUCKETS = (
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.035,
    0.05,
    0.075,
    0.1,
    0.15,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
)
_BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 32)


class Metrics:
    """The service's counters; times in seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "hindsight_requests_total",
            "HTTP requests answered",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "hindsight_request_seconds",
            "Whole request, first byte in to last byte out",
            ["route"],
            buckets=_STAGE_BUCKETS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "hindsight_stage_seconds",
            "One image in one stage",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=self.registry,
        )
        self.images = Counter(
            "hindsight_images_total", "Images answered", ["model", "operation"], registry=self.registry
        )
        self.queue_depth = Gauge(
            "hindsight_queue_depth", "Images admitted and not yet running", registry=self.registry
        )
        self.batch_size = Histogram(
            "hindsight_batch_size",
            "Images in one batch",
            ["device"],
            buckets=_BATCH_BUCKETS,
            registry=self.registry,
        )
        self.drops = Counter(
            "hindsight_drops_total", "Images dropped before they ran", ["reason"], registry=self.registry
        )
        self.connections = Gauge("hindsight_connections", "Connections open", registry=self.registry)
        self.refused = Counter(
            "hindsight_refused_total",
            "Connections ended, and requests refused, before any route saw them",
            ["reason"],
            registry=self.registry,
        )
        self.worker_ready = Gauge(
            "hindsight_worker_ready",
            "1 while the device's worker is ready",
            ["device"],
            registry=self.registry,
        )
        self.worker_restarts = Counter(
            "hindsight_worker_restarts_total",
            "Workers lost, by cause",
            ["device", "cause"],
            registry=self.registry,
        )

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)
