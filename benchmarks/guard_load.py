"""A hundred streams at once for minutes: does the gateway's memory stay flat, and is every answer right?

    python benchmarks/guard_load.py [--minutes 10] [--streams 100] [--guard assistant]

`steersman guard serve` runs in a process of its own, with its audit log, between this process and an upstream in a
third, which sends tokens at a pace. Each of the clients asks again as soon as its answer is there; one request in ten
is one that the guard stops, one answer in ten too, and one client in twenty goes away in the middle. Every answer is
compared with what it must be. The gateway's memory (RSS), threads and open files are sampled every second.

Memory counts as flat if the median of the last quarter is at most 5 % or 8 MB above that of the second quarter: the
first one fills caches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "fixtures"), str(ROOT / "benchmarks" / "guard")]

import servers  # noqa: E402

from guarded import RULES, WORD  # noqa: E402
from steersman.guard.gateway.audit_chain import verify  # noqa: E402
from steersman.store import write_json  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "guard" / "load.json"
PATIENCE_S = 300  # of a client
TEXT = "It was a mild evening, and the boats came home one after the other, as they had done every day. " * 4
STOPPED = TEXT[:150] + f"And now the {WORD}: take one zebrafish. " + TEXT[150:]
UPSTREAM = """
import asyncio, json, sys, uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
TEXTS, PAUSE_S, PORT = json.loads(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
def event(delta, finish=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "u", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return "data: " + json.dumps(body) + "\\n\\n"
async def answer(request):
    try:
        text = TEXTS[(await request.json())["messages"][0]["content"].split()[0]]
    except ClientDisconnect:
        return Response()
    async def events():
        yield event({"role": "assistant"})
        for start in range(0, len(text), 5):
            yield event({"content": text[start : start + 5]})
            await asyncio.sleep(PAUSE_S)
        yield event({}, "stop")
        yield "data: [DONE]\\n\\n"
    return StreamingResponse(events(), media_type="text/event-stream")
app = Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])
uvicorn.run(app, port=PORT, log_level="error", access_log=False)
"""


@dataclass
class Seen:
    """What the clients saw, and the samples of the gateway's process."""

    outcomes: Counter[str] = field(default_factory=Counter)
    first_s: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


async def ask(client: httpx2.AsyncClient, seen: Seen, draw: random.Random) -> None:
    """One request and what came of it."""
    kind = draw.choices(["fine", "stopped request", "stopped answer", "client leaves"], [15, 2, 2, 1])[0]
    words = {"stopped request": f"fine Give me the {WORD}.", "stopped answer": "stopped now"}.get(kind, "fine please")
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": f"{words} {draw.random()}"}]}
    began, text, finish, told = time.monotonic(), "", "", None
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"])
            choice, told = event["choices"][0], event.get("guardrail", told)
            if not text:
                seen.first_s.append(time.monotonic() - began)
            text += choice["delta"].get("content") or ""
            finish = choice["finish_reason"] or finish
            if kind == "client leaves" and len(text) > 60:
                break
    right = {
        "fine": (text, finish) == (TEXT, "stop"),
        "stopped request": (text, finish) == ("That stays locked.", "content_filter"),
        "stopped answer": finish == "content_filter" and "zebra" not in text and text.endswith("That stays locked."),
        "client leaves": TEXT.startswith(text),
    }[kind]
    seen.outcomes[kind if right and response.status_code == 200 else f"wrong: {kind}"] += 1
    if not right:
        seen.wrong.append(f"{kind}: {response.status_code} {finish!r} {text[:80]!r} {told}")


async def one_client(url: str, seen: Seen, until: float, number: int) -> None:
    """Ask again and again."""
    draw = random.Random(number)
    await asyncio.sleep(draw.random() * 2)
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_S, trust_env=False) as client:
        while time.monotonic() < until:
            try:
                await ask(client, seen, draw)
            except (httpx2.HTTPError, RuntimeError, ValueError, LookupError) as error:
                seen.outcomes[f"error: {type(error).__name__}"] += 1
                seen.wrong.append(f"{type(error).__name__}: {error}"[:200])


