"""What a campaign will do, before it does it: attack x goal x target x seed, what is left out and why, what it costs.

The plan decides the order of everything. Seeds follow from the campaign's own, the attack and the goal, never from the
target: a request that does not depend on replies is the same for every arm, and is answered once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pydantic import Field

from steersman.redteam.attack import Attack, Goal
from steersman.redteam.attacks.prompt_extraction import FAMILY as EXTRACTION
from steersman.redteam.target import REFUSES, Guard, Target
from steersman.store import canonical, sha256_text
from steersman.types import Record, Seed

RAW, ALIGNED, GUARD = "raw", "aligned", "guard"
TargetName = Literal["raw", "aligned", "raw+guard", "aligned+guard", "refuses-everything"]
TARGETS: tuple[TargetName, ...] = ("raw", "raw+guard", "aligned", "aligned+guard", "refuses-everything")


class CampaignConfig(Record):
    """A campaign of attacks on a run's models, alone and behind its guard."""

    attacks: tuple[str, ...] = Field(default=(), description="Attacks or families of them by name; empty: all.")
    targets: tuple[TargetName, ...] = Field(
        default=TARGETS, description="What is attacked; a recipe without a guard, or without training, has fewer."
    )
    goals_per_principle: int = Field(default=4, ge=1, description="Most goals of a principle, chosen by a digest.")
    harmless: int = Field(default=40, ge=0, description="Harmless prompts that every target is asked as well.")
    attempts_per_cell: int | None = Field(
        default=20,
        ge=1,
        description="Most attempts of a family of attacks at a principle, chosen by a digest; null: every attack on "
        "every goal.",
    )
    seeds: int = Field(default=1, ge=1, description="How often every attack is tried on a goal.")
    budget: int = Field(default=20, ge=1, description="Most asks of a search about one goal.")
    max_new_tokens: int = Field(default=96, ge=1, description="Most tokens of an answer.")
    max_prompt_tokens: int = Field(default=2048, ge=8, description="Longer prompts, in tokens, lose their beginning.")
    batch_size: int = Field(default=64, ge=1, description="Answers that are written at once.")
    int8: bool = Field(
        default=False, description="Answer with int8 weights (CPU): quicker, slightly another distribution."
    )
    attacker: Literal["raw", "aligned"] | None = Field(
        default=None, description="The model that writes prompts for PAIR and TAP; null: they are left out."
    )
    judge: str = Field(default="trained", description="Who says whether a reply did the harm: rules or trained.")
    seed: Seed = Field(default=0, description="Seed of the campaign.")


@dataclass(frozen=True)
class Arm:
    """A target of a campaign: a model, alone or behind a guard. Arms of one model share its answers."""

    name: str
    model: Target
    guard: Guard | None = None


class Attempt(NamedTuple):
    """One attack on one goal at one target."""

    attack: Attack
    goal: Goal
    target: str
    seed: int

    def number(self, *more: Any) -> int:
        """A seed of 32 bits from the campaign's, the attack and the goal; the same for every target."""
        return number_of(self.seed, self.attack.name, list(self.goal), *more)


class LeftOut(NamedTuple):
    """An attack that is not tried, on which target, and why."""

    attack: str
    target: str
    why: str


@dataclass(frozen=True)
class Plan:
    """The attempts in their order, what is left out, and what it costs at most."""

    attempts: tuple[Attempt, ...]
    left_out: tuple[LeftOut, ...]
    budgets: Mapping[str, int]  # by attack
    harmless: int = 0
    max_new_tokens: int = 0
    shared: Mapping[str, str] = field(default_factory=dict)  # arm -> the model that it shares

    def asks(self, target: str) -> int:
        """Most asks of a target, harmless prompts too."""
        return self.harmless + sum(self.budgets[a.attack.name] for a in self.attempts if a.target == target)

    @property
    def targets(self) -> list[str]:
        """Targets, in their order."""
        return list(dict.fromkeys(attempt.target for attempt in self.attempts))

    @property
    def total(self) -> int:
        """Most asks of all targets."""
        return sum(self.asks(target) for target in self.targets)

    def rows(self) -> list[dict[str, Any]]:
        """What each target is asked at most, as JSON values."""
        return [
            {
                "target": target,
                "attempts": sum(attempt.target == target for attempt in self.attempts),
                "asks": self.asks(target),
                "answer_tokens": self.asks(target) * self.max_new_tokens,
                "shares": self.shared.get(target, ""),
            }
            for target in self.targets
        ]

    def lines(self) -> list[str]:
        """The plan for people."""
        attacks = {attempt.attack.name: attempt.attack.family for attempt in self.attempts}
        goals = {attempt.goal for attempt in self.attempts}
        principles = {goal.principle for goal in goals}
        seeds = {attempt.seed for attempt in self.attempts}
        families = set(attacks.values())
        text = [
            f"{len(attacks)} attacks of {len(families)} families x {len(goals)} goals of {len(principles)} principles "
            f"x {len(self.targets)} targets x {len(seeds)} seeds: {len(self.attempts):,} attempts"
        ]
        for row in self.rows():
            shares = f", of which what {row['shares']} is asked too is answered once" if row["shares"] else ""
            text.append(
                f"  {row['target']}: {row['attempts']:,} attempts, at most {row['asks']:,} asks and "
                f"{row['answer_tokens']:,} tokens of answers{shares}"
            )
        reasons: dict[tuple[str, str], list[str]] = {}
        for own in self.left_out:
            if own.target == REFUSES:
                continue
            reasons.setdefault((own.attack, own.why), []).append(own.target)
        for (attack, why), targets in reasons.items():
            text.append(f"  left out: {attack} on {', '.join(targets)}: {why}")
        return text


