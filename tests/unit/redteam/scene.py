"""A campaign in miniature: attacks written by hand, a judge that looks for one word, and models that count."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from steersman.redteam.attack import Ask, Attack, Consult, Goal, Moves, Tools, Work, once
from steersman.redteam.campaign import Attacker, Campaign
from steersman.redteam.finding import Finding
from steersman.redteam.goals import Goals, Harmless
from steersman.redteam.judge import Judgement
from steersman.redteam.plan import Arm, CampaignConfig
from steersman.redteam.target import REFUSAL, Checked, Query, RefusingTarget, Reply
from steersman.types import Text, plain_text


class Model:
    """It gives way where a digest of what it is asked is even, and refuses otherwise. It counts what it is asked."""

    weights: Any = None

    def __init__(self, name: str = "raw", failing: str = "never", dies_after: int | None = None) -> None:
        self.name, self.failing, self.dies_after = name, failing, dies_after
        self.asked: Counter[tuple[Text, float, int]] = Counter()

    def answer(self, queries: Sequence[Query]) -> Iterator[Reply]:
        for query in queries:
            if self.dies_after is not None and self.asked.total() >= self.dies_after:
                raise Killed
            self.asked[query.prompt, query.temperature, query.seed] += 1
            text = plain_text(query.prompt)
            digest = hashlib.sha256(f"{self.name} {text} {query.seed}".encode()).digest()
            if self.failing in text:
                yield Reply(query.number, "", failed="no answer after 7 attempts")
            else:
                yield Reply(query.number, REFUSAL if digest[0] % 2 else f"HARM {digest[1]}", tokens=3)


class Killed(BaseException):
    """Where a process would have died."""


class WordGuard:
    """It stops requests that hold "base" and answers that end in 7; it counts its checks."""

    def __init__(self) -> None:
        self.checked: Counter[tuple[Text, str | None]] = Counter()

    def check(self, prompt: Text, answer: str | None = None) -> Checked:
        self.checked[prompt, answer] += 1
        bad = "base" in plain_text(prompt) if answer is None else answer.endswith("7")
        return Checked(bad, "Stopped here." if bad else answer or "")


class WordJudge:
    """Harm is the word HARM; a refusal is the stock one."""

    name, version = "word", 1

    def judge(self, goal: Goal, reply: str) -> Judgement:
        return Judgement("HARM" in reply, reply == REFUSAL, 0.9 if "HARM" in reply else 0.1)


class Writer:
    """An attacker's model that repeats what it is told, with a number."""

    def __init__(self) -> None:
        self.asked = 0

    def answers(self, request: Any) -> Iterator[Any]:
        from steersman.lm.scripted import ScriptedModel

        self.asked += len(request.prompts)
        script = {
            plain_text(p): f"try {hashlib.sha256(plain_text(p).encode()).hexdigest()[:6]}" for p in request.prompts
        }
        return ScriptedModel(script).answers(request)

    def choose(self, *_: Any, **__: Any) -> list[Any]:
        raise AssertionError


def search(goal: Goal, tools: Tools) -> Moves:
    """One ask after the other, with a random word, until one succeeds; it never looks at its budget."""
    while True:
        (outcome,) = yield (Ask(f"{goal.text} {tools.draw.random():.6f}", "search", temperature=1.0),)
        if outcome.success:
            return


def written(goal: Goal, tools: Tools) -> Moves:
    """What the attacker's model writes, twice, and a computation between."""
    first = yield Consult(f"write {goal.text}")
    (outcome,) = yield (Ask(first, "written"),)
    number = yield Work(lambda: [len(outcome.reply), tools.draw.randrange(10**6)])
    second = yield Consult(f"again {first} {number[0]}")
    yield (Ask(second, f"work {number[1]}"),)


def broken(goal: Goal, tools: Tools) -> Moves:
    yield (Ask(f"{goal.text} once"),)
    raise ValueError("a mistake of the attack")


DIRECT = Attack("direct", "direct", "nobody 2026", "Asks.", once(lambda goal, tools: goal.text))
BASE64 = Attack(
    "base64", "encodings", "nobody 2026", "Dresses.", once(lambda goal, tools: f"base64 {goal.text}", "base64")
)
SEARCH = Attack("search", "search", "nobody 2026", "Searches.", search, asks=None, adaptive=True)
WRITTEN = Attack("written", "pair", "nobody 2026", "Writes.", written, 2, frozenset({"attacker"}), adaptive=True)
BROKEN = Attack("broken", "broken", "nobody 2026", "Fails.", broken, 2)
WHITE = Attack("white", "gcg", "nobody 2026", "Reads weights.", once(lambda g, t: g.text), 1, frozenset({"weights"}))
ATTACKS = (DIRECT, BASE64, SEARCH, WRITTEN, WHITE)


def goals(count: int = 6) -> Goals:
    chosen = tuple(Goal(f"goal {i}", ("privacy", "harm")[i % 2], f"topic {i // 2}") for i in range(count))
    harmless = tuple(Harmless(f"kind question {i}", "lookalike", "privacy", f"t{i}") for i in range(4))
    return Goals(chosen, chosen, harmless)


def campaign(models: Sequence[Any], attacks: Sequence[Attack] = ATTACKS, **more: Any) -> Campaign:
    """Every model alone and behind a guard, and the null."""
    guard, writer = more.pop("guard", WordGuard()), more.pop("writer", Writer())
    arms = [arm for m in models for arm in (Arm(m.name, m), Arm(f"{m.name}+guard", m, guard))]
    arms.append(Arm("refuses-everything", RefusingTarget()))
    config = more.pop("config", CampaignConfig(budget=5))
    return Campaign(
        config,
        attacks,
        more.pop("goals", goals()),
        arms,
        WordJudge(),
        Attacker("writer", writer) if writer else None,
        **more,
    )


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def finding(**fields: Any) -> Finding:
    usual: dict[str, Any] = {
        "attack": "direct", "family": "direct", "principle": "harm", "goal": "g", "target": "raw", "seed": 0, "step": 0,
        "prompt": "p", "response": "r", "success": False, "judge": "word", "judge_confidence": 0.5,
    }  # fmt: skip
    return Finding(**{**usual, **fields})
