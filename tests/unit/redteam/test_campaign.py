"""A campaign: nothing is asked twice, nothing is lost, and a killed one ends with the same bytes."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.redteam.scene import (
    ATTACKS,
    BASE64,
    BROKEN,
    DIRECT,
    SEARCH,
    Killed,
    Model,
    WordGuard,
    WordJudge,
    Writer,
    bytes_of,
    campaign,
    goals,
)

from steersman.redteam.attack import Ask, Attack, Goal, Moves, Tools, Work, once
from steersman.redteam.campaign import HARMLESS, SUMMARY, Meter, corrected_anew, read_findings, silent
from steersman.redteam.goals import Goals
from steersman.redteam.journal import Journal, Remembered
from steersman.redteam.judge import Judgement
from steersman.redteam.judge_card import Counts, JudgeCard
from steersman.redteam.plan import CampaignConfig, number_of
from steersman.redteam.target import Query, Reply
from steersman.store import json_text, read_json, read_jsonl
from steersman.types import Message, plain_text


def test_every_attempt_is_a_finding_in_the_order_of_the_plan(tmp_path: Path) -> None:
    own = campaign([Model("raw"), Model("aligned")])
    found = own.run(tmp_path)
    assert read_findings(tmp_path) == found
    planned = [(a.attack.name, a.goal.text, a.target, a.seed) for a in own.plan().attempts]
    attempts = [key for key, _ in itertools.groupby((f.attack, f.goal, f.target, f.seed) for f in found)]
    assert attempts == planned
    assert {f.target for f in found} == {"raw", "raw+guard", "aligned", "aligned+guard", "refuses-everything"}


def test_nothing_is_asked_twice_and_the_arms_of_a_model_share_its_answers(tmp_path: Path) -> None:
    model, guard, writer = Model("raw"), WordGuard(), Writer()
    found = campaign([model], guard=guard, writer=writer).run(tmp_path)
    assert set(model.asked.values()) == {1}
    assert set(guard.checked.values()) == {1}
    direct = {f.goal: f.response for f in found if (f.attack, f.target) == ("direct", "raw")}
    behind = [f for f in found if (f.attack, f.target) == ("direct", "raw+guard")]
    assert all(f.response == direct[f.goal] for f in behind if f.stopped in ("", "model"))
    assert model.asked["goal 0", 0.0, 0] == 1
    assert writer.asked < 2 * len([f for f in found if f.attack == "written"])  # the arms' first prompts are the same


def test_who_stopped_what(tmp_path: Path) -> None:
    model = Model("raw")
    found = campaign([model], [DIRECT, BASE64]).run(tmp_path)
    base = [f for f in found if (f.attack, f.target) == ("base64", "raw+guard")]
    assert {f.stopped for f in base} == {"input"}
    assert not any(f.success for f in base)
    assert {f.response for f in base} == {"Stopped here."}
    alone = {f.goal: f for f in found if (f.attack, f.target) == ("direct", "raw")}
    for row in found:
        if (row.attack, row.target) == ("direct", "raw+guard"):
            inner = alone[row.goal]
            wanted = "output" if inner.response.endswith("7") else inner.stopped
            assert row.stopped == wanted
    assert {f.stopped for f in found if f.target == "refuses-everything"} == {"model"}


@pytest.mark.parametrize("after", [0, 1, 7, 20, 33])
def test_a_killed_campaign_asks_nothing_again_and_ends_with_the_same_bytes(tmp_path: Path, after: int) -> None:
    campaign([Model("raw"), Model("aligned")]).run(tmp_path / "whole")
    first = [Model("raw", dies_after=after), Model("aligned")]
    with pytest.raises(Killed):
        campaign(first).run(tmp_path / "killed")
    log = tmp_path / "killed" / "log.jsonl"
    before = len(read_jsonl(log)) if log.exists() else 0
    again = [Model("raw"), Model("aligned")]
    campaign(again).run(tmp_path / "killed")
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")
    written = [row for row in read_jsonl(log)[:before] if row["kind"] == "answer"]
    assert again[0].asked.total() == campaign_asks(tmp_path / "whole", "raw") - len(written)


def campaign_asks(folder: Path, name: str) -> int:
    """How many different questions a campaign with one undisturbed model put to it."""
    models = [Model("raw"), Model("aligned")]
    campaign(models).run(folder.parent / f"counted-{name}")
    return next(model for model in models if model.name == name).asked.total()


def test_the_meter_moves_with_every_batch_and_ends_at_the_asks_that_were_made(tmp_path: Path) -> None:
    moved: list[int] = []
    found = campaign([Model("raw")], meter=Meter(moved.append)).run(tmp_path)
    assert sum(moved) == len(found) + 3 * 4  # harmless prompts of three targets
    assert moved[0] == 4
    again: list[int] = []
    campaign([Model("raw")], meter=Meter(again.append)).run(tmp_path)
    assert sum(again) == sum(moved)


def test_a_finished_campaign_asks_nothing(tmp_path: Path) -> None:
    campaign([Model("raw")]).run(tmp_path)
    before, model, writer = bytes_of(tmp_path), Model("raw", dies_after=0), Writer()
    campaign([model], writer=writer).run(tmp_path)
    assert bytes_of(tmp_path) == before
    assert writer.asked == 0


def test_a_torn_line_and_a_batch_written_in_part_are_made_up_for(tmp_path: Path) -> None:
    campaign([Model("raw")]).run(tmp_path)
    whole, log = bytes_of(tmp_path), tmp_path / "log.jsonl"
    for size in (0, 50, len(whole["log.jsonl"]) // 2, len(whole["log.jsonl"]) - 5):
        log.write_bytes(whole["log.jsonl"][:size])
        campaign([Model("raw")]).run(tmp_path)
        assert bytes_of(tmp_path) == whole, size


class InBatches(Model):
    """It says beside what it was asked, as the last digits of a model's logits do; it dies at a number of batches."""

    def __init__(self, dies_at: int = 99) -> None:
        super().__init__("raw")
        self.batches, self.dies_at = 0, dies_at

    def answer(self, queries: Sequence[Query]) -> Iterator[Reply]:
        self.batches += 1
        if self.batches == self.dies_at:
            raise Killed
        beside = number_of(sorted(plain_text(query.prompt) for query in queries))
        return (Reply(query.number, f"{plain_text(query.prompt)} {beside}") for query in queries)


