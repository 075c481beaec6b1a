"""Starts and stops the servers of these benchmarks, each a process of its own on loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], health: str, log: Path, seconds: float = 300.0) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers at ``health``; it is terminated at the end.

    Raises:
        SystemExit: it ended or did not answer in time; its log is named.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            _wait(process, health, log, seconds)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], health: str, log: Path, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"{process.args} ended with {process.returncode}: see {log}")
        try:
            with urllib.request.urlopen(health, timeout=2):
                return
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{process.args} did not answer at {health} within {seconds:.0f} s: see {log}")


@contextlib.contextmanager
def oracle(work: Path, *options: str, python: str = sys.executable) -> Iterator[str]:
    """The test upstream; yields its address, such as http://127.0.0.1:8811/v1."""
    port = free_port()
    command = [python, str(HERE / "oracle.py"), "--port", str(port), *options]
    with running(command, f"http://127.0.0.1:{port}/health", work / f"oracle-{port}.log"):
        yield f"http://127.0.0.1:{port}/v1"


@contextlib.contextmanager
def gateway(work: Path, guard: Path, upstream: str, *options: str) -> Iterator[str]:
    """`steersman guard serve` in front of an upstream; yields its address."""
    with gateway_process(work, guard, upstream, *options) as (address, _):
        yield address


@contextlib.contextmanager
def gateway_process(work: Path, guard: Path, upstream: str, *options: str) -> Iterator[tuple[str, int]]:
    """`gateway`, with the id of its process."""
    port = free_port()
    command = [sys.executable, "-m", "steersman", "guard", "serve", str(guard), "--upstream", upstream]
    command += ["--port", str(port), *options]
    with running(command, f"http://127.0.0.1:{port}/health", work / f"gateway-{port}.log") as process:
        yield f"http://127.0.0.1:{port}/v1", process.pid


def machine() -> dict[str, object]:
    """What a figure depends on."""
    import platform

    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {"cpu": model, "cores": os.cpu_count(), "load_average": [round(x, 2) for x in os.getloadavg()]}
