"""Ten thousand judgements at an endpoint that fails in every way: is any lost or doubled, and is the bill right?

    .venv/bin/python benchmarks/remote.py [--requests 10000] [--faults 0.1]

The endpoint is ours (`tests/fixtures/endpoint.py`), on loopback, in a process of its own; it counts what it served and
charged. The process that asks is killed with SIGKILL when half is answered, and another one goes on. ``charged`` and
``bill`` are prompt tokens, completion tokens, and attempts that may have been charged without a word. Seconds depend on
what else the machine does. Writes `benchmarks/results/remote.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2

from steersman.lm.endpoint.cache import AnswerCache
from steersman.lm.endpoint.client import RemoteModel
from steersman.lm.endpoint.settings import RemoteConfig

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))
from endpoint import probability_of_a  # noqa: E402

CONCURRENCY = 32
CHARGED = ("prompt_tokens", "completion_tokens", "unstated")


def questions(count: int) -> list[str]:
    return [f"Which answer to question {i} is better, A or B?" for i in range(count)]


def judge(url: str, cache: Path, count: int) -> None:
    model = RemoteModel(RemoteConfig(base_url=url, model="judge", concurrency=CONCURRENCY), cache)
    asked = questions(count)
    wrong = 0
    for question, choice in zip(asked, model.choices(asked), strict=True):
        expected = probability_of_a(question)
        wrong += choice.probabilities is None or abs(choice.probabilities[0] - expected) > 1e-9
    bill = model.bill
    charged = [bill.usage.prompt_tokens, bill.usage.completion_tokens, bill.usage.unstated]
    print(json.dumps({"wrong": wrong, "attempts": bill.attempts, "reused": bill.reused, "charged": charged}))


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def stats_of(address: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx2.get(f"{address}/stats", trust_env=False).json()
    found["charged"] = [found[name] for name in CHARGED]
    return found


def measure(address: str, cache: Path, count: int) -> dict[str, Any]:
    """Ask, kill half-way, go on; what the endpoint counted against what the second process and the cache hold."""
    arguments = (__file__, "--requests", count, "--url", f"{address}/v1", "--cache", cache)
    began = time.perf_counter()
    first = start(*arguments)
    while not cache.exists() or cache.read_bytes().count(b'"reply"') < count // 2:
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    time.sleep(0.5)  # what was on its way is served into the void
    before = stats_of(address)
    said = json.loads(start(*arguments).communicate()[0])
    seconds = time.perf_counter() - began
    after = stats_of(address)
    replies = [row["key"] for row in map(json.loads, cache.read_bytes().splitlines()) if "reply" in row]
    served = {name: sum(stats["served"].values()) for name, stats in (("before", before), ("after", after))}
    return {
        "requests": count,
        "lost": count - len(set(replies)),
        "doubled": len(replies) - len(set(replies)),
        "with_another_question's_answer": said["wrong"],
        "answered_before_the_kill": said["reused"],
        "of_these_asked_again": served["after"] - served["before"] - (count - said["reused"]),
        "served_into_the_void_by_the_kill": served["before"] - said["reused"],
        "attempts": after["requests"],
        "faults": {kind: n for kind, n in sorted(after["by_kind"].items()) if kind != "plain"},
        "most_at_once": after["most_in_flight"],
        "charged_by_the_endpoint_after_the_kill": [
            a - b for a, b in zip(after["charged"], before["charged"], strict=True)
        ],
        "bill_after_the_kill": said["charged"],
        "charged_by_the_endpoint_in_all": after["charged"],
        "bill_of_the_cache_in_all": [getattr(AnswerCache(cache).paid, name) for name in CHARGED],
        "seconds": round(seconds, 1),
        "requests_a_second": round(count / seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--faults", type=float, default=0.1)
    parser.add_argument("--url", help="used by the processes that ask")
    parser.add_argument("--cache", type=Path, help="used by the processes that ask")
    given = parser.parse_args()
    if given.url:
        judge(given.url, given.cache, given.requests)
        return
    endpoint = start(ROOT / "tests" / "fixtures" / "endpoint.py", "--latency-ms", 5, "--faults", given.faults)
    assert endpoint.stdout is not None
    address = f"http://127.0.0.1:{int(endpoint.stdout.readline())}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(address, Path(folder) / "answers.jsonl", given.requests)
    finally:
        endpoint.kill()
        endpoint.communicate()
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {
        "machine": f"{platform.machine()}, {platform.system()}, {os.cpu_count()} CPUs, {platform.python_version()}",
        "httpx2": httpx2.__version__,
        "concurrency": CONCURRENCY,
        "latency_ms": 5,
        "share_of_attempts_that_fail": given.faults,
        **found,
        "cpu_seconds_with_the_endpoint": round(cpu.ru_utime + cpu.ru_stime, 1),
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(result, indent=1))
    (ROOT / "benchmarks" / "results" / "remote.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