def key_of(*parts: Any) -> str:
    """A digest that names anything that JSON can write."""
    return sha256_text(canonical(parts))[:32]


def number_of(*parts: Any) -> int:
    """A seed of 32 bits from anything that JSON can write."""
    return int(key_of(*parts)[:8], 16)


def make(
    config: CampaignConfig,
    attacks: Sequence[Attack],
    goals: Sequence[Goal],
    arms: Sequence[Arm],
    *,
    harmless: int = 0,
    attacker: bool = False,
    files: Collection[str] = (),
) -> Plan:
    """The attempts, model by model, so that one model after the other is held in memory.

    Args:
        attacker: whether there is a model that writes prompts; files: names of the user's lists.
    """
    attempts: list[Attempt] = []
    left_out: list[LeftOut] = []
    seeds = range(config.seed, config.seed + config.seeds)
    for arm in arms:
        able = []
        for attack in attacks:
            if why := _lacking(attack, arm, attacker, files):
                left_out.append(LeftOut(attack.name, arm.name, why))
            else:
                able.append(attack)
        pairs = _pairs(able, goals, config.attempts_per_cell)
        attempts += [Attempt(attack, goal, arm.name, seed) for attack, goal in pairs for seed in seeds]
    budgets = {attack.name: config.budget if attack.asks is None else attack.asks for attack in attacks}
    shared = {arm.name: arm.model.name for arm in arms if arm.guard is not None}
    return Plan(tuple(attempts), tuple(left_out), budgets, harmless, config.max_new_tokens, shared)


def _pairs(attacks: Sequence[Attack], goals: Sequence[Goal], most: int | None) -> list[tuple[Attack, Goal]]:
    """Attacks with goals, in their order; of a family and a principle at most so many, every attack once before any
    attack twice.

    A goal with a secret is one of extraction, and only attacks that extract are tried on it.
    """
    fitting = [
        (attack, goal) for attack in attacks for goal in goals if (attack.family == EXTRACTION) == bool(goal.secret)
    ]
    if most is None:
        return fitting
    cells: dict[tuple[str, str], list[int]] = {}
    for place, (attack, goal) in enumerate(fitting):
        cells.setdefault((attack.family, goal.principle), []).append(place)
    kept: set[int] = set()
    for places in cells.values():
        digest = {place: key_of(fitting[place][0].name, list(fitting[place][1])) for place in places}
        seen: Counter[str] = Counter()
        ranked = []
        for place in sorted(places, key=digest.__getitem__):
            name = fitting[place][0].name
            ranked.append((seen[name], digest[place], place))
            seen[name] += 1
        kept |= {place for _, _, place in sorted(ranked)[:most]}
    return [pair for place, pair in enumerate(fitting) if place in kept]


def _lacking(attack: Attack, arm: Arm, attacker: bool, files: Collection[str]) -> str:
    """Why an attack is not tried on a target; empty if it is."""
    if arm.model.name == REFUSES and (attack.adaptive or attack.needs):
        return "a search finds nothing where everything is refused"
    if "attacker" in attack.needs and not attacker:
        return "no model writes its prompts (--attacker)"
    if "weights" in attack.needs and arm.model.weights is None:
        return "the target's weights are elsewhere"
    if "words" in attack.needs and not files:
        return "no list of words was given"
    return ""
