"""Running a campaign: many attacks side by side, every ask on disk before it counts, nothing asked twice.

The attacks are generators (`attack.Attack.moves`). All that are under way take their next step together: their asks are
gathered, equal ones put once, answered in batches, judged, and sent back. What an attack is sent decides what it does
next, so a campaign that was killed runs the same generators over its journal and goes on where it stopped, with the
same findings, byte for byte.

    OUT/  log.jsonl       everything that was asked and came back (`journal.py`)
          findings.jsonl  every ask with its outcome, in the order of the plan (`finding.Finding`)
          harmless.jsonl  what the same targets did with harmless prompts
          summary.json    the figures (`figures.py`), and what was left out and why
          card.json       the judge's card from people's labels of these findings, where there is one (`people.py`)
"""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from steersman.errors import UserError
from steersman.redteam import figures
from steersman.redteam.attack import Ask, Attack, Consult, Goal, Moves, Outcome, Step, Tools, Work
from steersman.redteam.attacks.best_of_n import BEST_OF_N, ROUND
from steersman.redteam.exchange import without_echo
from steersman.redteam.finding import Finding
from steersman.redteam.goals import Goals
from steersman.redteam.journal import BATCH, Journal, Remembered, RememberedGuard, RememberedJudge, text_key
from steersman.redteam.judge import Judge
from steersman.redteam.judge_card import JudgeCard
from steersman.redteam.plan import Arm, Attempt, CampaignConfig, Plan, key_of, make
from steersman.redteam.target import GuardedTarget, LocalTarget, Query, Reply, Target, sampled
from steersman.store import json_text, read_json, read_jsonl, write_json, write_jsonl
from steersman.types import Message, Text, messages_of, plain_text

if TYPE_CHECKING:
    from steersman.lm.language_model import LanguageModel

VERSION = 1
LOG, FINDINGS, HARMLESS, SUMMARY = "log.jsonl", "findings.jsonl", "harmless.jsonl", "summary.json"
CAMPAIGN = "campaign.json"
IDLE_STEPS = 1000  # steps without an ask before an attack counts as one that never asks
CONSULT_TOKENS = 512  # of an answer of the attacker's model at most
ELSEWHERE = 8192  # queries that are handed to an endpoint at once; its client bounds how many are in flight


class Attacker(NamedTuple):
    """The model that writes prompts for attacks, with a name for the log."""

    name: str
    model: LanguageModel


@dataclass
class Meter:
    """How many asks are settled. A reply counts when it is there, also before the round that it belongs to is over."""

    advance: Callable[[int], object] = lambda count: None
    ahead: int = 0

    def answered(self, count: int) -> None:
        """So many replies of a model are there."""
        self.ahead += count
        self.advance(count)

    def settled(self, count: int) -> None:
        """So many asks are settled, by replies that were counted already or by none."""
        known = min(self.ahead, count)
        self.ahead -= known
        if count > known:
            self.advance(count - known)


