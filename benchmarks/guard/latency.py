"""Milliseconds that the guard and its proxy add, beside LiteLLM's proxy, in one run on one machine.

    python benchmarks/guard/latency.py --guard FOLDER --litellm LITELLM-PROGRAM [--rounds 3] [--seconds 5]

check    the guard alone, in this process: a request of 300 tokens and an exchange with an answer of 300 tokens, by
         words alone and with the probe
proxy    requests without streaming to an upstream that answers at once, with 1, 16 and 64 clients: directly, through
         our gateway, through our gateway with no rail (if `--bare-guard` names such a guard), through LiteLLM's proxy.
         The arms take turns (A/B/C/A/B/C), each for `--seconds`, so that what else the machine does hits all of them
stream   the first token's delay and characters a second of one stream and of 16, directly and through each proxy, with
         an upstream that sends a word every `--delay-ms`

Overhead is the difference to the direct arm at the same quantile, in milliseconds. Every text is another one, so that
no cache helps. Writes `benchmarks/results/guard/latency.json`. Run it on quiet cores: `load_average` is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import secrets
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import goals
import httpx
import servers

RESULTS = Path(__file__).resolve().parents[1] / "results" / "guard" / "latency.json"
CLIENTS = (1, 16, 64)
TOKENS = 300
CHARACTERS_OF_A_TOKEN = 4.5  # English prose
QUANTILES = (0.5, 0.95, 0.99)


def requests_of(tokens: int, seed: int = 0) -> Iterator[str]:
    """Endless harmless texts of about so many tokens, each another one, from the plain held-out prompts."""
    plain = [goal.text for goal in goals.ours() if goal.kind == "plain"]
    draw = random.Random(seed)
    while True:
        text = ""
        while len(text) < tokens * CHARACTERS_OF_A_TOKEN:
            text += " " + draw.choice(plain)
        yield f"{draw.random():.6f} {text.strip()}"


def quantiles(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(seconds)
    found = {f"p{q * 100:.0f}": ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1000 for q in QUANTILES}
    return {name: round(value, 3) for name, value in found.items()}


# ── the guard alone ──────────────────────────────────────────────────────────────────────────────────────────────────
def checks(folder: Path, times: int) -> dict[str, Any]:
    """`check` without the probe's model, and with it."""
    from steersman.guard.guard import Guard

    found = {"words": check(Guard.load(folder, base=folder / "no model"), times)}
    return found | {"probe": check(Guard.load(folder), times // 4)}


def check(guard: Any, times: int) -> dict[str, Any]:
    """Milliseconds of `Guard.check`, of the wall clock and of the processor."""
    from steersman.guard.verdict import Exchange, Part

    texts = requests_of(TOKENS)
    out = {}
    for side in ("input", "output"):
        wall, work = [], []
        for place in range(times + 10):
            answer = None if side == "input" else next(texts)
            exchange = Exchange((Part("messages[0].content", "user", next(texts)),), answer)
            began, worked = time.perf_counter(), time.process_time()
            guard.check(exchange)
            if place >= 10:
                wall.append(time.perf_counter() - began)
                work.append(time.process_time() - worked)
        out[side] = {"n": times, "wall_ms": quantiles(wall), "cpu_ms": quantiles(work)}
    return out


# ── the proxies ──────────────────────────────────────────────────────────────────────────────────────────────────────
async def load(url: str, model: str, clients: int, seconds: float, texts: Iterator[str]) -> tuple[list[float], int]:
    """Seconds of every request that so many clients made one after the other, and how many failed."""
    until, took, failed = time.perf_counter() + seconds, [], 0
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(timeout=30, limits=limits, headers=headers) as client:

        async def one() -> None:
            nonlocal failed
            while time.perf_counter() < until:
                body = {"model": model, "messages": [{"role": "user", "content": next(texts)}]}
                began = time.perf_counter()
                try:
                    response = await client.post(f"{url}/chat/completions", json=body)
                    failed += response.status_code != 200
                except httpx.HTTPError:
                    failed += 1
                took.append(time.perf_counter() - began)

        await asyncio.gather(*(one() for _ in range(clients)))
    return took, failed


async def stream(url: str, model: str, clients: int, texts: Iterator[str]) -> tuple[list[float], list[float], int]:
    """Delay of the first token, seconds of each whole stream, and characters received."""
    first, whole, pieces = [], [], 0
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(timeout=120, headers=headers, limits=httpx.Limits(max_connections=clients)) as client:

        async def one() -> None:
            nonlocal pieces
            body = {"model": model, "stream": True, "messages": [{"role": "user", "content": next(texts)}]}
            began, seen = time.perf_counter(), False
            async with client.stream("POST", f"{url}/chat/completions", json=body) as response:
                async for line in response.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    choices = json.loads(line[6:]).get("choices") or [{}]
                    text = (choices[0].get("delta") or {}).get("content")
                    if text and not seen:
                        first.append(time.perf_counter() - began)
                        seen = True
                    pieces += len(text or "")
            whole.append(time.perf_counter() - began)

        await asyncio.gather(*(one() for _ in range(clients)))
    return first, whole, pieces


async def proxies(arms: dict[str, tuple[str, str]], rounds: int, seconds: float) -> dict[str, Any]:
    texts, out = requests_of(TOKENS), {}
    for clients in CLIENTS:
        took: dict[str, list[float]] = defaultdict(list)
        failed: dict[str, int] = defaultdict(int)
        for turn, (name, (url, model)) in itertools.product(range(rounds + 1), arms.items()):
            part, wrong = await load(url, model, clients, seconds if turn else 1.0, texts)
            if turn:  # the first turn warms up
                took[name] += part
                failed[name] += wrong
        direct = quantiles(took["direct"])
        out[str(clients)] = {
            name: {
                "requests": len(part),
                "failed": failed[name],
                "requests_per_s": round(len(part) / (rounds * seconds), 1),
                "ms": quantiles(part),
                "added_ms": {q: round(ms - direct[q], 3) for q, ms in quantiles(part).items()},
            }
            for name, part in took.items()
        }
        print(f"{clients} clients: {json.dumps(out[str(clients)])}", file=sys.stderr)
    return out


async def streams(arms: dict[str, tuple[str, str]], rounds: int) -> dict[str, Any]:
    texts, out = requests_of(TOKENS, seed=1), {}
    for clients in (1, 16):
        found: dict[str, list[Any]] = defaultdict(lambda: [[], [], 0, 0.0])
        for turn, (name, (url, model)) in itertools.product(range(rounds + 1), arms.items()):
            began = time.perf_counter()
            first, whole, pieces = await stream(url, model, clients, texts)
            if turn:
                mine = found[name]
                mine[0] += first
                mine[1] += whole
                mine[2] += pieces
                mine[3] += time.perf_counter() - began
        out[str(clients)] = {
            name: {
                "first_token_ms": quantiles(first),
                "stream_s": round(statistics.median(whole), 3),
                "characters_per_s": round(pieces / spent, 1),
                "characters": pieces,
            }
            for name, (first, whole, pieces, spent) in found.items()
        }
        print(f"{clients} streams: {json.dumps(out[str(clients)])}", file=sys.stderr)
    return out


KEY = f"sk-{secrets.token_hex(16)}"  # of LiteLLM's proxy on loopback, which starts with no weaker one
LITELLM = """
model_list:
  - model_name: oracle
    litellm_params: {{model: openai/oracle, api_base: "{upstream}", api_key: sk-benchmark}}
litellm_settings: {{num_retries: 0, request_timeout: 30, telemetry: false, drop_params: true}}
general_settings: {{disable_spend_logs: true, master_key: {key}}}
"""


@contextlib.contextmanager
def litellm(program: str, work: Path, upstream: str) -> Iterator[str]:
    """LiteLLM's proxy in front of an upstream, with no guardrail: what a proxy costs by itself."""
    port = servers.free_port()
    config = work / "litellm.yaml"
    config.write_text(LITELLM.format(upstream=upstream, key=KEY), encoding="utf-8")
    command = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks GitHub for prices at its start
    with servers.running(command, f"http://127.0.0.1:{port}/health/liveliness", work / "litellm.log", 400):
        yield f"http://127.0.0.1:{port}/v1"


async def measure(given: argparse.Namespace) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for part, delay in (("proxy", 0.0), ("stream", given.delay_ms)):
        if part not in given.parts:
            continue
        with contextlib.ExitStack() as stack:
            options = ("--mode", "plain", "--tokens", "60", "--delay-ms", str(delay))
            direct = stack.enter_context(servers.oracle(given.work, *options))
            arms = {"direct": (direct, "oracle")}
            if given.guard:
                arms["gateway"] = (stack.enter_context(servers.gateway(given.work, given.guard, direct)), "oracle")
            if given.bare_guard:
                bare = stack.enter_context(servers.gateway(given.work, given.bare_guard, direct))
                arms["gateway without rails"] = (bare, "oracle")
            if given.litellm:
                arms["litellm"] = (stack.enter_context(litellm(given.litellm, given.work, direct)), "oracle")
            runs = proxies(arms, given.rounds, given.seconds) if part == "proxy" else streams(arms, given.rounds)
            out[part] = await runs
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--guard", type=Path)
    parser.add_argument("--bare-guard", type=Path, help="a guard's folder or a constitution that enforces nothing")
    parser.add_argument("--litellm", help="the program `litellm` of an environment with litellm[proxy]")
    parser.add_argument("--parts", nargs="+", default=["check", "proxy", "stream"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--times", type=int, default=1000, help="checks of the guard alone")
    parser.add_argument("--delay-ms", type=float, default=20.0)
    parser.add_argument("--work", type=Path, default=Path("runs/guard-latency"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"about": {"tokens": TOKENS, "upstream_delay_ms": given.delay_ms, **servers.machine()}}
    if "check" in given.parts and given.guard:
        result["check"] = checks(given.guard, given.times)
    result.update(asyncio.run(measure(given)))
    given.results.parent.mkdir(parents=True, exist_ok=True)
    given.results.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
