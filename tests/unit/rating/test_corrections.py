"""What a rater said before: reviewed, corrected, and kept."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from steersman.rating.earlier import earlier_answers
from steersman.rating.schema import votes
from steersman.rating.store import Refused

from .conftest import finish, said
from .test_store import Open, begun


def test_a_correction_takes_the_place_of_what_was_said_and_keeps_it(opened: Open) -> None:
    store = begun(opened, 3)
    first = store.next_task(1)
    assert first is not None
    store.submit(1, said(first, 1, 2))
    on_screen = store.next_task(1)
    with pytest.raises(Refused, match="already"):
        store.submit(1, said(first, 2, 1))
    for ranking in ((2, 1), (1, 1)):
        assert store.settled_task(1, first.assignment) == first
        again = said(first, *ranking, corrects=True)
        assert store.submit(1, again) is True
        assert store.submit(1, again) is False  # sent again
    (vote,) = store.votes()
    assert vote.ranking == (1, 1)
    assert store.next_task(1) == on_screen
    with store.database.reading() as c:
        rows = c.execute(select(votes.c.kind, votes.c.ranking, votes.c.supersedes).order_by(votes.c.id)).all()
    swapped = first.answers[0].startswith("second")
    kept = [[2, 1], [1, 2], [1, 1]] if swapped else [[1, 2], [2, 1], [1, 1]]
    assert rows == [("vote", kept[0], None), ("vote", kept[1], 1), ("vote", kept[2], 2)]
    with pytest.raises(Refused, match="not yours"):
        store.submit(2, said(first, 2, 1, corrects=True))
    assert store.settled_task(2, first.assignment) is None
    assert store.settled_task(1, on_screen.assignment if on_screen else "") is None
    answers = earlier_answers(store.database, 1)
    assert [(one.said, one.changes) for one in answers] == [("Equally good.", 2)]
    assert store.undo(1, "undo-the-correction")
    assert store.votes() == []  # the whole answer is open again, and not the one before


def test_a_question_that_is_skipped_by_a_correction_goes_to_another(opened: Open) -> None:
    store = begun(opened, 1)
    task = store.next_task(1)
    assert task is not None
    store.submit(1, said(task, 1, 2))
    assert store.next_task(2) is None
    store.submit(1, said(task, skip=True, corrects=True))
    assert [one.said for one in earlier_answers(store.database, 1)] == ["Skipped."]
    assert finish(store, 2) == 1
    store.submit(1, said(task, 1, 2, corrects=True))
    assert [(vote.rater, vote.late) for vote in store.votes()] == [(2, False), (1, True)]


def test_an_earlier_answer_is_put_into_words(opened: Open) -> None:
    store = begun(opened, 2, options=3)
    for ranking, more in (((2, 1, 2), {}), ((1, 2, 3), {"both_bad": True, "rationale": "why"})):
        task = store.next_task(1)
        assert task is not None
        store.submit(1, said(task, *ranking, **more))
    last, first = earlier_answers(store.database, 1)
    assert first.said == "Ranking: 2, then 1 equal to 3."
    assert (last.said, last.rationale) == ("Ranking: 1, then 2, then 3. All are bad.", "why")
    assert earlier_answers(store.database, 1, first.assignment) == [first]
    assert earlier_answers(store.database, 2) == []