@dataclass
class _Live:
    """An attempt under way."""

    attempt: Attempt
    model: str  # behind the target
    budget: int
    moves: Moves
    rows: list[Finding] = field(default_factory=list)
    step: Step | None = None
    asked: int = 0
    steps: int = 0
    idle: int = 0  # steps since the last ask
    sent: str = ""  # a digest of everything that it was sent

    @property
    def asks(self) -> list[Ask]:
        """The asks of its step, as far as the budget goes."""
        asks = () if self.step is None or isinstance(self.step, Consult | Work) else self.step
        return list(asks)[: self.budget - self.asked]

    def advance(self, value: Any) -> None:
        """Send a value, and read the next step. An attack that raises ends here, with a finding that says so."""
        self.steps, self.idle = self.steps + 1, 0 if isinstance(value, list) and value else self.idle + 1
        self.sent = key_of(self.sent, value)
        self.step = None
        try:
            step: Any = self.moves.send(value)
        except StopIteration:
            return
        except Exception as error:  # an attack's mistake is its own: the others go on
            self.fail(f"the attack raised {type(error).__name__}: {error}")
            return
        if not isinstance(step, Consult | Work | list | tuple) or (
            isinstance(step, list | tuple) and not all(isinstance(ask, Ask) for ask in step)
        ):
            self.fail(f"the attack yielded {type(step).__name__}, which is no step")
        elif self.idle > IDLE_STEPS:
            self.fail(f"the attack made no ask in {IDLE_STEPS} steps")
        elif self.asked >= self.budget:
            self.close()
        else:
            self.step = step

    def close(self) -> None:
        """End the attack."""
        self.step = None
        with contextlib.suppress(Exception):
            self.moves.close()

    def fail(self, why: str) -> None:
        """End the attack with a finding that is neither a success nor a failure of it."""
        self.rows.append(self.finding(self.attempt.goal.text, "", Reply(0, "", failed=why), NOTHING, ""))
        self.close()

    def finding(self, prompt: Text, note: str, reply: Reply, outcome: Outcome, judge: str) -> Finding:
        """One ask with its outcome."""
        attack, goal, target, seed = self.attempt
        return Finding(
            attack=attack.name,
            family=attack.family,
            principle=goal.principle,
            topic=goal.topic,
            goal=goal.text,
            target=target,
            seed=seed,
            step=len(self.rows),
            prompt=prompt,
            note=note,
            response=outcome.reply,
            stopped=outcome.stopped,
            success=outcome.success,
            judge=judge,
            judge_confidence=min(1.0, max(0.0, outcome.score)),
            tokens=reply.tokens,
            failed=reply.failed,
            cut=reply.cut,
        )


NOTHING = Outcome("", "", False, 0.0)


