"""OpenTelemetry traces, if the operator names where they go: an extra, ``steersman[otel]``, imported only then.

Nothing is sent anywhere unless ``endpoint`` is given, and then to that address alone. Spans hold what the audit log
holds (tenant, model, side, decision, principle, rail, milliseconds) and never text.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from steersman.errors import UserError

Value = str | int | float | bool


class Span(Protocol):
    """One step of a request."""

    def set(self, **attributes: Value) -> None:
        """Add attributes."""
        ...


class Tracer:
    """Makes no spans: the tracer of a gateway that was not asked to trace."""

    @contextmanager
    def span(self, name: str, **attributes: Value) -> Iterator[Span]:
        """One step, from its beginning to its end; within another one it is that one's child."""
        yield _Nothing()

    def close(self) -> None:
        """Send what waits."""
        return


class _Nothing:
    def set(self, **attributes: Value) -> None:
        return


class _OpenTelemetry(Tracer):
    """Sends spans by OTLP over HTTP."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("steersman.guard")

    @contextmanager
    def span(self, name: str, **attributes: Value) -> Iterator[Span]:
        """See `Tracer`. An error is named by its class: its text may quote a prompt."""
        with self._tracer.start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield _Real(span)
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                raise

    def close(self) -> None:
        """See `Tracer`."""
        self._provider.shutdown()


class _Real:
    def __init__(self, span: Any) -> None:
        self._span = span

    def set(self, **attributes: Value) -> None:
        for name, value in attributes.items():
            self._span.set_attribute(name, value)


def tracing(endpoint: str | None) -> Tracer:
    """The tracer of a gateway.

    Args:
        endpoint: where spans go, such as ``http://127.0.0.1:4318/v1/traces``; None: nowhere, and nothing is imported.

    Raises:
        UserError: the extra is not installed, or the endpoint is no address.
    """
    if endpoint is None:
        return Tracer()
    if not endpoint.startswith(("http://", "https://")):
        raise UserError(f"{endpoint[:80]!r} is no address", where="--traces", expected="http://HOST:PORT/v1/traces")
    try:
        sdk = importlib.import_module("opentelemetry.sdk.trace")
        export = importlib.import_module("opentelemetry.sdk.trace.export")
        resources = importlib.import_module("opentelemetry.sdk.resources")
        otlp = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError:
        raise UserError(
            "traces need OpenTelemetry, which is not installed", where="--traces", do="pip install 'steersman[otel]'"
        ) from None
    provider = sdk.TracerProvider(
        resource=resources.Resource({"service.name": "steersman-guard"}), shutdown_on_exit=False
    )
    provider.add_span_processor(export.BatchSpanProcessor(otlp.OTLPSpanExporter(endpoint=endpoint)))
    return _OpenTelemetry(provider)
