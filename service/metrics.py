"""Prometheus metrics. One registry per app, so that two apps in one process never share counters.

No label ever holds what a client made up: models, devices, stages, reasons, routes and key names are ours.
"""

import platform
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from hindsight.version import __version__

_SECONDS = (
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
    30,
)
M = TypeVar("M", Counter, Gauge, Histogram)
_IMAGES = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
_BYTES = tuple(4**power for power in range(4, 15))  # 256 bytes to 268 MB
_METHODS = {"GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"}


class Metrics:
    """The service's metrics by area; times in seconds, sizes in bytes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._of_models: list[tuple[Counter | Gauge | Histogram, list[str]]] = []
        self._requests()
        self._images()
        self._workers()
        self._keys()
        self._server()

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)

    def forget_model(self, model: str) -> None:
        """Take out what was counted of a model that is gone, or each that ever was would stay for ever. Not
        while anything of it is under way.
        """
        for metric, labels in self._of_models:
            samples = [sample for family in metric.collect() for sample in family.samples]
            for values in {
                tuple(sample.labels[label] for label in labels)
                for sample in samples
                if sample.labels["model"] == model
            }:
                metric.remove(*values)

    def _requests(self) -> None:
        """HTTP, per route: the path's template, or `unmatched`."""
        self.requests = self._counter(
            "hindsight_requests_total", "HTTP requests answered", ["route", "method", "status"]
        )
        self.request_seconds = self._histogram(
            "hindsight_request_seconds", "Whole request, first byte in to last byte out", _SECONDS, ["route"]
        )
        self.request_bytes = self._histogram(
            "hindsight_request_body_bytes", "Body of one request, as far as it was read", _BYTES, ["route"]
        )
        self.response_bytes = self._histogram(
            "hindsight_response_body_bytes", "Body of one answer", _BYTES, ["route"]
        )
        self.requests_in_flight = self._gauge(
            "hindsight_requests_in_flight", "HTTP requests begun and not yet answered"
        )
        self.connections = self._gauge("hindsight_connections", "Connections open")
        self.refused = self._counter(
            "hindsight_refused_total",
            "Connections ended, and requests refused, before any route saw them",
            ["reason"],
        )

    def _images(self) -> None:
        """Images on their way through the service, per model."""
        self.images = self._counter("hindsight_images_total", "Images answered", ["model", "operation"])
        self.stage_seconds = self._histogram(
            "hindsight_stage_seconds", "One image in one stage", _SECONDS, ["model", "stage"]
        )
        self.queue_depth = self._gauge(
            "hindsight_queue_depth", "Images admitted and not yet running", ["model"]
        )
        self.batch_size = self._histogram(
            "hindsight_batch_size", "Images in one batch", _IMAGES, ["model", "device"]
        )
        self.drops = self._counter(
            "hindsight_drops_total", "Images dropped before they ran", ["model", "reason"]
        )
        self.queue_wait = self._gauge(
            "hindsight_queue_wait_seconds", "What one more image would wait, by the measured service time"
        )
        self.bad_outputs = self._counter(
            "hindsight_bad_outputs_total", "Images for which the model answered NaN or infinity", ["model"]
        )
        self.image_memory = self._gauge(
            "hindsight_image_memory_bytes", "Memory held for images between decoding and their answer"
        )

    def _workers(self) -> None:
        """Devices, and the threads that decode."""
        self.worker_ready = self._gauge(
            "hindsight_worker_ready", "1 while the device's worker is ready", ["device"]
        )
        self.worker_restarts = self._counter(
            "hindsight_worker_restarts_total", "Workers lost, by cause", ["device", "cause"]
        )
        self.engine_busy_seconds = self._counter(
            "hindsight_engine_busy_seconds_total",
            "Time the device's worker had a batch; its rate is the utilisation",
            ["device", "model"],
        )
        self.out_of_memory = self._counter(
            "hindsight_out_of_memory_total", "Batches that did not fit into the device's memory", ["device"]
        )
        self.model_changes = self._counter(
            "hindsight_model_changes_total",
            "Models loaded and unloaded while serving, by outcome",
            ["operation", "outcome"],
        )
        self.decode_threads = self._gauge("hindsight_decode_threads", "Threads that decode images")
        self.decode_threads_busy = self._gauge(
            "hindsight_decode_threads_busy", "Threads that are decoding images now"
        )

    def _keys(self) -> None:
        """API keys."""
        self.keys = self._gauge("hindsight_keys", "API keys in force, by role", ["role"])
        self.key_reloads = self._counter(
            "hindsight_key_reloads_total", "Times the keys file was read again", ["outcome"]
        )
        self.key_rejections = self._counter(
            "hindsight_key_rejections_total", "Requests refused for want of a right key", ["reason"]
        )
        self.rate_limited = self._counter(
            "hindsight_rate_limited_total", "Requests refused by their key's rate limit", ["key"]
        )

    def _server(self) -> None:
        """The server process itself (not its workers): memory, CPU, open files, start time, build."""
        ProcessCollector(registry=self.registry)
        build = self._gauge(
            "hindsight_build_info", "Always 1; its labels say what runs", ["version", "python"]
        )
        build.labels(__version__, platform.python_version()).set(1)

    def _counter(self, name: str, meaning: str, labels: list[str] | None = None) -> Counter:
        return self._noted(Counter(name, meaning, labels or (), registry=self.registry), labels)

    def _gauge(self, name: str, meaning: str, labels: list[str] | None = None) -> Gauge:
        return self._noted(Gauge(name, meaning, labels or (), registry=self.registry), labels)

    def _histogram(
        self, name: str, meaning: str, buckets: tuple[float, ...], labels: list[str] | None = None
    ) -> Histogram:
        histogram = Histogram(name, meaning, labels or (), buckets=buckets, registry=self.registry)
        return self._noted(histogram, labels)

    def _noted(self, metric: M, labels: list[str] | None) -> M:
        if labels is not None and "model" in labels:
            self._of_models.append((metric, labels))
        return metric


def method_label(method: str) -> str:
    """The method of a request; one of a few, whatever a client sends."""
    return method if method in _METHODS else "other"
