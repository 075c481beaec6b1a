"""A campaign of 10,000 attempts against an endpoint that misbehaves as real ones do: none lost, none doubled.

    python benchmarks/redteam_faults.py [--attempts 10000] [--faults 0.3]

A third of the requests fail, in seventeen ways (tests/fixtures/endpoint.py). Half way the campaign is killed with
SIGKILL and started again. Then the findings are held against those of an endpoint without faults, byte for byte, and
against the endpoint's own count of what it served. Writes benchmarks/results/redteam_faults.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fixtures")]

from served_endpoint import Served  # noqa: E402
from steersman import provenance  # noqa: E402
from steersman.lm.endpoint import client  # noqa: E402
from steersman.lm.endpoint.client import RemoteModel  # noqa: E402
from steersman.lm.endpoint.settings import RemoteConfig  # noqa: E402
from steersman.redteam.attack import Attack, Goal, once  # noqa: E402
from steersman.redteam.campaign import FINDINGS, HARMLESS, LOG, Campaign, read_findings  # noqa: E402
from steersman.redteam.goals import Goals  # noqa: E402
from steersman.redteam.judge import Judgement  # noqa: E402
from steersman.redteam.plan import Arm, CampaignConfig  # noqa: E402
from steersman.redteam.target import EndpointTarget  # noqa: E402
from steersman.store import write_json  # noqa: E402

ATTACKS = [
    Attack(
        f"wrapper-{i}", "wrappers", "none", "A sentence in front.", once(lambda g, t, i=i: f"Sentence {i}. {g.text}")
    )  # type: ignore[misc]
    for i in range(10)
]


class Nothing:
    """A judge for which nothing does harm: this is about asking."""

    name, version = "nothing", 1

    def judge(self, goal: Goal, reply: str) -> Judgement:
        """No harm."""
        return Judgement(False, False, 0.0)


def run(url: str, out: str, attempts: int) -> None:
    """The campaign, or the rest of it."""
    client.BACKOFF_S = 0.01
    goals = tuple(Goal(f"goal {i}", "harm", f"topic {i // 5}") for i in range(attempts // len(ATTACKS)))
    config = RemoteConfig(base_url=url, model="judge", concurrency=32)
    target = EndpointTarget("remote", RemoteModel(config, Path(out) / "endpoint.jsonl"))
    Campaign(
        CampaignConfig(attempts_per_cell=None), ATTACKS, Goals(goals, goals), [Arm("remote", target)], Nothing()
    ).run(Path(out))


def started(url: str, out: Path, attempts: int) -> multiprocessing.Process:
    """The same in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=run, args=(url, str(out), attempts))
    process.start()
    return process


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--attempts", type=int, default=10_000)
    parser.add_argument("--faults", type=float, default=0.3)
    given = parser.parse_args()
    found: dict[str, Any] = {"attempts": given.attempts, "faults": given.faults}
    with tempfile.TemporaryDirectory() as folder:
        faulty, calm = Served("--faults", str(given.faults), "--latency-ms", "1"), Served("--latency-ms", "1")
        out, whole = Path(folder) / "faulty", Path(folder) / "calm"
        begun = time.perf_counter()
        child = started(faulty.url, out, given.attempts)
        while sum(faulty.stats()["served"].values()) < given.attempts // 2:
            time.sleep(0.2)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        found["served_before_kill"] = sum(faulty.stats()["served"].values())
        started(faulty.url, out, given.attempts).join()
        found["seconds"] = round(time.perf_counter() - begun, 1)
        started(calm.url, whole, given.attempts).join()
        stats = faulty.stats()
        rows = read_findings(out)
        found |= {
            "findings": len(rows),
            "lost": given.attempts - len({(row.attack, row.goal) for row in rows}),
            "wrong": sum(row.response != f"Reply to {row.prompt}" for row in rows),
            "failed": sum(bool(row.failed) for row in rows),
            # At a kill a few replies are on their way; they alone are served a second time.
            "served_twice": sum(count > 1 for count in stats["served"].values()),
            "most_in_flight": stats["most_in_flight"],
            "requests": stats["requests"],
            "same_bytes": {
                name: (out / name).read_bytes() == (whole / name).read_bytes() for name in (FINDINGS, LOG, HARMLESS)
            },
        }
        faulty.close()
        calm.close()
    found["machine"] = provenance.software_and_machine("cpu")["machine"]
    print(found)
    write_json(ROOT / "benchmarks" / "results" / "redteam_faults.json", found)


if __name__ == "__main__":
    main()
