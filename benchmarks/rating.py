"""Two hundred raters at once, through HTTP: is any vote lost, doubled or misattributed, and how long does a rater wait?

    python benchmarks/rating.py [--raters 200] [--votes 12] [--think-s 4] [--store postgresql://...]

The server runs in a process of its own. First one rater votes alone; then all vote at once, each after thinking for
an exponentially distributed time (people need longer than the mean of 4 s); then all without thinking, as no people do;
and last some vote while the server is killed (`kill -9`) and started again. A submit is measured by the client, from
sending the vote to having read the next question. Every vote carries, as its rationale, who cast it and what was on the
page, and is compared with what the store holds. Times are as measured; `load_average` says how busy the machine was.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from steersman.rating.accounts import RaterAccounts
from steersman.rating.round import Question, Round
from steersman.rating.store import RatingStore

RESULTS = Path(__file__).parent / "results" / "rating.json"
TARGET_MS = 100.0
SERVER = """
import sys
import torch
from steersman.rating.app import RatingApp, serve
from steersman.rating.active import ActiveSampler
from steersman.http_server import Address, listen
from steersman.rating.store import RatingStore
torch.set_num_threads(1)
address = Address(port=int(sys.argv[2]))
bound = listen(address)
print(bound.getsockname()[1], flush=True)
store = RatingStore(sys.argv[1], scorer=ActiveSampler())
serve(RatingApp(store, "x" * 20), address, bound)
"""


class Server:
    """The application in a process of its own."""

    def __init__(self, where: str) -> None:
        self.where, self.port = where, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", SERVER, self.where, str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Rater:
    """A simulated person with a browser: knows what was on the page, and sends again what was not acknowledged."""

    def __init__(self, url: str, token: str, number: int) -> None:
        self.client = httpx.AsyncClient(base_url=url, timeout=120)
        self.token, self.number = token, number
        self.text = ""
        self.acknowledged: list[str] = []
        self.seconds: list[float] = []
        self.retries = 0

    async def sent(self, method: str, path: str, body: dict[str, Any] | None = None) -> str:
        while True:
            with contextlib.suppress(httpx.TransportError):
                response = await self.client.request(method, path, json=body)
                if response.status_code == 200:
                    return response.text
                assert response.status_code in (429, 500, 503), response.text
            self.retries += 1
            await asyncio.sleep(0.05)

    async def join(self) -> None:
        await self.sent("POST", "/join", {"token": self.token, "consent": True})
        self.text = await self.sent("GET", "/task")

    async def vote(self, votes: int, think_s: float, generator: random.Random) -> None:
        for _ in range(votes):
            if think_s:
                await asyncio.sleep(generator.expovariate(1 / think_s))
            name = re.search(r'data-assignment="([^"]+)"', self.text)
            if name is None:
                return
            prompt, *answers = re.findall(r'<p dir="auto">((?:question|best|second) \d+)</p>', self.text)
            ranking = [1 if answer.startswith("best") else 2 for answer in answers]
            told = f"{self.number}|{prompt}"
            body = {"submission": f"r{self.number}-{len(self.acknowledged):06}", "assignment": name.group(1)}
            start = time.perf_counter()
            self.text = await self.sent("POST", "/vote", {**body, "ranking": ranking, "rationale": told})
            self.seconds.append(time.perf_counter() - start)
            self.acknowledged.append(told)


def milliseconds(seconds: list[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {"n": len(seconds)}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    named = {"median": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(seconds)}
    return {"n": len(seconds), **{name: round(1000 * value, 1) for name, value in named.items()}}


async def phase(raters: list[Rater], votes: int, think_s: float) -> dict[str, Any]:
    for rater in raters:
        rater.seconds = []
    start = time.perf_counter()
    await asyncio.gather(*(rater.vote(votes, think_s, random.Random(rater.number)) for rater in raters))
    spent, seconds = time.perf_counter() - start, [s for rater in raters for s in rater.seconds]
    figures = {"raters": len(raters), "think_s": think_s, "votes_per_s": round(len(seconds) / spent, 1)}
    return {**figures, "submit_ms": milliseconds(seconds), "load_average": os.getloadavg()[0]}


async def killed(raters: list[Rater], votes: int, server: Server) -> dict[str, Any]:
    before = sum(len(rater.acknowledged) for rater in raters)

    async def killer() -> None:
        while sum(len(rater.acknowledged) for rater in raters) < before + len(raters) * votes // 2:
            await asyncio.sleep(0.005)
        server.kill()
        await asyncio.to_thread(server.start)

    await asyncio.gather(killer(), *(rater.vote(votes, 0.0, random.Random(0)) for rater in raters))
    return {"raters": len(raters), "votes": sum(len(r.acknowledged) for r in raters) - before,
            "sent_again": sum(rater.retries for rater in raters)}  # fmt: skip


def checked(store: RatingStore, raters: list[Rater]) -> dict[str, int]:
    """What the store holds against what was acknowledged."""
    kept = [vote for vote in store.votes() if vote.kind == "vote"]
    told = [vote.rationale for vote in kept]
    acknowledged = [told for rater in raters for told in rater.acknowledged]
    wrong = [
        vote
        for vote in kept
        if vote.rationale != f"{vote.rater}|{vote.question.prompt}" or vote.ranking != (1, 2) or vote.late
    ]
    return {
        "acknowledged": len(acknowledged),
        "kept": len(kept),
        "lost": len(set(acknowledged) - set(told)),
        "doubled": len(told) - len(set(told)) + len(kept) - len({vote.item for vote in kept}),
        "misattributed": len(wrong),
    }


async def measure(asked: argparse.Namespace, where: str) -> dict[str, Any]:
    store = RatingStore(where)
    count = 500 + asked.raters * asked.votes * 2  # more than are answered
    questions = [Question(prompt=f"question {i}", options=(f"best {i}", f"second {i}")) for i in range(count)]
    store.begin(Round(gold_share=0, repeat_share=0), questions)
    people = RaterAccounts(store.database)
    tokens = [people.invite(f"rater {i}") for i in range(asked.raters + 1)]
    server = Server(where)
    raters = [Rater(f"http://127.0.0.1:{server.port}", token, i) for i, token in enumerate(tokens, start=1)]
    try:
        alone = raters[0]
        await alone.join()
        await alone.vote(10, 0.0, random.Random(0))  # until everything has been loaded
        result: dict[str, Any] = {"alone": await phase([alone], 30, 0.2)}
        for rater in raters[1:]:
            await rater.join()
        result["together"] = await phase(raters[1:], asked.votes, asked.think_s)
        result["without_thinking"] = await phase(raters[1:], max(2, asked.votes // 4), 0.0)
        result["killed"] = await killed(raters[1:21], 8, server)
        result["votes"] = checked(store, raters)
        result["arms"] = Counter(vote.arm for vote in store.votes())
    finally:
        server.kill()
        for rater in raters:
            await rater.client.aclose()
        store.database.engine.dispose()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raters", type=int, default=200)
    parser.add_argument("--votes", type=int, default=12, help="each, in the main phase")
    parser.add_argument("--think-s", type=float, default=4.0)
    parser.add_argument("--store", help="a database URL; a file of SQLite unless given")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(measure(asked, asked.store or f"{folder}/store.sqlite"))
    packages = {name: version(name) for name in ("starlette", "uvicorn", "sqlalchemy", "httpx")}
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "packages": packages}
    p95, median = result["together"]["submit_ms"]["p95"], result["alone"]["submit_ms"]["median"]
    result |= {"target_p95_ms": TARGET_MS, "store": "postgresql" if asked.store else "sqlite", "machine": machine}
    asked.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    print(f"p95 of {asked.raters} at once: {p95} ms (target {TARGET_MS:.0f}); median of one alone: {median} ms")
    assert not any(result["votes"][name] for name in ("lost", "doubled", "misattributed")), result["votes"]


if __name__ == "__main__":
    main()