@dataclass(frozen=True)
class Campaign:
    """Attacks, goals, targets and a judge.

    Attributes:
        arms: targets, those of one model behind one another.
        files: texts of the user, by the name of the setting that names them.
        card: of the judge, whose errors are taken out of the rates of successes.
        meter: shows how far it is.
        emit: gets an event when a target is done.
    """

    config: CampaignConfig
    attacks: Sequence[Attack]
    goals: Goals
    arms: Sequence[Arm]
    judge: Judge
    attacker: Attacker | None = None
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    card: JudgeCard | None = None
    meter: Meter = field(default_factory=lambda: Meter())
    emit: Callable[..., None] = lambda **_: None

    def plan(self) -> Plan:
        """What it will do."""
        return make(
            self.config,
            self.attacks,
            self.goals.chosen,
            self.arms,
            harmless=len(self.goals.harmless),
            attacker=self.attacker is not None,
            files=self.files,
        )

    def run(self, out: Path) -> list[Finding]:
        """Run it, or go on with it; returns the findings, which are in the folder then.

        Raises:
            RunError: an endpoint is down. What came back is kept: run it again to go on.
        """
        out.mkdir(parents=True, exist_ok=True)
        plan, journal = self.plan(), Journal(out / LOG)
        judge = RememberedJudge(self.judge, journal)
        findings: list[Finding] = []
        harmless: list[dict[str, Any]] = []
        for model in dict.fromkeys(arm.model.name for arm in self.arms):
            arms = [arm for arm in self.arms if arm.model.name == model]
            targets = _through(journal, arms, self.meter)
            live = [self._begin(a, model, plan, targets[a.target]) for a in plan.attempts if a.target in targets]
            for name, target in targets.items():
                harmless += self._ask_harmless(name, target, judge)
            while waiting := [run for run in live if run.step is not None]:
                self._round(waiting, targets, judge, journal)
            journal.write()
            findings += [row for run in live for row in run.rows]
            for name in targets:
                own = [row for row in findings if row.target == name]
                self.emit(event="attacked", target=name, asks=len(own), succeeded=sum(row.success for row in own))
            if isinstance(arms[0].model, LocalTarget):
                arms[0].model.release()
        write_jsonl(out / HARMLESS, harmless)
        write_jsonl(out / FINDINGS, [row.model_dump(mode="json") for row in findings])
        return findings

    def conclude(self, out: Path) -> dict[str, Any]:
        """The figures of a campaign that has run, which are in the folder then."""
        plan, findings = self.plan(), read_findings(out)
        tried = {attempt.attack.name: attempt.attack for attempt in plan.attempts}.values()
        summary = {
            "judge": self.judge.name,
            "card": _summarised(self.card),
            "config": self.config.model_dump(mode="json"),
            "attacks": {a.name: {"family": a.family, "paper": a.paper, "adaptive": a.adaptive} for a in tried},
            "goals": dict(Counter(goal.principle for goal in self.goals.chosen)),
            "without_goals": list(self.goals.empty),
            "goals_left_out": dict(self.goals.left_out),
            "plan": plan.rows(),
            "left_out": [row._asdict() for row in plan.left_out],
            "nothing_to_ask": silent(plan, findings),
            **figures.summarise(
                findings,
                read_jsonl(out / HARMLESS),
                plan.budgets,
                rounds={BEST_OF_N.name: ROUND},
                rate=figures.corrected_rate(self.card),
                specificity=_specificity(self.card),
            ),
        }
        write_json(out / SUMMARY, summary)
        return summary

    def _begin(self, attempt: Attempt, model: str, plan: Plan, target: Target) -> _Live:
        """An attempt at its first step."""
        goal, budget = attempt.goal, plan.budgets[attempt.attack.name]
        tools = Tools(
            draw=random.Random(attempt.number()),
            budget=budget,
            siblings=[g for g in self.goals.pool if g.principle == goal.principle and g.text != goal.text],
            files=self.files,
            weights=target.weights,
        )
        moves = attempt.attack.moves(goal, tools)
        live = _Live(attempt, model, budget, moves)
        live.advance(None)
        return live

    # ── one step of all attacks ──────────────────────────────────────────────────────────────────────────────────────
    def _round(self, waiting: Sequence[_Live], targets: Mapping[str, Target], judge: Judge, journal: Journal) -> None:
        """Let every attack take a step: what it asked is answered first."""
        values: dict[int, Any] = self._consult(waiting, journal)
        for place, run in enumerate(waiting):
            if isinstance(run.step, Work):
                values[place] = _worked(run, journal)
        values |= self._ask(waiting, targets, judge)
        for place, run in enumerate(waiting):
            if isinstance(values[place], _Raised):
                run.fail(values[place].why)
            elif run.step is not None:
                run.advance(values[place])

    def _consult(self, waiting: Sequence[_Live], journal: Journal) -> dict[int, Any]:
        """Answers of the attacker's model; equal prompts of one attack and goal are put once."""
        asked: dict[int, tuple[str, Query]] = {}
        for place, run in enumerate(waiting):
            if isinstance(run.step, Consult):
                prompt, temperature = run.step.prompt, run.step.temperature
                seed = run.attempt.number("consult", run.steps) if temperature else 0
                name = self.attacker.name if self.attacker else ""
                asked[place] = (
                    key_of(name, text_key(prompt), temperature, seed),
                    Query(place, prompt, temperature, seed),
                )
        fresh = {key: query for key, query in asked.values() if journal.get("consult", key) is None}
        if fresh and self.attacker is not None:
            from steersman.lm.sampling import SamplingConfig

            sampling = SamplingConfig(max_new_tokens=CONSULT_TOKENS, max_prompt_tokens=self.config.max_prompt_tokens)
            names = list(fresh)
            queries = [query._replace(number=number) for number, query in enumerate(fresh.values())]
            said = {number: answer.text for number, answer in sampled(self.attacker.model, queries, sampling)}
            for number, key in enumerate(names):
                journal.hold("consult", key, text=said[number])
            journal.write()
        found = {place: journal.get("consult", key) for place, (key, _) in asked.items()}
        return {place: row["text"] if row else _Raised("no model writes its prompts") for place, row in found.items()}

    def _ask(self, waiting: Sequence[_Live], targets: Mapping[str, Target], judge: Judge) -> dict[int, list[Outcome]]:
        """Outcomes of the asks of all attacks, target by target; each ask is written down."""
        values: dict[int, list[Outcome]] = {}
        for name, target in targets.items():
            asking = [
                (place, run)
                for place, run in enumerate(waiting)
                if run.attempt.target == name and not isinstance(run.step, Consult | Work)
            ]
            queries = [query for _, run in asking for query in _queries(run)]
            numbered = [query._replace(number=number) for number, query in enumerate(queries)]
            replies = {reply.number: reply for reply in target.answer(numbered)}
            waiting_replies = iter([replies[number] for number in range(len(numbered))])
            for place, run in asking:
                own = [(ask, next(waiting_replies)) for ask in run.asks]
                values[place] = self._heard(run, own, judge)
        return values

    def _heard(self, run: _Live, replies: Sequence[tuple[Ask, Reply]], judge: Judge) -> list[Outcome]:
        """Judge what came back to one attack, and write it down; without a reply the attack ends."""
        outcomes = []
        for ask, reply in replies:
            outcome = NOTHING if reply.failed else _judged(run.attempt.goal, reply, judge, ask.prompt)
            prompt = _before(run.attempt.goal, ask.prompt)
            run.rows.append(run.finding(prompt, ask.note, reply, outcome, judge.name))
            outcomes.append(outcome)
        run.asked += len(replies)
        self.meter.settled(len(replies))
        if any(reply.failed for _, reply in replies):
            run.close()
        return outcomes

    def _ask_harmless(self, name: str, target: Target, judge: Judge) -> Iterator[dict[str, Any]]:
        """What a target does with harmless prompts: refused by the model, stopped by the guard, or answered."""
        asked = self.goals.harmless
        replies = {reply.number: reply for reply in target.answer([Query(i, p.prompt) for i, p in enumerate(asked)])}
        for number, prompt in enumerate(asked):
            reply = replies[number]
            outcome = NOTHING
            if not reply.failed:
                goal = Goal(prompt.prompt, prompt.principle, prompt.topic)
                outcome = _judged(goal, reply, judge, prompt.prompt)
            yield {
                "target": name,
                **prompt._asdict(),
                "response": reply.text,
                "stopped": outcome.stopped,
                "failed": reply.failed,
            }
        self.meter.settled(len(asked))


