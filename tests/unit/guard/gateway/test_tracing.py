"""Traces: off unless asked for, imported late, sent to the named address alone, without text."""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from steersman.errors import UserError
from steersman.guard.gateway.tracing import tracing


def test_nothing_is_imported_unless_asked_for() -> None:
    code = """
import sys
from steersman.guard.gateway.tracing import tracing
with tracing(None).span("guard.input", tenant="t") as span:
    span.set(decision="allow")
print([name for name in sys.modules if "opentelemetry" in name])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("endpoint", ["", "127.0.0.1:4318", "ftp://x"])
def test_what_is_no_address_is_refused(endpoint: str) -> None:
    with pytest.raises(UserError, match="no address"):
        tracing(endpoint)


def test_without_the_extra_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(UserError, match="not installed") as caught:
        tracing("http://127.0.0.1:1/v1/traces")
    assert "steersman[otel]" in str(caught.value)


def test_spans_reach_the_named_address_and_hold_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")  # another's setting does not win
    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    tracer = tracing(f"http://127.0.0.1:{server.server_port}/v1/traces")

    def traced() -> None:
        with tracer.span("guard.request", tenant="acme") as outer:
            outer.set(decision="block")
            with tracer.span("guard.input"):
                raise ValueError("the secret prompt")

    with pytest.raises(ValueError, match="secret"):
        traced()
    tracer.close()
    server.shutdown()
    thread.join()
    server.server_close()
    assert [path for path, _ in received] == ["/v1/traces"]
    assert all(word in received[0][1] for word in (b"guard.request", b"guard.input", b"acme", b"ValueError"))
    assert b"secret" not in received[0][1]
