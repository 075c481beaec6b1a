"""`steersman serve` beside vLLM's CPU build and llama.cpp's server: tokens a second, and time to the first text.

    python benchmarks/serving.py --vllm ENV/bin/python --llama LLAMA_CPP [--quick]

The same weights (gemma-3-270m's base model), prompts, and numbers of tokens (no end-of-text token ends an answer),
greedy, ``/v1/completions`` as streams, 1, 8 and 32 at once. Each server has ``--cores`` threads, and each runs in
float32 and in what its own kernels are made for: ours int8 (``--fast``), vLLM and llama.cpp bfloat16. All run side by
side and idle while one is asked; they take turns, twice (A B C A B C), each time with prompts that none has seen. One
row a server, number of streams and round. A server that does not run is in ``not_run``, with its own last words.

LLAMA_CPP is its source, with ``llama-server`` in the folder ``build`` in it or beside it. Its files are made once, by
its own converter (which needs sentencepiece, and runs in vLLM's environment if there is one), into ``--files``. Writes
`benchmarks/results/serving.json`; some seven minutes on two quiet cores, the first time more, because vLLM compiles.
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
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from steersman.lm import pretrained
from steersman.lm.gguf_export import export_gguf

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
    """A server to be measured. ``body``: what its requests have beside the others', for the same number of tokens."""

    name: str
    precision: str
    command: list[str]
    port: int
    model: str
    environment: dict[str, str]
    body: dict[str, Any]


def servers(arguments: argparse.Namespace, base: Path) -> Iterator[Server]:
    """Those that are asked for; ours first."""
    port, cores = itertools.count(arguments.port), str(arguments.cores)
    threads = {"OMP_NUM_THREADS": cores, "HF_HUB_OFFLINE": "1"}
    ours = [sys.executable, "-m", "steersman", "serve", str(base), "--context", "1024"]
    stops = {"logit_bias": dict.fromkeys(map(str, ends_of(base)), -100)}
    for precision, more in {"float32": [], "int8": ["--fast"]}.items():
        number = next(port)
        command = [*ours, "--port", str(number), *more]
        yield Server(f"steersman {precision}", precision, command, number, base.name, threads, stops)
    for precision in ("float32", "bfloat16") if arguments.vllm else ():
        number = next(port)
        own = ["--model", str(base), "--served-model-name", NAME, "--dtype", precision, "--max-model-len", "1024"]
        own += ["--max-num-seqs", "32", "--host", "127.0.0.1", "--port", str(number), "--generation-config", "vllm"]
        quiet = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "VLLM_HOST_IP": "127.0.0.1"}
        room = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        room |= {"VLLM_CACHE_ROOT": str(arguments.files / "vllm")}
        command = [arguments.vllm, "-m", "vllm.entrypoints.openai.api_server", *own]
        yield Server(
            f"vLLM {precision}", precision, command, number, NAME, threads | quiet | room, {"ignore_eos": True}
        )
    for precision in ("float32", "bfloat16") if arguments.llama else ():
        number, file = next(port), gguf_of(base, precision, arguments)
        own = ["-m", str(file), "--alias", NAME, "-np", "32", "-c", str(32 * 1024), "-t", cores, "-tb", cores]
        builds = (arguments.llama / "build", arguments.llama.parent / "build")
        program = str(next((b for b in builds if b.is_dir()), builds[0]) / "bin" / "llama-server")
        command = [program, *own, "--host", "127.0.0.1", "--port", str(number), "--no-webui"]
        yield Server(f"llama.cpp {precision}", precision, command, number, NAME, threads, {"ignore_eos": True})


def ends_of(base: Path) -> list[int]:
    """The tokens that end a text."""
    found = json.loads((base / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    return found if isinstance(found, list) else [found]


def gguf_of(base: Path, precision: str, arguments: argparse.Namespace) -> Path:
    """The weights for llama.cpp, made by its converter where the file is not there yet."""
    file: Path = arguments.files / f"{base.name}-{precision}.gguf"
    if not file.exists():
        kind = {"float32": "f32", "bfloat16": "bf16"}[precision]
        export_gguf(base, file, arguments.llama, kind, arguments.vllm or sys.executable)
    return file


class NotRunning(Exception):
    """A server did not start; its last words."""


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
                raise NotRunning("\n".join(Path(log.name).read_text(encoding="utf-8").splitlines()[-12:])[-2000:])
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
    body |= server.body
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
        "precision": server.precision,
        "streams": streams,
        "requests": len(answers),
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "tokens_per_s": round(tokens / seconds, 2),
        "first_text_ms_p50": round(statistics.median(delays), 1),
        "first_text_ms_p95": round(delays[min(len(delays) - 1, int(0.95 * len(delays)))], 1),
    }


# ── all ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--vllm", help="the Python of an environment with vllm-cpu")
    parser.add_argument("--llama", type=Path, help="llama.cpp's source, built")
    parser.add_argument("--files", type=Path, default=Path(tempfile.gettempdir()) / "steersman-serving")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--port", type=int, default=18100)
    parser.add_argument("--quick", action="store_true", help="few and short answers: does everything run?")
    parser.add_argument("--only", nargs="*", help="beginnings of names of servers")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "serving.json")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.streams, arguments.rounds, arguments.tokens = [1, 4], 1, 8
    return arguments


def main() -> None:
    """Measure and write."""
    arguments, began = parsed(), time.monotonic()
    base, rows, not_run = pretrained.resolve(MODEL), list[dict[str, Any]](), dict[str, str]()
    arguments.files.mkdir(parents=True, exist_ok=True)
    some = [s for s in servers(arguments, base) if not arguments.only or s.name.startswith(tuple(arguments.only))]
    with tempfile.TemporaryDirectory() as logs, ExitStack() as stack:
        for server in list(some):
            try:
                stack.enter_context(running(server, Path(logs)))
            except (NotRunning, OSError) as error:
                not_run[server.name] = str(error)
                some.remove(server)
                print(f"{server.name} does not run:\n{error}", flush=True)
                continue
            asyncio.run(load(server, 2, prompts(2, 999), 4))  # the first request of all compiles and allocates
            print(f"{server.name} is ready after {time.monotonic() - began:.0f} s", flush=True)
        for number, streams in itertools.product(range(arguments.rounds), arguments.streams):
            asked = prompts(max(2, streams), 10 * number + arguments.streams.index(streams))
            for server in some:
                rows.append({"round": number, **asyncio.run(load(server, streams, asked, arguments.tokens))})
                print(json.dumps(rows[-1]), flush=True)
    about = {"cores": arguments.cores, "processor": platform.processor() or platform.machine(), "model": MODEL}
    about |= {"python": platform.python_version(), "load_average": os.getloadavg(), "tokens": arguments.tokens}
    about |= {"seconds": round(time.monotonic() - began)}
    arguments.out.write_text(json.dumps({"about": about, "rows": rows, "not_run": not_run}, indent=2) + "\n")


if __name__ == "__main__":
    main()
