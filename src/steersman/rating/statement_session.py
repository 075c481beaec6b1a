"""A conversation on statements in a folder: beginning it, its server, and the export of its votes.

FOLDER/  statements.sqlite   statements, participants and votes
         votes/              the export, as Polis writes it: comments, votes, participants, summary
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steersman.data.polis import Ballot, Statement, read_statements, write_conversation
from steersman.errors import DataError, UserError
from steersman.http_server import Address, listen
from steersman.rating.accounts import parse_names
from steersman.rating.app import new_token, serve
from steersman.rating.participants import SharedLink, participants_table
from steersman.rating.session import PARTICIPANTS, PROLIFIC, invitations
from steersman.rating.statement_app import StatementApp
from steersman.rating.statement_round import Analyse, StatementRound, tidy
from steersman.rating.statement_store import StatementStore
from steersman.store import write_text

STORE, EXPORT = "statements.sqlite", "votes"


def first_statements(file: Path) -> list[str]:
    """The statements that a conversation begins with: one a line of a text, or those of Polis' comments.csv.

    Raises:
        DataError: the file is missing, a statement is too long, or there is none.
    """
    if not file.is_file():
        raise DataError("no such file", where=str(file), expected="statements, one a line, or Polis' comments.csv")
    if file.suffix == ".csv":
        found = [(str(file), statement.text) for statement in read_statements(file)[0].values()]
    else:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 (byte {error.start})", where=str(file), do="save it as UTF-8") from error
        numbered = [(f"{file}:{number}", line.strip()) for number, line in enumerate(lines, 1)]
        found = [(where, line) for where, line in numbered if line and not line.startswith("#")]
    if not found:
        raise DataError("there is no statement", where=str(file), expected="one a line")
    for where, text in found:
        try:
            tidy(text)
        except ValueError as error:
            raise DataError(str(error), where=where, do="say it shorter, or as two statements") from error
    return [text for _, text in found]


def open_conversation(folder: Path) -> StatementStore:
    """The store of a conversation that has begun.

    Raises:
        UserError: there is none in this folder.
    """
    file = folder / STORE
    if not file.exists():
        do = "steersman rate statements FILE --to FOLDER"
        raise UserError("no conversation has begun here", where=str(file), do=do)
    return StatementStore(file)


def begin_conversation(file: Path, folder: Path, changed: dict[str, Any]) -> StatementStore:
    """Begin a conversation in a folder, or continue the one that is there with the statements that are new.

    Args:
        changed: settings of a `StatementRound`; the others are the begun conversation's, or the defaults.

    Raises:
        UserError: a setting differs from those of the begun conversation, or there is no statement.
    """
    texts = first_statements(file)
    settings = StatementRound.model_validate(changed)
    opened = StatementStore(folder / STORE)
    if opened.begun:
        settings = StatementRound.model_validate({**opened.round.model_dump(), **changed})
    opened.begin(settings, texts)
    return opened


def serve_conversation(
    file: Path,
    folder: Path,
    changed: dict[str, Any],
    names: list[str],
    address: Address,
    analyse: Analyse,
    shared: SharedLink,
) -> None:
    """Begin or continue a conversation, print the new participants' links, and serve until interrupted."""
    address.names()
    parse_names(names)
    shared.parsed()
    with listen(address) as bound:
        opened = begin_conversation(file, folder, changed)
        base, token = address.link(bound.getsockname()[1]), new_token()
        app = StatementApp(opened, token, analyse, address.origin, address.prefix, shared)
        print(f"{len(opened.statements())} statements in {opened.where}\n")
        for name, invitation in invitations(app.accounts, names, default=not shared.participants):
            print(f"  {name}: {base}/join#{invitation}")
        if shared.participants:
            link = f"{base}/study?key={app.participants.key()}"
            print(f"\n  at most {shared.participants} participants: {link}&{PROLIFIC}")
            print(f"  from elsewhere, each under an id of its own: {link}&participant=ID")
        print(f"\n  administration: {base}/admin#{token}\n\nCtrl-C ends; the same command goes on.", flush=True)
        serve(app, address, bound)


def export_conversation(folder: Path, out: Path | None, analyse: Analyse) -> list[str]:
    """Write the standing votes on accepted statements as Polis does, with the opinion groups of this moment.

    Participants are numbers (``rater-3``); those who withdrew are left out, with their statements.

    Returns:
        Messages about the files and the groups.

    Raises:
        UserError: no conversation has begun in this folder, or nobody has voted.
    """
    opened = open_conversation(folder)
    ballots, settings = opened.ballots(), opened.round
    if not ballots.raters:
        raise UserError("nobody has voted yet", where=str(folder), do="steersman rate statements FILE --to FOLDER")
    opinions = analyse(ballots.votes, settings.min_votes, settings.seed)
    groups = {
        f"rater-{rater}": str(label) for rater, label in zip(ballots.raters, opinions.labels, strict=True) if label >= 0
    }
    statements = [
        Statement(str(s.id), s.text, f"rater-{s.author}" if s.author else "", 1, s.written_at)
        for s in ballots.statements
    ]
    cast = [Ballot(f"rater-{b.rater}", str(b.statement), b.vote, b.voted_at) for b in opened.standing()]
    lines = write_conversation(out or folder / EXPORT, settings.title, statements, cast, groups)
    sizes = ", ".join(
        str(sum(label == str(group) for label in groups.values())) for group in range(len(set(groups.values())))
    )
    if table := participants_table(opened.database):
        write_text(folder / PARTICIPANTS, table)
        (folder / PARTICIPANTS).chmod(0o600)
        lines.append(f"wrote {folder / PARTICIPANTS}: the ids, for the payment; keep it apart from the votes")
    left = len(ballots.raters) - len(groups)
    return [*lines, f"opinion groups of {sizes} people" + (f"; {left} with too few votes in none" if left else "")]