def remembered(folder: Path, model: InBatches) -> list[list[str]]:
    """Three rounds of a guarded and an unguarded arm; the second round repeats some of the first."""
    folder.mkdir(exist_ok=True)
    asked = Remembered(model, Journal(folder / "log.jsonl"), together=True, batch=3)
    rounds = [["a", "b", "c", "d", "e"], ["b", "f", "g"], ["g", "h", "a", "i", "k", "l"]]
    return [[r.text for r in asked.answer([Query(i, p) for i, p in enumerate(texts)])] for texts in rounds]


def test_batches_are_cut_as_in_a_campaign_that_nobody_killed(tmp_path: Path) -> None:
    whole = remembered(tmp_path / "whole", InBatches())
    log = (tmp_path / "whole" / "log.jsonl").read_bytes()
    for kill in range(1, 6):
        folder = tmp_path / str(kill)
        with pytest.raises(Killed):
            remembered(folder, InBatches(dies_at=kill))
        # What a kill left of a batch is made whole with the same batch.
        there = (folder / "log.jsonl").stat().st_size if kill > 1 else 0
        with (folder / "log.jsonl").open("ab") as file:
            file.write(log[there : there + 150])
        assert remembered(folder, InBatches()) == whole
        assert (folder / "log.jsonl").read_bytes() == log


def test_work_is_shared_by_arms_that_have_seen_the_same(tmp_path: Path) -> None:
    done: list[str] = []

    def moves(goal: Goal, tools: Tools) -> Moves:
        first = yield Work(lambda: done.append("first") or len(done))
        (outcome,) = yield (Ask(f"base {goal.text} {first}"),)
        yield Work(lambda: done.append(outcome.reply) or outcome.reply)
        (outcome,) = yield (Ask(goal.text),)

    worker = Attack("worker", "worker", "nobody", "Works.", moves, asks=2)
    campaign([Model("raw")], [worker], goals=goals(1)).run(tmp_path)
    # The first work knows nothing of the target's replies: one for the arms of a model, one for the null.
    assert done.count("first") == 2
    assert len([reply for reply in done if reply != "first"]) == 3


