"""Throughput and first-token delay of `steersman serve` beside llama.cpp's server and vLLM's CPU build.

    .venv/bin/python benchmarks/serving.py --vllm ENV/bin/python --llama llama-server [--quick]

The same weights (gemma-3-270m, float32; llama.cpp also reads the Q4_K_M file that these were dequantised from), prompts
and most tokens, greedy, ``/v1/completions`` as streams, 1, 8 and 32 at once. All servers run side by side
and idle while one is asked; they take turns, twice (A B C A B C), each time with prompts that none has seen, and
``--cores`` threads each. One row a server, number of streams and round: tokens a second over all streams, and
milliseconds to the first text. Also the share of decoding time that a probe costs (`serving/probing.py`): with and
without, in turns, in this process. Writes `benchmarks/results/serving.json`.

The F32 file for llama.cpp: ``llama-quantize --allow-requantize Q4_K_M.gguf F32.gguf F32``.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from steersman.lm import pretrained

ROOT = Path(__file__).resolve().parent.parent
MODEL = "gemma-3-270m"
NAME = "m"  # of the model, at the others' servers
READY_S, ANSWER_S = 600, 900
SUBJECTS = ("bread", "tea", "rice", "a bicycle", "the roof", "a loan", "an egg", "a letter", "wool", "a boat", "glass")
QUESTIONS = (
    "Here is a short text about {} in the year {}. It says how it is made, what it costs, who needs it, and what "
    "people thought of it then. A teacher wrote it for her pupils, and every sentence of it is short and true:",
    "A letter to a friend about {}, written on day {} of the journey. Dear friend, we have arrived in the town by the "
    "river, where everybody speaks of nothing else. Let me tell you what happened this morning at the market:",
)


class Server(NamedTuple):
    """A server to be measured."""

    name: str
    command: list[str]
    port: int
    model: str
    environment: dict[str, str]


def servers(arguments: argparse.Namespace, base: Path) -> Iterator[Server]:
    """Those that are asked for; ours first."""
    port, cores = itertools.count(arguments.port), str(arguments.cores)
    threads = {"OMP_NUM_THREADS": cores, "HF_HUB_OFFLINE": "1"}
    ours = [sys.executable, "-m", "steersman", "serve", str(base), "--context", "1024"]
    for name, more in {"steersman": [], "steersman --fast": ["--fast"]}.items():
        number = next(port)
        yield Server(name, [*ours, "--port", str(number), *more], number, base.name, threads)
    if arguments.vllm:
        number = next(port)
        own = ["--model", str(base), "--served-model-name", NAME, "--dtype", "float32", "--max-model-len", "1024"]
        own += ["--max-num-seqs", "32", "--host", "127.0.0.1", "--port", str(number), "--generation-config", "vllm"]
        quiet = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "VLLM_HOST_IP": "127.0.0.1"}
        room = {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_CPU_KVCACHE_SPACE": "2"}
        command = [arguments.vllm, "-m", "vllm.entrypoints.openai.api_server", *own]
        yield Server("vLLM", command, number, NAME, threads | quiet | room)
    for file in arguments.gguf if arguments.llama else ():
        number = next(port)
        own = ["-m", str(file), "--alias", NAME, "-np", "32", "-c", str(32 * 1024), "-t", cores, "-tb", cores]
        command = [arguments.llama, *own, "--host", "127.0.0.1", "--port", str(number), "--no-webui"]
        yield Server(f"llama.cpp {file.stem}", command, number, NAME, threads)


@contextmanager
def running(server: Server, logs: Path) -> Iterator[None]:
    """Start a server, wait until it answers, and end it."""
    log = (logs / f"{server.port}.log").open("w", encoding="utf-8")
    process = subprocess.Popen(
        server.command, env={**os.environ, **server.environment}, stdout=log, stderr=log, start_new_session=True
    )
    try:
        deadline = time.monotonic() + READY_S
        while True:
            try:
                if httpx2.get(f"http://127.0.0.1:{server.port}/health", trust_env=False).status_code == 200:
                    break
            except httpx2.HTTPError:
                pass
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{server.name} did not start:\n{Path(log.name).read_text(encoding='utf-8')[-3000:]}")
            time.sleep(0.5)
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def prompts(count: int, seed: int) -> list[str]:
    """About 60 tokens each, and no two with the same beginning."""
    found = []
    for i in range(count):
        number = seed * 1000 + i
        text = QUESTIONS[number % 2].format(SUBJECTS[number % len(SUBJECTS)], number)
        found.append(f"[{number}] {text}")
    return found


async def ask(client: httpx2.AsyncClient, server: Server, prompt: str, most: int) -> tuple[int, float, float]:
    """One request: tokens, seconds to the first text, seconds to the end."""
    body = {"model": server.model, "prompt": prompt, "max_tokens": most, "temperature": 0, "stream": True}
    body["stream_options"] = {"include_usage": True}
    began, first, tokens = time.perf_counter(), 0.0, 0
    url = f"http://127.0.0.1:{server.port}/v1/completions"
    async with client.stream("POST", url, json=body) as response:
        if response.status_code != 200:
            raise SystemExit(f"{server.name} answers {response.status_code}: {(await response.aread())[:300]!r}")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if not first and any(choice.get("text") for choice in chunk["choices"]):
                first = time.perf_counter() - began
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
    ended = time.perf_counter() - began
    return tokens, first or ended, ended


async def load(server: Server, streams: int, asked: Sequence[str], most: int) -> dict[str, Any]:
    """All prompts, so many at once."""
    waiting, answers = list(asked)[::-1], list[tuple[int, float, float]]()
    async with httpx2.AsyncClient(timeout=ANSWER_S, trust_env=False) as client:

        async def one_after_the_other() -> None:
            while waiting:
                answers.append(await ask(client, server, waiting.pop(), most))

        began = time.perf_counter()
        await asyncio.gather(*(one_after_the_other() for _ in range(streams)))
        seconds = time.perf_counter() - began
    delays = sorted(1000 * first for _, first, _ in answers)
    tokens = sum(count for count, _, _ in answers)
    return {
        "server": server.name,
        "streams": streams,
        "requests": len(answers),
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "tokens_per_s": round(tokens / seconds, 2),
        "first_text_ms_p50": round(statistics.median(delays), 1),
        "first_text_ms_p95": round(delays[min(len(delays) - 1, int(0.95 * len(delays)))], 1),
    }


# ── the probe ────────────────────────────────────────────────────────────────────────────────────────────────────────
class Linear:
    """A linear probe with a moving average, as the guard's."""

    layer = 12

    def __init__(self, width: int) -> None:
        import torch

        self.weight = torch.randn(width, generator=torch.Generator().manual_seed(0))

    def start(self, rows: int) -> None:
        """See `probing.Probe`."""
        import torch

        self.mean = torch.zeros(rows)

    def step(self, hidden: Any) -> Any:
        """See `probing.Probe`."""
        import torch

        states = torch.nn.functional.normalize(hidden.float(), dim=-1)
        for column in (states @ self.weight).unbind(1):
            self.mean = self.mean * 0.9375 + column * 0.0625
        return self.mean


