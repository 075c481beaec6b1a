"""The store of a round: every test on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update

from steersman.errors import UserError
from steersman.rating.accounts import RaterAccounts
from steersman.rating.round import Question, Round
from steersman.rating.schema import votes
from steersman.rating.store import RatingStore, Refused
from steersman.rating.votes import comparisons, demonstrations

from .conftest import PLAIN, Clock, finish, questions, said

Open = Callable[..., RatingStore]


def begun(opened: Open, how_many: int = 6, settings: Round = PLAIN, raters: int = 3, **more: object) -> RatingStore:
    """A round in which raters 1, 2, ... have joined."""
    store = opened()
    store.begin(settings, questions(how_many, **more))  # type: ignore[arg-type]
    people = RaterAccounts(store.database)
    for number in range(raters):
        people.join(people.invite(f"rater {number}"), "the words")
    return store


def test_a_vote_is_kept_in_the_order_of_the_options(opened: Open) -> None:
    store = begun(opened, 20)
    assert finish(store, 1) == 20
    votes = store.votes()
    assert [vote.ranking for vote in votes] == [(1, 2)] * 20
    assert {vote.order_shown for vote in votes} == {(0, 1), (1, 0)}  # both sides are drawn
    assert all(vote.kind == "vote" and vote.rater == 1 and vote.shown_at <= vote.answered_at for vote in votes)


def test_sides_are_drawn_from_the_seed(opened: Open) -> None:
    from steersman.rating.round import order_shown

    store = begun(opened, 10)
    finish(store, 1)
    for vote in store.votes():
        assert vote.order_shown == order_shown(PLAIN.seed, vote.question.key, 1, 2)
    drawn = [order_shown(seed, "key", 1, 2) for seed in range(400)]
    assert 160 < drawn.count((0, 1)) < 240


def test_a_question_on_one_screen_comes_on_no_other(opened: Open) -> None:
    store = begun(opened, 2)
    first, second = store.next_task(1), store.next_task(2)
    assert first is not None
    assert second is not None
    assert first.prompt != second.prompt
    assert store.next_task(3) is None  # both are taken
    assert store.next_task(1) == first  # and stay on their screens


def test_a_question_for_three_comes_to_three(opened: Open) -> None:
    store = opened()
    store.begin(PLAIN, questions(4, raters=3))
    people = RaterAccounts(store.database)
    for name in "abcd":
        people.join(people.invite(name), "")
    assert [finish(store, rater) for rater in (1, 2, 3, 4)] == [4, 4, 4, 0]
    by_item = Counter(vote.item for vote in store.votes())
    assert set(by_item.values()) == {3}


def test_an_abandoned_question_returns(opened: Open, clock: Clock) -> None:
    store = begun(opened, 1)
    task = store.next_task(1)
    assert store.next_task(2) is None
    clock.now += PLAIN.lease_s + 1
    other = store.next_task(2)
    assert other is not None
    assert task is not None
    assert other.prompt == task.prompt
    assert other.assignment != task.assignment


def test_a_late_vote_is_kept_and_marked(opened: Open, clock: Clock) -> None:
    store = begun(opened, 1)
    task = store.next_task(1)
    clock.now += PLAIN.lease_s + 1
    other = store.next_task(2)
    assert task is not None
    assert other is not None
    store.submit(1, said(task, 1, 2))
    store.submit(2, said(other, 1, 2))
    assert [(vote.rater, vote.late) for vote in store.votes()] == [(1, True), (2, False)]
    assert [row.tags for row in comparisons(store.votes())] == [("arm:random", "late"), ("arm:random",)]


def test_a_lapsed_lease_that_nobody_took_is_not_late(opened: Open, clock: Clock) -> None:
    store = begun(opened, 1)
    task = store.next_task(1)
    assert task is not None
    clock.now += 10 * PLAIN.lease_s
    store.submit(1, said(task, 1, 2))
    assert [vote.late for vote in store.votes()] == [False]
    assert store.next_task(2) is None


@pytest.mark.parametrize("jump", [-10 * 365 * 86400.0, 10 * 365 * 86400.0])
def test_a_clock_that_jumps_decides_nothing(
    opened: Open, clock: Clock, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    store = begun(opened, 2)
    first = store.next_task(1)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + jump)
    second = store.next_task(2)
    assert first is not None
    assert second is not None
    assert second.prompt != first.prompt  # the lease holds
    assert store.next_task(1) == first
    clock.now += 7
    store.submit(1, said(first, 1, 2))
    store.submit(2, said(second, 1, 2))
    assert [(vote.seconds, vote.late) for vote in store.votes()] == [(7.0, False), (7.0, False)]
    clock.now = 3.0  # another boot of the machine, and its monotonic clock begins anew
    again = opened()
    assert again.clock.now() >= store.votes()[-1].seconds
    assert [vote.rater for vote in again.votes()] == [1, 2]


def test_ticks_go_on_over_a_restart(opened: Open, clock: Clock) -> None:
    store = begun(opened, 1)
    assert store.next_task(1) is not None
    clock.now = 5.0  # less than before: a lease must neither end at once nor last for ever
    again = opened()
    assert again.next_task(2) is None
    clock.now += PLAIN.lease_s + 1
    assert again.next_task(2) is not None


def test_a_second_server_whose_ticks_are_behind_takes_a_vote(opened: Open, clock: Clock) -> None:
    ahead = begun(opened, 2)
    clock.now += 50
    behind = opened()
    task = ahead.next_task(1)
    assert task is not None
    behind.submit(1, said(task, 1, 2))
    assert [row.seconds for row in comparisons(behind.votes())] == [0]
    with behind.database.writing() as c:  # as an earlier version wrote it
        c.execute(update(votes).values(seconds=-3.0))
    assert [row.seconds for row in comparisons(ahead.votes())] == [0]


def test_the_same_submission_counts_once(opened: Open) -> None:
    store = begun(opened, 2)
    task = store.next_task(1)
    assert task is not None
    vote = said(task, 1, 2)
    assert store.submit(1, vote) is True
    assert store.submit(1, vote) is False
    assert len(store.votes()) == 1
    with pytest.raises(Refused, match="another content"):
        store.submit(1, said(task, 2, 1, name=vote.submission))
    assert len(store.votes()) == 1


def test_two_tabs_make_one_vote(opened: Open) -> None:
    store = begun(opened, 3)
    one, other = store.next_task(1), store.next_task(1)
    assert one == other
    assert one is not None
    store.submit(1, said(one, 1, 2))
    with pytest.raises(Refused, match="already"):
        store.submit(1, said(one, 2, 1))
    assert len(store.votes()) == 1


def test_nobody_votes_on_what_another_has(opened: Open) -> None:
    store = begun(opened, 3)
    task = store.next_task(1)
    assert task is not None
    with pytest.raises(Refused, match="not yours") as refused:
        store.submit(2, said(task, 1, 2))
    assert refused.value.status == 404
    with pytest.raises(Refused, match="not yours"):
        store.submit(1, said(task._replace(assignment="x" * 16), 1, 2))
    assert store.votes() == []


def test_undo_is_a_new_row_and_shows_the_question_again(opened: Open) -> None:
    store = begun(opened, 3)
    first = store.next_task(1)
    assert first is not None
    store.submit(1, said(first, 1, 2))
    second = store.next_task(1)
    assert store.undo(1, "undo-once") is True
    assert store.undo(1, "undo-once") is True  # sent again
    assert store.votes() == []
    assert store.next_task(1) == first
    store.submit(1, said(first, 2, 1))
    assert store.next_task(1) == second  # what was on the screen comes back
    assert len(store.votes()) == 1
    with store.database.reading() as c:
        from sqlalchemy import text

        kinds = list(c.scalars(text("SELECT kind FROM votes ORDER BY id")))
    assert kinds == ["vote", "undo", "vote"]  # nothing was taken away


def test_undo_goes_back_step_by_step_and_ends(opened: Open) -> None:
    store = begun(opened, 4)
    tasks = []
    for _ in range(3):
        task = store.next_task(1)
        assert task is not None
        tasks.append(task)
        store.submit(1, said(task, 1, 2))
    for number, task in enumerate(reversed(tasks)):
        assert store.undo(1, f"undo-number-{number}")
        assert store.next_task(1) == task
    assert store.undo(1, "undo-too-much") is False
    assert finish(store, 1) == 4
    assert len(store.votes()) == 4


def test_a_skipped_question_goes_to_another(opened: Open) -> None:
    store = begun(opened, 1)
    task = store.next_task(1)
    assert task is not None
    store.submit(1, said(task, skip=True))
    assert store.next_task(1) is None
    assert finish(store, 2) == 1
    assert [(vote.rater, vote.kind) for vote in store.votes()] == [(1, "skip"), (2, "vote")]
    assert [row.rater for row in comparisons(store.votes())] == ["rater-2"]


def test_an_undone_skip_whose_question_went_on_is_late(opened: Open) -> None:
    store = begun(opened, 1)
    task = store.next_task(1)
    assert task is not None
    store.submit(1, said(task, skip=True))
    assert store.next_task(2) is not None
    assert store.undo(1, "undo-the-skip")
    assert store.next_task(1) == task
    store.submit(1, said(task, 1, 2))
    assert [vote.late for vote in store.votes()] == [True]


@pytest.mark.parametrize("ranking", [(1,), (1, 2, 3)])
def test_ranks_must_fit_the_answers(opened: Open, ranking: tuple[int, ...]) -> None:
    store = begun(opened, 1)
    task = store.next_task(1)
    assert task is not None
    with pytest.raises(Refused, match="fit"):
        store.submit(1, said(task, *ranking))
    with pytest.raises(Refused, match="fit"):
        store.submit(1, said(task, 1, 2, per_principle={"not-asked": (1, 2)}))
    assert store.votes() == []


def test_what_is_said_beside_the_ranking_is_kept_by_option(opened: Open) -> None:
    settings = PLAIN.model_copy(update={"principles": {"be-plain": "Is plain."}, "ask_principles": True})
    store = begun(opened, 1, settings, options=3)
    task = store.next_task(1)
    assert task is not None
    assert task.principles == ("be-plain",)
    places = [("best", "second", "third").index(text.split()[0]) for text in task.answers]
    by_place = [place + 1 for place in places]
    edit = {"position": places.index(1), "text": "better than the second"}
    ranked = said(task, *by_place, per_principle={"be-plain": [4 - r for r in by_place]}, rationale="why\0", edit=edit)
    store.submit(1, ranked)
    (vote,) = store.votes()
    assert (vote.ranking, vote.per_principle) == ((1, 2, 3), {"be-plain": (3, 2, 1)})
    assert (vote.edited_option, vote.rationale) == (1, "why\N{REPLACEMENT CHARACTER}")
    (row,) = demonstrations([vote])
    assert (row.completion, row.author, row.source) == ("better than the second", "rater-1", "human")


def test_gold_comes_to_everyone_and_is_exported_as_the_key(opened: Open) -> None:
    store = opened()
    gold = [Question(prompt=f"gold {i}", options=("best g", "second g"), gold=(1, 2)) for i in range(6)]
    settings = Round(gold_share=0.25, repeat_share=0)
    store.begin(settings, [*questions(18, raters=2), *gold])
    people = RaterAccounts(store.database)
    for name in "ab":
        people.join(people.invite(name), "")
    for rater in (1, 2):
        finish(store, rater)
        mine = [vote for vote in store.votes() if vote.rater == rater]
        for block in range(4):  # one to a block of four, as long as there are any
            arms = [vote.arm for vote in mine[4 * block : 4 * block + 4]]
            assert arms.count("gold") == 1, arms
    rows = comparisons(store.votes())
    key = [row for row in rows if row.gold]
    assert len(key) == 6
    assert all(row.ranking == (1, 2) and not row.rater for row in key)
    assert not any(row.gold for row in rows if row.rater)  # that a rater said it does not make it right


def test_gold_that_is_left_comes_last_and_is_counted(opened: Open) -> None:
    gold = [Question(prompt=f"gold {i}", options=("best g", "second g"), gold=(1, 2)) for i in range(5)]
    store = opened()
    store.begin(Round(repeat_share=0), [*questions(10), *gold])
    RaterAccounts(store.database).join(RaterAccounts(store.database).invite("a"), "")
    left = []
    while (task := store.next_task(1)) is not None:
        left.append(store.progress(1).left)
        store.submit(1, said(task, 1, 2))
    assert left == list(range(15, 0, -1))
    assert store.progress(1) == (15, 0)
    assert [vote.arm for vote in store.votes()].count("gold") == 5
    assert [vote.arm for vote in store.votes()][-3:] == ["gold"] * 3


def test_questions_that_went_back_leave_the_quota_as_it_was(opened: Open, clock: Clock) -> None:
    """Rater 1 leaves three questions lying, which rater 2 gets and answers; the quota is still of three answers."""
    store = begun(opened, 9, PLAIN.model_copy(update={"per_rater": 3}))
    for _ in range(3):
        assert store.next_task(1) is not None
        clock.now += PLAIN.lease_s + 1
        taken = store.next_task(2)
        assert taken is not None
        store.submit(2, said(taken, 1, 2))
    assert store.next_task(2) is None
    assert store.progress(1).left == 3
    assert finish(store, 1) == 3
    assert Counter(vote.rater for vote in store.votes()) == {1: 3, 2: 3}


def test_repeats_come_later_and_once(opened: Open) -> None:
    store = begun(opened, 24, Round(gold_share=0, repeat_share=0.5), raters=1)
    finish(store, 1)
    votes = store.votes()
    repeated = [vote for vote in votes if vote.arm == "repeat"]
    assert repeated
    assert max(Counter(vote.item for vote in votes).values()) == 2
    for vote in repeated:
        first = next(other for other in votes if other.item == vote.item)
        assert first.arm == "random"
        assert votes.index(vote) - votes.index(first) >= 10


def test_a_question_without_a_scorer_is_drawn_from_the_seed(opened: Open) -> None:
    store = begun(opened, 30)
    finish(store, 1)
    order = [vote.item for vote in store.votes()]
    assert order != sorted(order)
    assert sorted(order) == list(range(1, 31))


def test_a_round_goes_on_with_the_settings_it_began_with(opened: Open) -> None:
    begun(opened, 3)
    again = opened()
    assert again.begin(PLAIN, questions(4)) == 1  # three of the four are known
    with pytest.raises(UserError, match="seed: 0 -> 5"):
        again.begin(PLAIN.model_copy(update={"seed": 5}), questions(3))


def test_what_a_rater_said_who_withdrew_is_not_read(opened: Open) -> None:
    store = begun(opened, 4)
    people = RaterAccounts(store.database)
    for rater in (1, 2):
        task = store.next_task(rater)
        assert task is not None
        store.submit(rater, said(task, 1, 2))
    people.withdraw(1)
    assert [vote.rater for vote in store.votes()] == [2]
    assert people.invite_again(1) is None


def test_who_withdraws_leaves_the_seats_to_others(opened: Open) -> None:
    store = begun(opened, 4)
    for _ in range(2):
        task = store.next_task(1)
        assert task is not None
        store.submit(1, said(task, 1, 2))
    skipped = store.next_task(1)
    assert skipped is not None
    store.submit(1, said(skipped, skip=True))
    assert store.next_task(1) is not None  # left on the screen
    RaterAccounts(store.database).withdraw(1)
    assert store.progress(2).left == 4
    assert finish(store, 2) == 4
    assert [(vote.rater, vote.late) for vote in store.votes()] == [(2, False)] * 4


def test_questions_about_an_answer_go_to_its_raters(opened: Open) -> None:
    store = begun(opened, 2)
    people = RaterAccounts(store.database)
    task = store.next_task(1)
    assert task is not None
    store.submit(1, said(task, 1, 2))
    (vote,) = store.votes()
    with pytest.raises(UserError, match="nobody has answered"):
        people.ask(3 - vote.item, "why?")
    assert people.ask(vote.item, "why?") == 1
    ((query, _),) = people.open_queries(1)
    assert people.open_queries(2) == []
    assert people.reply(2, query.id, "not mine") is False
    assert people.reply(1, query.id, "because") is True
    assert people.reply(1, query.id, "again") is False
    assert [(name, text) for _, name, text in people.replies()] == [("rater 0", "because")]


def test_many_threads_lose_and_double_nothing(opened: Open) -> None:
    """Six raters at once, each in two tabs, on questions for two: every seat is filled once, and no more."""
    raters, how_many = 6, 12
    store = begun(opened, how_many, raters=raters)
    two = [question.model_copy(update={"raters": 2}) for question in questions(how_many)]
    store.begin(PLAIN, [q.model_copy(update={"prompt": f"two {q.prompt}"}) for q in two])
    acknowledged: list[tuple[int, str]] = []
    errors: list[BaseException] = []

    def tab(rater: int) -> None:
        try:
            while (task := store.next_task(rater)) is not None:
                vote = said(task, 1, 2)
                try:
                    store.submit(rater, vote)
                    acknowledged.append((rater, vote.assignment))
                except Refused:
                    continue
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=tab, args=(rater,)) for rater in range(1, raters + 1) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    votes = store.votes()
    assert Counter(vote.rater for vote in votes) == Counter(rater for rater, _ in acknowledged)
    assert Counter(Counter(vote.item for vote in votes).values()) == {1: how_many, 2: how_many}
    assert not any(vote.late for vote in votes)


def test_what_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database at all, and longer than a header of one" * 20)
    with pytest.raises(UserError, match="cannot be opened"):
        RatingStore(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="no rating store"):
        RatingStore("nonsense://x")
    with pytest.raises(UserError, match="no rating round has begun"):
        _ = RatingStore(tmp_path / "new.sqlite").round
