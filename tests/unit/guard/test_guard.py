"""The guard's core: one ruling from what its rails say, and what becomes of a rail that fails."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from steersman.constitution.document import Constitution, GuardRule, GuardSettings, load
from steersman.guard import guard as module
from steersman.guard.guard import Guard, Limits
from steersman.guard.normalise import View, Views
from steersman.guard.verdict import Decision, Evidence, Exchange, Part, Verdict

ASSISTANT = load("assistant")
QUICK = Limits(rail_ms=200, ms_per_1000_characters=0, by_clock=2, judge_ms=400, hung=2)


def asked(text: str, answer: str | None = None, **more: Any) -> Exchange:
    return Exchange((Part("messages[0].content", "user", text),), answer, **more)


class Says:
    """A rail that does what it is told."""

    def __init__(self, said: Callable[[Exchange], Any] | Sequence[Verdict], name: str = "says") -> None:
        self.said, self.name, self.reach = said, name, 10
        self.calls = 0

    def check(self, exchange: Exchange, views: dict[str, Views]) -> Any:
        self.calls += 1
        return self.said(exchange) if callable(self.said) else self.said


def verdict(decision: Decision, principle: str = "refuse-harm", rail: str = "says", **more: Any) -> Verdict:
    return Verdict(rail=rail, principle=principle, decision=decision, **more)


def guarded(*rails: Any, constitution: Constitution = ASSISTANT, **more: Any) -> Guard:
    return Guard(constitution, rails, limits=more.pop("limits", QUICK), **more)


def ruled_by(said: Any) -> Any:
    return guarded(Says(lambda _: said)).check(asked("hello"))


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "error",
    [ValueError("x"), MemoryError(), RecursionError(), SystemExit(1), GeneratorExit(), TimeoutError(), OSError(28, "")],
    ids=lambda error: type(error).__name__,
)
def test_a_rail_that_raises_blocks(error: BaseException) -> None:
    def raises(_: Exchange) -> None:
        raise error

    guard = guarded(Says(raises), Says([], "fine"), limits=Limits(rail_ms=5000))
    for ruling in (guard.check(asked("hello")), asyncio.run(guard.acheck(asked("hello")))):
        assert (ruling.decision, ruling.stops) == ("block", True)
        assert ruling.verdict is not None
        assert (ruling.verdict.decision, ruling.verdict.rail) == ("failed", "says")
        assert ruling.verdict.note == f"it raised {type(error).__name__}"
    assert guarded(Says([], "fine")).check(asked("hello")).decision == "allow"


@pytest.mark.parametrize(
    "said",
    [
        None,
        "allow",
        b"",
        {"decision": "allow"},
        7,
        ["allow"],
        [None],
        [verdict("allow", score=math.nan)],
        [verdict("allow", score=math.inf)],
        [verdict("allow", score=-0.1)],
        [verdict("allow", threshold=math.nan)],
        [verdict("allow", rail="another")],
        [Verdict.model_construct(rail="says", principle="x", decision="perhaps", score=None, threshold=None)],
        [verdict("block", evidence=(Evidence(where="messages[0].content", start=2, end=99),))],
        [verdict("block", evidence=(Evidence(where="elsewhere", start=0, end=1),))],
        (1 / 0 for _ in range(1)),
    ],
    ids=range(16),
)
def test_what_is_no_verdict_blocks(said: Any) -> None:
    ruling = ruled_by(said)
    assert ruling.decision == "block"
    assert ruling.verdict.decision == "failed"


def test_an_interrupt_goes_on_to_the_caller() -> None:
    def interrupted(_: Exchange) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded(Says(interrupted)).check(asked("hello"))


def test_a_rail_that_hangs_holds_up_nobody() -> None:
    """Its calls are left behind, then it is called no more, and once they end it is called again."""
    free = threading.Event()
    hangs = Says(lambda _: free.wait(20) and [])
    guard = guarded(hangs, Says([], "fine"))
    began = time.monotonic()
    for _ in range(2):
        ruling = guard.check(asked("hello"))
        assert (ruling.decision, ruling.verdict and ruling.verdict.note) == ("block", "no answer within 400 ms")
    assert guard.degraded == {"says": 2}
    ruling = guard.check(asked("hello"))
    assert ruling.verdict is not None
    assert ruling.verdict.note == "not called: 2 calls before hang"
    assert hangs.calls == 2
    assert time.monotonic() - began < 15
    free.set()
    deadline = time.monotonic() + 5
    while guard.degraded and time.monotonic() < deadline:
        time.sleep(0.01)
    assert guard.check(asked("hello")).decision == "allow"


def test_a_hung_call_is_left_behind_though_nobody_waits() -> None:
    """A client that goes away must not leave its thread to a rail that hangs."""
    free = threading.Event()
    guard = guarded(Says(lambda _: free.wait(20) and []), limits=QUICK.model_copy(update={"threads": 1, "hung": 3}))

    async def client_goes() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(guard.acheck(asked("hello")), 0.03)

    asyncio.run(client_goes())
    deadline = time.monotonic() + 10
    while not guard.degraded and time.monotonic() < deadline:
        time.sleep(0.05)
    assert guard.degraded == {"says": 1}
    assert guarded(Says([], "fine")).check(asked("hello")).decision == "allow"
    free.set()


def test_the_loop_runs_while_a_rail_works() -> None:
    guard = guarded(Says(lambda _: time.sleep(0.05) or []))  # type: ignore[func-returns-value]

    async def both() -> int:
        ticks, check = 0, asyncio.create_task(guard.acheck(asked("hello")))
        while not check.done():
            await asyncio.sleep(0.002)
            ticks += 1
        assert check.result().decision == "allow"
        return ticks

    assert asyncio.run(both()) >= 3


def test_a_closed_guard_blocks() -> None:
    guard = guarded(Says([]))
    guard.close()
    assert guard.check(asked("hello")).decision == "block"


@pytest.mark.parametrize(
    "fault", [lambda _: [], lambda text: (View(text),), lambda _: Views([View("other")]), lambda _: 1 / 0]
)
def test_a_text_without_views_is_blocked(monkeypatch: pytest.MonkeyPatch, fault: Callable[[str], Any]) -> None:
    monkeypatch.setattr(module.normalise, "views", fault)
    rail = Says([])
    ruling = guarded(rail).check(asked("hello"))
    assert (ruling.decision, ruling.verdict and ruling.verdict.rail, rail.calls) == ("block", "normalise", 0)
    assert ("says", "the text has no views") in ruling.not_run


def test_two_texts_with_one_path_are_blocked() -> None:
    """One of them would hide the other."""
    twice = Exchange((Part("m", "user", "bad"), Part("m", "user", "good")))
    assert guarded(Says([])).check(twice).decision == "block"
    assert guarded(Says([])).check(Exchange((Part("answer", "user", "bad"),), "good")).decision == "block"


# ── the ruling ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_strictest_decides_then_the_priority_then_the_severity() -> None:
    over, under = ASSISTANT.priorities[0].over, ASSISTANT.priorities[0].under
    for first, second in ((over, under), (under, over)):
        ruling = ruled_by([verdict("block", first), verdict("block", second)])
        assert ruling.verdict.principle == over
    ruling = ruled_by([verdict("rewrite", over), verdict("block", under)])
    assert (ruling.decision, ruling.verdict.principle) == ("block", under)
    mild, grave = "no-flattery", "health"
    assert ASSISTANT.winner(mild, grave) is None
    for first, second in ((mild, grave), (grave, mild)):
        assert ruled_by([verdict("block", first), verdict("block", second)]).verdict.principle == grave
    assert ruled_by([verdict("failed", mild), verdict("block", mild, score=0.9)]).verdict.decision == "block"
    assert ruled_by([verdict("escalate"), verdict("allow")]).decision == "escalate"
    assert not ruled_by([verdict("escalate")]).stops


def test_rails_in_shadow_only_log() -> None:
    def raises(_: Exchange) -> None:
        raise ValueError

    rails = [Says([verdict("block")]), Says(raises, "broken")]
    ruling = guarded(*rails, shadow=("says", "broken")).check(asked("hello"))
    assert (ruling.decision, ruling.verdict, ruling.shadowed) == ("allow", None, ("broken", "says"))
    assert [v.decision for v in ruling.verdicts] == ["block", "failed"]
    assert guarded(*rails, shadow=("says",)).check(asked("hello")).decision == "block"
    assert guarded(rails[0]).check(asked("hello"), shadow=("says",)).decision == "allow"
    assert guarded(rails[0], shadow=("says",)).reach == 0


def test_rails_that_are_off_are_named() -> None:
    rail = Says([verdict("block")])
    ruling = guarded(rail, off={"says": "too slow"}).check(asked("hello"))
    assert (ruling.decision, rail.calls) == ("allow", 0)
    assert ("says", "too slow") in ruling.not_run
    assert ("classifier", "this guard has no trained classifier") in Guard.from_constitution(ASSISTANT).check(
        asked("hello")
    ).not_run


def test_the_hold_back_is_the_longest() -> None:
    near, far, end = Says([], "near"), Says([], "far"), Says([], "end")
    far.reach, end.reach = 70, None  # type: ignore[assignment]
    assert guarded(near, far).reach == 70
    assert guarded(near, end).reach is None
    assert guarded().reach == 0
    ruling = guarded(near, end).check(asked("q", "an answer", finished=False))
    assert ("end", "it judges finished answers only") in ruling.not_run
    assert end.calls == 0


def test_what_cannot_be_read_is_handled_as_the_file_says() -> None:
    picture = Exchange((Part("m", "user", "see"),), unscannable=("messages[0].content[1].image_url",))
    ruling = guarded().check(picture)
    assert (ruling.decision, ruling.verdict and ruling.verdict.principle) == ("block", "unscannable")
    lenient = ASSISTANT.model_copy(update={"guard": GuardSettings(unscannable="allow")})
    ruling = guarded(constitution=lenient).check(picture)
    assert (ruling.decision, ruling.verdicts[0].note) == (
        "allow",
        "messages[0].content[1].image_url cannot be read",
    )


# ── what is remembered ───────────────────────────────────────────────────────────────────────────────────────────────
def test_a_text_is_read_once_and_a_changed_one_again(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def views(text: str, **settings: object) -> Views:
        read.append(text)
        return Views([View(text)])

    monkeypatch.setattr(module.normalise, "views", views)
    guard = guarded(Says([]))
    history = tuple(Part(f"m{i}", "user", f"turn {i}") for i in range(20))
    guard.check(Exchange(history))
    assert len(read) == 20
    guard.check(Exchange((*history, Part("m20", "user", "turn 20"))))
    assert read[20:] == ["turn 20"]
    guard.check(Exchange((*history[:19], Part("m19", "user", "turn 1g"))))
    assert read[21:] == ["turn 1g"]


def test_threads_share_a_guard() -> None:
    guard = Guard.from_constitution(
        ASSISTANT.model_copy(
            update={
                "principles": tuple(
                    p.model_copy(update={"guard": GuardRule(words=("zyzzyva",))}) if p.id == "refuse-harm" else p
                    for p in ASSISTANT.principles
                )
            }
        ),
        limits=Limits(cached_characters=200),
    )
    wrong: list[int] = []

    def ask(number: int) -> None:
        for turn in range(30):
            bad = (number + turn) % 2
            text = f"{number} {turn} {'zyzzyva' if bad else 'beetle'}"
            if guard.check(asked(text)).stops != bool(bad):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ── at the start of a server ─────────────────────────────────────────────────────────────────────────────────────────
def test_warming_has_no_deadline_and_tells_what_does_not_work() -> None:
    def slow(_: Exchange) -> list[Verdict]:
        time.sleep(0.5)
        return []

    def broken(_: Exchange) -> None:
        raise OSError(2, "no such file")

    guard = guarded(Says(slow, "slow"), Says(broken, "broken"), judge=None)
    failed = [(v.rail, v.note) for v in guard.warm().verdicts if v.decision == "failed"]
    assert failed == [("broken", "it raised FileNotFoundError")]
    assert not guard.degraded
    assert guard.check(asked("hello")).decision == "block", "it is told, and blocks all the same"


def test_warming_reads_every_kind_of_dress() -> None:
    """Whatever table a first request may need is loaded by then."""
    traces = {name for view in module.normalise.views(module.SAMPLE) for name in view.trace}
    assert traces >= {"canonical", "base64", "leet", "reversed"}