def _releasing(done: threading.Semaphore) -> Any:
    """What is told of a sequence, of which only the end counts."""
    return lambda told: done.release() if told.finish else None


def probe_share(base: Path, rows: int, most: int, rounds: int) -> dict[str, Any]:
    """Seconds of decoding with a probe and without, in turns."""
    from steersman.lm.sampling import SamplingConfig
    from steersman.serving import models
    from steersman.serving.engine import Engine, EngineConfig
    from steersman.serving.sequences import Job, Ticket

    served = models.load(base, {NAME: None})
    chat = served[NAME].chat
    probe = Linear(served[NAME].sampler.model.config.get_text_config().hidden_size)
    seconds: dict[str, list[float]] = {"without": [], "with": []}
    for number in range(rounds):
        for name, given in (("without", None), ("with", probe)):
            engine, done = Engine(served, EngineConfig(rows=rows), given).start(), threading.Semaphore(0)
            for prompt in prompts(rows, 900 + number):
                job = Job(NAME, chat.prompt_ids(prompt), SamplingConfig(max_new_tokens=most), logit_bias=((1, -100.0),))
                engine.submit([Ticket(job, _releasing(done))])
            for _ in range(rows):
                done.acquire()
            engine.close()
            seconds[name].append(engine.counters.decode_s / engine.counters.sampled_tokens)
    shares = [w / o - 1 for o, w in zip(seconds["without"], seconds["with"], strict=True)]
    return {"rows": rows, "seconds_per_token": seconds, "added_share": statistics.median(shares)}


# ── all ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--vllm", help="the Python of an environment with vllm-cpu")
    parser.add_argument("--llama", help="llama.cpp's llama-server")
    parser.add_argument("--gguf", type=Path, nargs="*", default=[], help="files of the same weights for it")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--port", type=int, default=18100)
    parser.add_argument("--quick", action="store_true", help="few and short answers: does everything run?")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "serving.json")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.streams, arguments.rounds, arguments.tokens = [1, 4], 1, 8
    base, rows = pretrained.resolve(MODEL), list[dict[str, Any]]()
    some = list(servers(arguments, base))
    with tempfile.TemporaryDirectory() as logs, ExitStack() as stack:
        for server in some:
            stack.enter_context(running(server, Path(logs)))
            asyncio.run(load(server, 2, prompts(2, 999), 4))  # the first request of all compiles and allocates
            print(f"{server.name} is ready", flush=True)
        for number, streams in itertools.product(range(arguments.rounds), arguments.streams):
            asked = prompts(max(4, 2 * streams), 10 * number + arguments.streams.index(streams))
            for server in some:
                rows.append({"round": number, **asyncio.run(load(server, streams, asked, arguments.tokens))})
                print(json.dumps(rows[-1]), flush=True)
    share = probe_share(base, 8, arguments.tokens, 1 if arguments.quick else 3)
    print(f"a probe adds {share['added_share']:.1%} to decoding")
    about = {"cores": arguments.cores, "processor": platform.processor() or platform.machine(), "model": MODEL}
    about |= {"python": platform.python_version(), "load_average": os.getloadavg(), "tokens": arguments.tokens}
    arguments.out.write_text(json.dumps({"about": about, "rows": rows, "probe": share}, indent=2) + "\n")


if __name__ == "__main__":
    main()
