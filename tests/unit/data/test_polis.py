"""Exports of Polis: each of their files, what is left out, and what is refused with its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steersman.data.polis import Ballot, Statement, read_conversation, write_conversation
from steersman.errors import DataError

COMMENTS = """timestamp,datetime,comment-id,author-id,agrees,disagrees,moderated,comment-body
1658934589,Wed Jul 27 2022,0,3,2,0,1,"Be brief, and plain."
1658934589213,Wed Jul 27 2022,1,3,1,1,0,Say so when unsure
1658934589,Wed Jul 27 2022,2,4,0,2,-1,rubbish
"""
MATRIX = """participant,group-id,n-comments,n-votes,n-agree,n-disagree,0,1,2
3,0,2,3,2,1,1,1,-1
4,1,1,2,0,1,0,-1,
5,,0,0,0,0,,,
"""
EVENTS = """timestamp,datetime,comment-id,voter-id,vote
20,x,0,3,1
30,x,1,3,1
10,x,1,3,-1
25,x,0,4,0
26,x,1,4,-1
26,x,2,4,-1
"""


def export(folder: Path, **files: str) -> Path:
    """A folder with these files; `votes_csv` is votes.csv."""
    for name, text in files.items():
        (folder / name.replace("_csv", ".csv").replace("_", "-")).write_text(text, encoding="utf-8")
    return folder


def test_the_matrix_of_participants(tmp_path: Path) -> None:
    found = read_conversation(export(tmp_path, comments_csv=COMMENTS, participants_votes_csv=MATRIX, votes_csv=EVENTS))
    assert [statement.text for statement in found.statements] == ["Be brief, and plain.", "Say so when unsure"]
    assert [statement.moderated for statement in found.statements] == [1, 0]
    assert found.statements[1].created_at == pytest.approx(1658934589.213)  # milliseconds, as older exports have them
    assert (found.participants, found.groups) == (("3", "4", "5"), ("0", "1", ""))
    np.testing.assert_array_equal(found.votes, [[1, 1], [0, -1], [np.nan, np.nan]])
    told = "\n".join(found.messages)
    assert "1 statement(s) left out: rejected by a moderator" in told
    assert "1 column(s) of votes whose statement is left out" in told
    assert "opposite signs" not in told


def test_a_vote_a_line(tmp_path: Path) -> None:
    """The latest vote on a statement stands, whatever the order of lines."""
    found = read_conversation(export(tmp_path, comments_csv=COMMENTS, votes_csv=EVENTS))
    assert (found.participants, found.groups) == (("3", "4"), ("", ""))
    np.testing.assert_array_equal(found.votes, [[1, 1], [0, -1]])
    told = "\n".join(found.messages)
    assert "1 vote(s) on statements that are left out" in told
    assert "1 vote(s) that a later one replaces" in told


def test_names_with_the_conversation_before_them_and_a_file_alone(tmp_path: Path) -> None:
    (tmp_path / "2024-x-comments.csv").write_text("\ufeff" + COMMENTS, encoding="utf-8")
    file = tmp_path / "2024-x-participant-votes.csv"
    file.write_text(MATRIX, encoding="utf-8")
    assert len(read_conversation(tmp_path).participants) == 3
    assert len(read_conversation(file).participants) == 3


def test_texts_that_old_reports_did_not_quote(tmp_path: Path) -> None:
    unquoted = COMMENTS.replace('"Be brief, and plain."', "Be brief, and plain.").replace(",-1,rubbish", ",-1,rub,bish")
    found = read_conversation(export(tmp_path, comments_csv=unquoted, participants_votes_csv=MATRIX))
    assert found.statements[0].text == "Be brief, and plain."


def both(comments: str = COMMENTS, **files: str) -> dict[str, str]:
    """Comments with other files."""
    return {"comments_csv": comments, **files}


def matrix(*changes: tuple[str, str]) -> dict[str, str]:
    """The comments and a changed matrix."""
    text = MATRIX
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    return both(participants_votes_csv=text)


WRONG = [
    (both(), "there are no votes"),
    ({"votes_csv": EVENTS}, "there are no statements"),
    (both("id,text\n1,x\n", votes_csv=EVENTS), r"comments.csv:1: no column 'comment-id' \(found id, text\)"),
    (both(COMMENTS.replace(',1,"Be', ',yes,"Be'), votes_csv=EVENTS), "comments.csv:2: column 'moderated': 'yes'"),
    (matrix(("0,-1,\n", "0,2,\n")), "participants-votes.csv:3: column '1': '2' is no vote"),
    (matrix(("4,1,1,2,0,1,0,-1,", "4,1,1")), "participants-votes.csv:3: 3 fields for 9 columns"),
    (matrix(("\n4,", "\n3,")), "'3' twice"),
    (matrix(("3,2,1,1,1,-1", "3,1,2,1,1,-1"), ("2,0,1,0,-1", "2,1,0,0,-1")), "the signs are reversed"),
    (both(votes_csv=EVENTS.replace("25,x,0,4,0", "25,x,0,4,")), "votes.csv:5: column 'vote': "),
    (both(COMMENTS.replace(",1,3,1,1,0,", ",0,3,1,1,0,"), votes_csv=EVENTS), "comments.csv:3: column 'comment-id'"),
    (both(votes_csv=EVENTS, summary_csv="topic,x\nvote-convention,agree=-1;disagree=1;pass=0\n"), "summary.csv:2: "),
]


@pytest.mark.parametrize(("files", "says"), WRONG)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, files: dict[str, str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_conversation(export(tmp_path, **files))


def test_more_disagreement_than_agreement_is_said(tmp_path: Path) -> None:
    """The signs of some reports' votes are those of the database, and nothing in the file tells."""
    reversed_signs = EVENTS.replace(",1\n", ",?\n").replace(",-1\n", ",1\n").replace(",?\n", ",-1\n")
    found = read_conversation(export(tmp_path, comments_csv=COMMENTS, votes_csv=reversed_signs))
    assert "opposite signs" in found.messages[-1]


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    statements = [
        Statement("7", 'Say "no", and\nwhy', "p1", 1, 1000.0),
        Statement("9", "=Be kind, please", "", 1, 2000.0),
    ]
    ballots = [
        Ballot("p1", "7", 1, 1.0),
        Ballot("p2", "9", -1, 2.0),
        Ballot("p2", "7", 0, 3.0),
        Ballot("p1", "9", 1, 4.0),
    ]
    write_conversation(tmp_path / "out", "Title", statements, ballots, {"p1": "0"})
    found = read_conversation(tmp_path / "out")
    assert found.statements == tuple(statements)
    assert (found.participants, found.groups) == (("p1", "p2"), ("0", ""))
    np.testing.assert_array_equal(found.votes, [[1, 1], [0, -1]])
    (tmp_path / "out" / "participant-votes.csv").unlink()
    np.testing.assert_array_equal(read_conversation(tmp_path / "out").votes, [[1, 1], [0, -1]])