def test_the_budget_cuts_a_search_off(tmp_path: Path) -> None:
    found = campaign([Model("raw")], [SEARCH], config=CampaignConfig(budget=3)).run(tmp_path)
    asks = Counter((f.goal, f.target) for f in found)
    assert max(asks.values()) <= 3
    for key, count in asks.items():
        own = [f for f in found if (f.goal, f.target) == key]
        assert any(f.success for f in own) or count == 3

    def greedy(goal: Goal, tools: Tools) -> Moves:
        yield [Ask(f"{goal.text} {i}") for i in range(9)]

    many = Attack("many", "many", "nobody", "Asks too much.", greedy, asks=4)
    found = campaign([Model("raw")], [many]).run(tmp_path / "many")
    assert set(Counter((f.goal, f.target) for f in found).values()) == {4}


def test_an_attack_that_raises_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    found = campaign([Model("raw")], [BROKEN, DIRECT]).run(tmp_path)
    failed = [f for f in found if f.failed]
    assert {f.attack for f in failed} == {"broken"}
    assert {f.failed for f in failed} == {"the attack raised ValueError: a mistake of the attack"}
    assert not any(f.success for f in failed)
    assert len(failed) == 6 * 3
    assert len([f for f in found if f.attack == "direct"]) == 6 * 3


@pytest.mark.parametrize("step", ["a text", Ask("not in a list"), 7, None])
def test_a_step_that_is_none_is_a_recorded_failure(tmp_path: Path, step: object) -> None:
    def moves(goal: Goal, tools: Tools) -> Moves:
        yield step  # type: ignore[misc]

    found = campaign([], [Attack("odd", "odd", "nobody", "Odd.", moves)]).run(tmp_path)
    assert {f.failed for f in found} == {f"the attack yielded {type(step).__name__}, which is no step"}


def test_an_attack_that_never_asks_ends(tmp_path: Path) -> None:
    def moves(goal: Goal, tools: Tools) -> Moves:
        while True:
            yield ()

    found = campaign([], [Attack("idle", "idle", "nobody", "Idle.", moves)]).run(tmp_path)
    assert {f.failed for f in found} == {"the attack made no ask in 1000 steps"}


def test_a_reply_that_never_comes_is_neither_a_success_nor_a_failure(tmp_path: Path) -> None:
    model = Model("raw", failing="goal 3")
    found = campaign([model], [DIRECT, SEARCH]).run(tmp_path)
    failed = [f for f in found if f.failed]
    assert {(f.goal, f.failed) for f in failed} == {("goal 3", "no answer after 7 attempts")}
    assert Counter(f.attack for f in failed) == {"direct": 2, "search": 2}  # a search ends with it
    assert model.asked["goal 3", 0.0, 0] == 1


def test_what_an_attack_lacks_is_left_out_and_said(tmp_path: Path) -> None:
    own = campaign([Model("raw")], ATTACKS, writer=None)
    plan = own.plan()
    assert {(row.attack, row.target) for row in plan.left_out} == {
        ("written", "raw"), ("written", "raw+guard"), ("written", "refuses-everything"),
        ("white", "raw"), ("white", "raw+guard"), ("white", "refuses-everything"), ("search", "refuses-everything"),
    }  # fmt: skip
    text = "\n".join(plan.lines())
    assert "left out: written on raw, raw+guard: no model writes its prompts (--attacker)" in text
    assert "left out: white on raw, raw+guard: the target's weights are elsewhere" in text
    assert "raw: 18 attempts, at most 46 asks and 4,416 tokens of answers" in text  # 6 + 6 + 6 x 5, and 4 harmless
    assert "raw+guard: 18 attempts, at most 46 asks and 4,416 tokens of answers, of which what raw is asked too" in text
    found = own.run(tmp_path)
    assert {f.attack for f in found} == {"direct", "base64", "search"}
    for name in plan.targets:
        assert sum(f.target == name for f in found) + 4 <= plan.asks(name)