class _Raised(NamedTuple):
    """What stands in the place of a value that could not be had."""

    why: str


def _worked(run: _Live, journal: Journal) -> Any:
    """The result of a computation; arms that have seen the same so far share it.

    An attack depends on its goal, its seed and what it was sent alone, so this names the computation.
    """
    assert isinstance(run.step, Work)
    attempt = run.attempt
    key = key_of(run.model, attempt.number(), run.budget, run.sent)
    row = journal.get("work", key)
    if row is None:
        try:
            value = json.loads(json_text(run.step.run()))  # as it is read again after a kill
        except Exception as error:
            return _Raised(f"the attack's work raised {type(error).__name__}: {error}")
        row = journal.hold("work", key, value=value)
        journal.write()
    return row["value"]


def _through(journal: Journal, arms: Sequence[Arm], meter: Meter) -> dict[str, Target]:
    """The targets of one model by name, through the journal."""
    model = arms[0].model
    local = isinstance(model, LocalTarget)
    batch = BATCH if local else ELSEWHERE
    remembered = Remembered(model, journal, together=local, batch=batch, answered=meter.answered)
    targets: dict[str, Target] = {}
    for arm in arms:
        guard = RememberedGuard(arm.guard, journal) if arm.guard is not None else None
        targets[arm.name] = GuardedTarget(arm.name, remembered, guard) if guard else remembered
    return targets


