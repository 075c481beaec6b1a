"""Who chooses the next question, in which process and when again: every test on SQLite and on PostgreSQL."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from pathlib import Path

import pytest

from steersman.rating.accounts import RaterAccounts
from steersman.rating.round import Question, Round
from steersman.rating.scorer_process import Scoring, _run_scorer
from steersman.rating.store import RatingStore
from steersman.types import Comparison

from .conftest import PLAIN, Clock, finish, questions, said

Open = Callable[..., RatingStore]


def test_the_scorer_chooses_beside_a_random_arm(opened: Open) -> None:
    asked: list[int] = []

    def scorer(open_ones: Sequence[Question], votes: Sequence[Comparison]) -> list[float]:
        asked.append(len(votes))
        return [float(question.options[0].split()[1]) for question in open_ones]  # the later ones tell more

    store = opened(scorer=scorer)
    store.begin(Round(gold_share=0, repeat_share=0, random_share=0.3), questions(100))
    people = RaterAccounts(store.database)
    people.join(people.invite("a"), "")
    for _ in range(30):
        task = store.next_task(1)
        assert task is not None
        store.submit(1, said(task, 1, 2))
    votes = store.votes()
    arms = Counter(vote.arm for vote in votes)
    assert 3 <= arms["random"] <= 15
    informed = [int(str(vote.question.prompt).split()[1]) for vote in votes if vote.arm == "informed"]
    assert informed == sorted(informed, reverse=True)
    assert asked == [0, 20]


def test_what_no_scorer_chose_is_of_the_random_arm(opened: Open) -> None:
    store = opened(scorer=lambda open_ones, votes: [1.0] * len(open_ones))
    store.begin(PLAIN.model_copy(update={"random_share": 1e-9}), questions(2, raters=2))
    RaterAccounts(store.database).join(RaterAccounts(store.database).invite("a"), "")
    first = store.next_task(1)
    assert first is not None
    store.submit(1, said(first, 1, 2))
    assert store.scoring is not None
    store.scoring.scores = {store.votes()[0].item: 1.0}  # the only one that was scored is one that this rater had
    second = store.next_task(1)
    assert second is not None
    store.submit(1, said(second, 1, 2))
    assert [vote.arm for vote in store.votes()] == ["informed", "random"]


def test_what_is_handed_out_during_a_scoring_does_not_come_back(opened: Open) -> None:
    def scorer(open_ones: Sequence[Question], votes: Sequence[Comparison]) -> list[float]:
        if store.scoring is not None and store.scoring.scores:  # the second time, while raters go on
            store.scoring.mark_assigned(next(iter(store.scoring.scores)))
        return [1.0] * len(open_ones)

    store = opened(scorer=scorer)
    store.begin(PLAIN, questions(30, raters=9))
    assert store.scoring is not None
    found = []
    for _ in range(3):
        store.scoring._scored_votes = -1  # it is time again
        store.scoring.refresh()
        found.append(list(store.scoring.scores))
    first, second, third = found
    assert second == first[1:]
    assert set(first) - set(third) == {second[0]}  # what was handed out before may come again


def test_raters_are_not_all_asked_what_tells_most(opened: Open) -> None:
    store = opened(scorer=lambda open_ones, votes: [float(str(q.prompt).split()[1]) for q in open_ones])
    store.begin(PLAIN.model_copy(update={"random_share": 0.001}), questions(40, raters=10))
    for number in range(1, 11):
        RaterAccounts(store.database).join(RaterAccounts(store.database).invite(f"rater {number}"), "")
    tasks = [store.next_task(number) for number in range(1, 11)]
    assert {str(task.prompt) for task in tasks if task} == {f"question {i}" for i in range(30, 40)}


def test_the_scorer_hears_the_keys_of_gold_questions(opened: Open) -> None:
    heard: list[Sequence[Comparison]] = []

    def scorer(open_ones: Sequence[Question], votes: Sequence[Comparison]) -> list[float]:
        heard.append(votes)
        return [0.0] * len(open_ones)

    store = opened(scorer=scorer)
    gold = Question(prompt="gold", options=("best g", "second g"), gold=(1, 2))
    store.begin(Round(gold_share=0.5, repeat_share=0), [*questions(40), gold])
    RaterAccounts(store.database).join(RaterAccounts(store.database).invite("a"), "")
    finish(store, 1)
    assert sum(vote.gold for vote in heard[-1]) == 1
    assert sum(vote.prompt == "gold" for vote in heard[-1]) == 2


def test_a_slow_scorer_rests(opened: Open, clock: Clock) -> None:
    asked: list[int] = []

    def scorer(open_ones: Sequence[Question], votes: Sequence[Comparison]) -> list[float]:
        asked.append(len(votes))
        clock.now += 1.0
        return [0.0] * len(open_ones)

    store = opened(scorer=scorer)
    store.begin(PLAIN, questions(100))
    RaterAccounts(store.database).join(RaterAccounts(store.database).invite("a"), "")
    for number in range(60):
        task = store.next_task(1)
        assert task is not None
        store.submit(1, said(task, 1, 2))
        clock.now += 15.0 if number == 50 else 0.1
    assert asked == [0, 51]  # rested from the 1st to the 21st second


class Patient:
    """A scorer that waits until a file is there; it works in another process."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self, open_ones: Sequence[Question], votes: Sequence[Comparison]) -> list[float]:
        while not self.file.exists():
            time.sleep(0.01)
        return [float(question.prompt == "question 7") for question in open_ones]  # type: ignore[comparison-overlap]