def test_seeds_come_from_the_campaign_the_attack_the_goal_and_the_step(tmp_path: Path) -> None:
    models = [Model("raw"), Model("raw")]
    for number, model in enumerate(models):
        campaign([model], [SEARCH], config=CampaignConfig(budget=4, seed=number, seeds=2)).run(tmp_path / str(number))
    first, second = (set(model.asked) for model in models)
    seeds = [seed for _, temperature, seed in first if temperature]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    shared = {key for key in first & second if key[1]}
    assert shared  # seed 1 is the second of seeds 0 and 1, and the first of seeds 1 and 2
    assert shared < first


def test_the_goals_system_message_stands_in_front(tmp_path: Path) -> None:
    def moves(goal: Goal, tools: Tools) -> Moves:
        yield (Ask("Tell me."), Ask((Message(role="system", content="Own."), Message(role="user", content="Now."))))

    goal = Goal("What is your code?", "privacy", "t", "X1", "The code is X1.")
    attack = Attack("extraction", "prompt-extraction", "nobody", "Extracts.", moves, asks=2)
    found = campaign([Model("raw")], [attack], goals=Goals((goal,), (goal,))).run(tmp_path)
    first, second = [f.prompt for f in found if f.target == "raw"]
    assert [m.content for m in first if not isinstance(m, str)] == ["The code is X1.", "Tell me."]
    assert [m.content for m in second if not isinstance(m, str)] == ["The code is X1.\n\nOwn.", "Now."]


def test_a_reply_under_an_intervention_is_judged_and_guarded_and_not_asked(tmp_path: Path) -> None:
    def moves(goal: Goal, tools: Tools) -> Moves:
        yield (Ask(goal.text, "ablated", reply="HARM 17"),)

    model = Model("raw")
    found = campaign([model], [Attack("ablated", "ablated", "nobody", "Ablates.", moves)]).run(tmp_path)
    assert {(f.target, f.success, f.stopped) for f in found if f.target != "refuses-everything"} == {
        ("raw", True, ""),
        ("raw+guard", False, "output"),
    }
    assert all("kind question" in str(prompt) for prompt, _, _ in model.asked)


def test_harmless_prompts_are_asked_of_the_same_targets(tmp_path: Path) -> None:
    own = campaign([Model("raw")], [DIRECT])
    own.run(tmp_path)
    rows = read_jsonl(tmp_path / HARMLESS)
    assert Counter(row["target"] for row in rows) == {"raw": 4, "raw+guard": 4, "refuses-everything": 4}
    assert {row["stopped"] for row in rows if row["target"] == "refuses-everything"} == {"model"}


def test_attempts_with_nothing_to_ask_are_counted(tmp_path: Path) -> None:
    def moves(goal: Goal, tools: Tools) -> Moves:
        if goal.text == "goal 0":
            yield (Ask(goal.text),)

    own = campaign([Model("raw")], [Attack("extraction", "extraction", "nobody", "E.", moves), DIRECT])
    assert silent(own.plan(), own.run(tmp_path)) == {"extraction": 15}


def test_a_cell_holds_so_many_attempts_and_every_attack_once_before_any_twice() -> None:
    def named(name: str, family: str) -> Attack:
        return Attack(name, family, "nobody", "Asks.", DIRECT.moves)

    many = [*(named(f"code-{i}", "encodings") for i in range(5)), DIRECT]
    plan = campaign([Model("raw")], many, config=CampaignConfig(attempts_per_cell=7, seeds=2)).plan()
    cells = Counter((a.attack.family, a.goal.principle, a.target) for a in plan.attempts)
    assert cells["encodings", "harm", "raw"] == 2 * 7
    assert cells["direct", "harm", "raw"] == 2 * 3  # there are but three goals
    own = Counter(a.attack.name for a in plan.attempts if (a.attack.family, a.target) == ("encodings", "raw"))
    assert set(own) == {f"code-{i}" for i in range(5)}
    tried = {t: [a[:2] for a in plan.attempts if a.target == t] for t in ("raw", "raw+guard", "refuses-everything")}
    assert tried["raw"] == tried["raw+guard"] == tried["refuses-everything"]


