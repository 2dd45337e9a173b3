"""Traces: the W3C `traceparent` of every request, and OpenTelemetry spans where they are switched on.

Without the extra `otel` nothing of OpenTelemetry is imported, and a caller's trace id still reaches the log.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from hindsight.errors import OptionError
from hindsight.extras import install_extra
from hindsight.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_REQUEST_STAGES = ("encode", "draw")  # after the images, in this order

_current: ContextVar["RequestTrace | None"] = ContextVar("hindsight_request_trace", default=None)


def trace_ids(traceparent: str) -> dict[str, str]:
    """`trace_id` and `parent_id` of a traceparent header; empty where it is not one."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or match[1] == "ff" or not match[2].strip("0") or not match[3].strip("0"):
        return {}
    if match[1] == "00" and match[5]:
        return {}
    return {"trace_id": match[2], "parent_id": match[3]}


def record_image(model: str, operation: str, seconds: Mapping[str, float]) -> None:
    """One image is done: `seconds` it spent in each stage, in order, the last of which ended now."""
    trace = _current.get()
    if trace is not None:
        trace.add_image(model, operation, seconds)


class Tracing:
    """OpenTelemetry, switched on: a tracer provider of our own, so that two apps never share one."""

    def __init__(self, exporter: "SpanExporter | None" = None) -> None:
        """exporter: OTLP over HTTP, configured by the OTEL_* variables, if left out. Raises OptionError
        without the extra, and for a variable that makes no sense.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            raise OptionError(f"traces needs {error.name}: {install_extra('otel')}") from None
        ours = Resource({"service.name": "hindsight", "service.version": __version__})
        resource = Resource.create().merge(ours).merge(OTELResourceDetector().detect())
        try:
            self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        except ValueError as error:
            raise OptionError(f"traces: an OTEL_ variable cannot be used ({error})") from None
        self._tracer = self._provider.get_tracer("hindsight", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, method: str, path: str, headers: Mapping[str, str]) -> Iterator["RequestTrace"]:
        """The span of a request, a child of its traceparent if it has one."""
        from opentelemetry.trace import SpanKind

        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        span = self._tracer.start_span(
            method,
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "url.path": path},
        )
        trace = RequestTrace(self._tracer, span)
        token = _current.set(trace)
        try:
            yield trace
        finally:
            _current.reset(token)
            span.end()

    def close(self) -> None:
        """Send what is left. Blocks for as long as the exporter takes, which has its own time limit."""
        self._provider.shutdown()


class RequestTrace:
    """One request's span and those below it. Stages are measured where they happen and become spans here."""

    def __init__(self, tracer: Any, span: "Span") -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span)
        self._begun = time.time_ns()
        context = span.get_span_context()
        self.ids: dict[str, str] = {}
        """For the log; none where OTEL_SDK_DISABLED is set."""
        if context.is_valid:
            self.ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}

    def add_image(self, model: str, operation: str, seconds: Mapping[str, float]) -> None:
        """An `image` span with one span a stage, laid back to back from now. What comes before the first is
        the wait for a thread that decodes.
        """
        if not self._span.is_recording():
            return
        from opentelemetry.trace import set_span_in_context

        end = time.time_ns()
        attributes = {"hindsight.model": model, "hindsight.operation": operation}
        start = end - sum(map(_nanoseconds, seconds.values()))
        image = self._tracer.start_span("image", self._context, attributes=attributes, start_time=start)
        below = set_span_in_context(image)
        for stage, length in seconds.items():
            span = self._tracer.start_span(stage, below, attributes=attributes, start_time=start)
            start += _nanoseconds(length)
            span.end(start)
        image.end(end)

    def finish(
        self, route: str, status: int, stages_ms: Mapping[str, float], facts: Mapping[str, object]
    ) -> None:
        """The request is answered: name its span, and add what was measured of the whole request."""
        from opentelemetry.trace import Status, StatusCode

        span = self._span
        if not span.is_recording():
            return
        span.set_attribute("http.response.status_code", status)
        if route != "unmatched":
            span.update_name(f"{span.name} {route}")  # type: ignore[attr-defined]  # a recording span has it
            span.set_attribute("http.route", route)
        for name, value in facts.items():
            if isinstance(value, str | int | float):
                span.set_attribute(f"hindsight.{name}", value)
        if status >= 500 or status == 0:
            span.set_status(Status(StatusCode.ERROR))
        if "read" in stages_ms:
            self._stage("read body", self._begun, stages_ms["read"])
        end = time.time_ns()
        for stage in reversed([stage for stage in _REQUEST_STAGES if stage in stages_ms]):
            end -= round(stages_ms[stage] * 1e6)
            self._stage(stage, end, stages_ms[stage])

    def _stage(self, name: str, start: int, milliseconds: float) -> None:
        span = self._tracer.start_span(name, self._context, start_time=start)
        span.end(start + round(milliseconds * 1e6))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