def until(true: Callable[[], object]) -> None:
    for _ in range(3000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("nothing came in 30 seconds")


def waiting(opened: Open, folder: Path, count: int, settings: Round = PLAIN) -> tuple[RatingStore, Scoring]:
    """A round whose scorer, in a process of its own, waits for the file ``go on``."""
    store = opened(scorer=Patient(folder / "go on"))
    store.begin(settings, questions(count))
    assert store.scoring is not None
    store.scoring.start_process()
    return store, store.scoring


@pytest.mark.slow
def test_a_server_has_its_questions_scored_in_another_process(opened: Open, tmp_path: Path) -> None:
    store, scoring = waiting(opened, tmp_path, 30, PLAIN.model_copy(update={"random_share": 1e-9}))
    people = RaterAccounts(store.database)
    for name in "abc":
        people.join(people.invite(name), "")
    assert store.next_task(1) is not None  # with the scorer still at work
    assert not scoring.scores
    (tmp_path / "go on").touch()
    until(lambda: scoring.scores)
    told = store.next_task(2)
    assert told is not None
    assert told.prompt == "question 7"


@pytest.mark.slow
def test_a_scorer_that_was_killed_begins_again(
    opened: Open, tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    store, scoring = waiting(opened, tmp_path, 60)
    RaterAccounts(store.database).join(RaterAccounts(store.database).invite("a"), "")
    assert store.next_task(1) is not None
    process = scoring._process._process  # type: ignore[union-attr]
    process.kill()
    process.join(30)
    until(lambda: not scoring._running.locked())
    assert "begins another" in capsys.readouterr().err
    (tmp_path / "go on").touch()
    clock.now += 3600
    assert store.next_task(1) is not None
    until(lambda: scoring.scores)


@pytest.mark.slow
def test_a_scorer_that_hangs_is_ended(
    opened: Open, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, scoring = waiting(opened, tmp_path, 60)
    monkeypatch.setattr("steersman.rating.scorer_process.TIMEOUT_S", 0.1)
    scoring.refresh()
    until(lambda: not scoring._running.locked())
    assert "begins another" in capsys.readouterr().err
    monkeypatch.setattr("steersman.rating.scorer_process.TIMEOUT_S", 300.0)
    (tmp_path / "go on").touch()
    clock.now += 3600
    scoring.refresh()
    until(lambda: scoring.scores)


def test_without_a_thread_the_old_scores_do(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, scoring = waiting(opened, tmp_path, 6)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    scoring.refresh()
    assert "can't start new thread" in capsys.readouterr().err
    assert not scoring._running.locked()


def test_all_at_random_asks_no_scorer(opened: Open) -> None:
    store = opened(scorer=lambda open_ones, votes: pytest.fail("asked"))
    store.begin(PLAIN.model_copy(update={"random_share": 1.0}), questions(30))
    RaterAccounts(store.database).join(RaterAccounts(store.database).invite("a"), "")
    assert finish(store, 1) == 30
    assert {vote.arm for vote in store.votes()} == {"random"}


def test_scores_that_nobody_waits_for_are_dropped_in_silence(tmp_path: Path) -> None:
    """The server ends while its scorer's process is scoring."""
    store = RatingStore(tmp_path / "s.sqlite")
    store.begin(PLAIN, questions(3))
    servers, scorers = Pipe()

    def scorer(open_ones: Sequence[Question], votes: Sequence[Comparison]) -> list[float]:
        servers.close()
        return [0.0] * len(open_ones)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        servers.send(None)
        _run_scorer(store.where, scorer, scorers)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        scorers.close()
        store.database.engine.dispose()


@pytest.mark.slow
def test_the_scorers_process_ends_with_the_server_and_says_nothing(
    opened: Open, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, scoring = waiting(opened, tmp_path, 60)
    scoring.refresh()
    assert scoring._process is not None
    process = scoring._process._process
    until(process.is_alive)
    scoring.end_process()
    until(lambda: not process.is_alive() and not scoring._running.locked())
    scoring.refresh()
    assert capsys.readouterr().err == ""