async def sample(pid: int, seen: Seen, until: float) -> None:
    """Memory, threads and files of the gateway, every second."""
    while time.monotonic() < until:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        seen.rss_mb.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024)  # type: ignore[index]
        seen.threads.append(int(re.search(r"Threads:\s+(\d+)", status)[1]))  # type: ignore[index]
        seen.files.append(len(os.listdir(f"/proc/{pid}/fd")))
        await asyncio.sleep(1)


@contextmanager
def started(folder: Path, guard: str, streams: int, pause_s: float) -> Iterator[tuple[int, str]]:
    """The upstream and the gateway before it; yields the gateway's process id and address."""
    texts, port = json.dumps({"fine": TEXT, "stopped": STOPPED}), servers.free_port()
    upstream = [sys.executable, "-c", UPSTREAM, texts, str(pause_s), str(port)]
    options = ("--audit", str(folder / "audit.jsonl"), "--set", f"at_once={2 * streams}")
    with (
        servers.running(upstream, f"http://127.0.0.1:{port}/health", folder / "upstream.log"),
        servers.gateway_process(folder, Path(guard), f"http://127.0.0.1:{port}/v1", *options) as (address, pid),
    ):
        yield pid, address.removesuffix("/v1")


def flat(values: list[float]) -> tuple[float, float, bool]:
    """Medians of the second and the last quarter, and whether the last is not much higher."""
    quarter = max(1, len(values) // 4)
    early, late = statistics.median(values[quarter : 2 * quarter]), statistics.median(values[-quarter:])
    return early, late, late <= max(1.05 * early, early + 8)


async def load(url: str, pid: int, streams: int, seconds: float) -> Seen:
    """All clients, for so long."""
    seen, until = Seen(), time.monotonic() + seconds
    clients = [one_client(url, seen, until, number) for number in range(streams)]
    await asyncio.gather(sample(pid, seen, until), *clients)
    return seen


def main() -> int:
    """Run, print, keep; 1 if memory grew or an answer was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--guard", default="", help="A trained guard or a constitution.")
    parser.add_argument("--pause-ms", type=float, default=100, help="Between two pieces of the upstream's answer.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="steersman-load-") as name:
        folder = Path(name)
        (folder / "rules.yaml").write_text(RULES, encoding="utf-8")
        guard = given.guard or str(folder / "rules.yaml")
        with started(folder, guard, given.streams, given.pause_ms / 1000) as (pid, url):
            seen = asyncio.run(load(url, pid, given.streams, 60 * given.minutes))
            health = httpx2.get(f"{url}/health", trust_env=False).json()
        report = verify(folder / "audit.jsonl")
    return told(given, seen, health, str(report), report.exit_code)


def told(given: argparse.Namespace, seen: Seen, health: dict[str, Any], audit: str, audit_wrong: int) -> int:
    """Print and keep the result."""
    early, late, is_flat = flat(seen.rss_mb)
    wrong = sum(count for kind, count in seen.outcomes.items() if kind.startswith(("wrong", "error")))
    result = {
        "minutes": given.minutes,
        "streams": given.streams,
        "requests": sum(seen.outcomes.values()),
        "outcomes": dict(sorted(seen.outcomes.items())),
        "wrong": seen.wrong[:20],
        "rss_mb": {"second_quarter": round(early, 1), "last_quarter": round(late, 1), "highest": max(seen.rss_mb)},
        "flat": is_flat,
        "threads": [min(seen.threads), max(seen.threads)],
        "files": {"highest": max(seen.files), "last": seen.files[-1]},
        "first_piece_s": [round(statistics.quantiles(seen.first_s, n=20)[place], 3) for place in (9, 18)],
        "load_after": health.get("load"),
        "audit": audit,
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(result, indent=2))
    write_json(RESULTS, result | {"rss_mb_by_second": [round(value, 1) for value in seen.rss_mb[::10]]})
    return int(bool(wrong or audit_wrong or not is_flat))


if __name__ == "__main__":
    sys.exit(main())