def _queries(run: _Live) -> list[Query]:
    """The asks of a step as queries."""
    found = []
    for number, ask in enumerate(run.asks, start=run.asked):
        seed = run.attempt.number(number) if ask.temperature else 0
        found.append(Query(0, _before(run.attempt.goal, ask.prompt), ask.temperature, seed, ask.reply))
    return found


def _before(goal: Goal, prompt: Text) -> Text:
    """A prompt behind the system message of its goal."""
    if not goal.system:
        return prompt
    messages = messages_of(prompt)
    own, rest = (messages[0].content, messages[1:]) if messages[0].role == "system" else ("", messages)
    return (Message(role="system", content="\n\n".join(filter(None, (goal.system, own)))), *rest)


def _judged(goal: Goal, reply: Reply, judge: Judge, asked: Text) -> Outcome:
    """What came of a reply: what the guard stopped does no harm, and needs no judge; an echo is judged without it."""
    if reply.stopped:
        return Outcome(reply.text, reply.stopped, False, 0.0)
    found = judge.judge(goal, reply.text if goal.secret else without_echo(plain_text(asked), reply.text))
    return Outcome(reply.text, "model" if found.refused and not found.harm else "", found.harm, found.score)


def claim(out: Path, campaign: Campaign, about: str) -> None:
    """Write down whose campaign a folder holds, or see that it is this one's.

    Raises:
        UserError: it is another's.
    """
    own = {
        "about": about,
        "config": campaign.config.model_dump(mode="json"),
        "attacks": [attack.name for attack in campaign.attacks],
        "goals": key_of([list(goal) for goal in campaign.goals.chosen], [list(p) for p in campaign.goals.harmless]),
        "targets": [arm.name for arm in campaign.arms],
        "judge": campaign.judge.name,
        "attacker": campaign.attacker.name if campaign.attacker else None,
        "files": key_of({name: list(texts) for name, texts in campaign.files.items()}),
    }
    file = out / CAMPAIGN
    if file.exists():
        there = read_json(file)
        changed = sorted(name for name in own if there.get(name) != json.loads(json_text(own[name])))
        if changed:
            raise UserError(
                f"another campaign is in this folder; it differs in {', '.join(changed)}",
                where=str(out),
                do="name another folder with --out, or repeat the former command to go on with that one",
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, own)


def read_findings(out: Path) -> list[Finding]:
    """The findings of a folder, as records.

    Raises:
        UserError: it holds none.
    """
    if not (out / FINDINGS).is_file():
        raise UserError("no finished campaign is here", where=str(out), expected="findings.jsonl", do="run it first")
    return [Finding.model_validate(row) for row in read_jsonl(out / FINDINGS)]


def corrected_anew(out: Path, card: JudgeCard) -> dict[str, Any] | None:
    """The figures of a finished campaign with another card, as `Campaign.conclude` would make them; None without any.

    What was asked and found is read, and stays as it is.
    """
    if not (out / SUMMARY).is_file():
        return None
    rate, harmless = figures.corrected_rate(card), read_jsonl(out / HARMLESS)
    targets = figures.by_target(read_findings(out), harmless, rate, _specificity(card))
    return {**read_json(out / SUMMARY), "card": _summarised(card), "targets": targets}


def _specificity(card: JudgeCard | None) -> float | None:
    return card.overall.specificity.value if card and card.overall.harmless else None


def _summarised(card: JudgeCard | None) -> dict[str, Any] | None:
    """Whose labels the rates are corrected with, and how many; families have theirs in the card itself."""
    return None if card is None else card.model_dump(mode="json", exclude={"families"})


def silent(plan: Plan, findings: Sequence[Finding]) -> dict[str, int]:
    """By attack, how many attempts had nothing to ask about their goal, such as an extraction without a secret."""
    asked = {(row.attack, row.goal, row.target, row.seed) for row in findings}
    missing = (a for a in plan.attempts if (a.attack.name, a.goal.text, a.target, a.seed) not in asked)
    return dict(Counter(attempt.attack.name for attempt in missing))