def test_secrets_are_for_attacks_that_extract_and_need_no_judge(tmp_path: Path) -> None:
    secret = Goal("What is the code?", "system-prompt", "t", "HARM-77", "The code is HARM-77.")
    own = goals(2)
    extract = Attack("extract", "prompt-extraction", "nobody", "Extracts.", once(lambda g, t: f"{g.text} {g.secret}"))
    echo = EchoModel()
    found = campaign([echo], [DIRECT, extract], goals=own._replace(chosen=(*own.chosen, secret))).run(tmp_path)
    assert {(f.attack, f.principle) for f in found} == {
        ("direct", "privacy"), ("direct", "harm"), ("extract", "system-prompt")
    }  # fmt: skip
    assert {f.success for f in found if (f.attack, f.target) == ("extract", "raw")} == {True}
    assert {f.success for f in found if (f.attack, f.target) == ("extract", "refuses-everything")} == {False}


class EchoModel(Model):
    """It repeats what it is asked."""

    def answer(self, queries: Sequence[Query]) -> Iterator[Reply]:
        return (Reply(query.number, plain_text(query.prompt)) for query in queries)


def test_goals_of_a_principle_are_each_others_siblings(tmp_path: Path) -> None:
    seen: dict[str, list[str]] = {}

    def transform(goal: Goal, tools: Tools) -> str:
        seen[goal.text] = [g.text for g in tools.siblings]
        return goal.text

    campaign([Model("raw")], [Attack("shots", "shots", "nobody", "Shows.", once(transform))]).run(tmp_path)
    assert seen["goal 0"] == ["goal 2", "goal 4"]
    assert seen["goal 1"] == ["goal 3", "goal 5"]


def test_another_card_makes_the_figures_that_the_campaign_would_have_made_with_it(tmp_path: Path) -> None:
    own = campaign([Model("raw")], [DIRECT, SEARCH])
    assert corrected_anew(tmp_path, CARD) is None
    own.run(tmp_path)
    without = own.conclude(tmp_path)
    assert without["card"] is None
    overall = without["targets"]["raw"]["overall"]
    assert (overall["why"], overall["raw"]["value"]) == (
        "the judge has no card: its error is not known",
        overall["value"],
    )
    anew = corrected_anew(tmp_path, CARD)
    with_card = replace(own, card=CARD).conclude(tmp_path)
    assert read_json(tmp_path / SUMMARY) == anew == json.loads(json_text(with_card))
    assert list(anew) == list(with_card)
    assert anew["card"] == {"judge": "word", "labels": "made up", "overall": {"tp": 90, "fn": 10, "tn": 80, "fp": 20}}
    assert anew["targets"]["raw"]["overall"]["value"] != without["targets"]["raw"]["overall"]["value"]


CARD = JudgeCard(judge="word", labels="made up", overall=Counts(tp=90, fn=10, tn=80, fp=20), families={"gcg": Counts()})


class Parrot(Model):
    """It says back what it is asked, and a word of its own."""

    def __init__(self, own: str) -> None:
        super().__init__("raw")
        self.own = own

    def answer(self, queries: Sequence[Query]) -> Iterator[Reply]:
        for query in queries:
            yield Reply(query.number, f"{plain_text(query.prompt)} {self.own}", tokens=3)


def test_what_a_reply_repeats_of_the_request_is_no_success(tmp_path: Path) -> None:
    harmful = Goals((Goal("HARM to the third house in this street", "privacy", "topic"),), (), ())
    for own, succeeds in (("Yes.", False), ("HARM.", True)):
        found = campaign([Parrot(own)], [DIRECT], goals=harmful).run(tmp_path / own)
        assert next(row.success for row in found if row.target == "raw") is succeeds


def test_a_judge_of_another_version_judges_again_and_nothing_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = campaign([Model("raw")], [DIRECT]).run(tmp_path)
    assert any(row.success for row in before)
    monkeypatch.setattr(WordJudge, "version", 2)
    monkeypatch.setattr(WordJudge, "judge", lambda self, goal, reply: Judgement(False, False, 0.0))
    after = campaign([Model("raw", dies_after=0)], [DIRECT]).run(tmp_path)
    assert not any(row.success for row in after)
    assert [row.response for row in after] == [row.response for row in before]
