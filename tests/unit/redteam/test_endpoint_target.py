"""An endpoint as a target: what stopped a request, what fails alone, and a campaign through faults and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.redteam.scene import DIRECT, WordJudge, bytes_of

from served_endpoint import Served
from steersman.errors import RunError
from steersman.lm.endpoint.client import RemoteModel
from steersman.redteam.attack import Attack, Goal, once
from steersman.redteam.campaign import Campaign
from steersman.redteam.finding import Finding
from steersman.redteam.goals import Goals
from steersman.redteam.plan import Arm, CampaignConfig
from steersman.redteam.target import EndpointTarget, Query
from steersman.types import Message

ROOT = Path(__file__).resolve().parents[3]
POLITE = Attack("polite", "wrappers", "nobody 2026", "Asks nicely.", once(lambda goal, tools: f"Please: {goal.text}"))


def attack(served: Served, out: Path, goals: int) -> list[Finding]:
    """Two attacks on so many goals at an endpoint."""
    chosen = tuple(Goal(f"goal {i}", "harm", f"topic {i // 5}") for i in range(goals))
    target = EndpointTarget("remote", RemoteModel(served.config(), out / "endpoint.jsonl"))
    config = CampaignConfig(attempts_per_cell=None)
    campaign = Campaign(config, [DIRECT, POLITE], Goals(chosen, chosen), [Arm("remote", target)], WordJudge())
    return campaign.run(out)


@pytest.mark.slow
def test_a_thousand_attempts_through_every_fault_are_neither_lost_nor_doubled(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    """Ten thousand are made in `benchmarks/redteam_faults.py`."""
    served = serve("--faults", "0.3", "--latency-ms", "1")
    found = attack(served, tmp_path / "faults", 500)
    stats = served.stats()
    assert [f.response for f in found] == [f"Reply to {f.prompt}" for f in found]
    assert len({(f.attack, f.goal) for f in found}) == len(found) == 1000
    assert not any(f.failed for f in found)
    assert set(stats["served"].values()) == {1}
    assert len(stats["served"]) == 1000
    assert stats["most_in_flight"] <= 16
    assert sum(stats["by_kind"][fault] for fault in ("429", "500", "503", "malformed", "cut", "closed")) > 50
    calm = serve("--latency-ms", "1")
    attack(calm, tmp_path / "calm", 500)
    names = ("findings.jsonl", "log.jsonl", "harmless.jsonl")
    assert all(bytes_of(tmp_path / "faults")[name] == bytes_of(tmp_path / "calm")[name] for name in names)


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {root!r} + "/tests/fixtures"]
from types import SimpleNamespace
from steersman.lm.endpoint.settings import RemoteConfig
from tests.unit.redteam.test_endpoint_target import attack
served = SimpleNamespace(config=lambda: RemoteConfig(base_url={url!r}, model="judge", concurrency=2))
attack(served, Path({out!r}), 60)
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_campaign(serve: Callable[..., Served], tmp_path: Path) -> None:
    served, out = serve("--latency-ms", "20"), tmp_path / "killed"
    program = CHILD.format(root=str(ROOT), url=served.url, out=str(out))
    child = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    deadline = time.monotonic() + 60
    while served.stats()["requests"] < 25 and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = served.stats()["requests"]
    assert 25 <= before < 120
    assert not (out / "findings.jsonl").exists()
    found = attack(served, out, 60)
    assert len(found) == 120
    # What was in flight at the kill is asked again; all other replies were on disk.
    assert served.stats()["requests"] <= 120 + 2
    attack(serve(), tmp_path / "whole", 60)
    for name in ("findings.jsonl", "log.jsonl", "harmless.jsonl"):
        assert bytes_of(out)[name] == bytes_of(tmp_path / "whole")[name]


def test_filters_are_told_from_failures(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve()
    model = RemoteModel(served.config(retries=1), tmp_path / "replies.jsonl")
    model.complete(["plain"])  # it has answered something: what it then refuses is a request's own
    tools = (
        Message(role="tools", content="[]"),
        Message(role="user", content="Use them."),
    )
    prompts = ["plain", "[filter] x", "[blocked] x", "[500] x", "[odd] x", "[too long] x", "[empty] x", tools]
    replies = {
        r.number: r for r in EndpointTarget("remote", model).answer([Query(i, p) for i, p in enumerate(prompts)])
    }
    assert [replies[i].stopped for i in range(8)] == ["", "input", "output", "", "", "", "", ""]
    assert [bool(replies[i].failed) for i in range(8)] == [False, False, False, True, True, True, False, True]
    assert replies[1].text == "I'm sorry, but I can't help with that."
    assert replies[3].failed.startswith("failed: 500")
    assert replies[5].failed.startswith("too long: ")
    assert replies[7].failed == "a conversation with tools is not sent to an endpoint"


def test_a_request_that_fails_for_good_is_a_finding_without_an_outcome(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    served = serve()
    goals = (Goal("fine", "harm", "a"), Goal("[500] broken", "harm", "b"))
    target = EndpointTarget("remote", RemoteModel(served.config(retries=1), tmp_path / "endpoint.jsonl"))
    campaign = Campaign(CampaignConfig(), [DIRECT], Goals(goals, goals), [Arm("remote", target)], WordJudge())
    first, second = campaign.run(tmp_path)
    assert not first.failed
    assert second.failed.startswith("failed: 500")
    summary = campaign.conclude(tmp_path)
    assert summary["targets"]["remote"]["overall"]["n"] == 1
    assert summary["targets"]["remote"]["without_outcome"] == 1
    assert [row["n"] for row in summary["failed"]] == [1]


def test_samples_have_seeds_and_temperatures_of_their_own(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve()
    target = EndpointTarget("remote", RemoteModel(served.config(concurrency=1), tmp_path / "replies.jsonl"))
    list(target.answer([Query(0, "hot", 0.7, 2**32 - 1)]))
    body = served.stats()["last_body"]
    assert (body["temperature"], body["seed"]) == (0.7, 2**31 - 1)
    list(target.answer([Query(0, "hot", 0.7, 5), Query(1, "hot", 0.7, 8), Query(2, "hot", 0.0, 0)]))
    assert served.stats()["attempts"] == {"hot": 4}


def test_an_endpoint_that_is_down_stops_the_campaign(tmp_path: Path) -> None:
    served = Served()
    served.close()
    target = EndpointTarget("remote", RemoteModel(served.config(retries=0), tmp_path / "endpoint.jsonl"))
    goals = (Goal("fine", "harm", "a"),)
    campaign = Campaign(CampaignConfig(), [DIRECT], Goals(goals, goals), [Arm("remote", target)], WordJudge())
    with pytest.raises(RunError, match="no answer after 1 attempts"):
        campaign.run(tmp_path)
