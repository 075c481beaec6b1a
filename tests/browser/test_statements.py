"""Twenty people vote on statements in Chromium; two opinion groups appear, and a constitution is drafted from them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from steersman.cli import app
from steersman.constitution.document import load
from steersman.rating.accounts import RaterAccounts
from steersman.rating.statement_session import begin_conversation
from steersman.rating.statement_store import StatementStore

from .conftest import ADMIN, join, next_one, on_screen, read

pytestmark = pytest.mark.slow

SHARED = ["The assistant says what it does not know.", "The assistant gives its reasons."]
CONTESTED = [
    "The assistant keeps every answer short.",
    "The assistant jokes with people.",
    "The assistant gives orders.",
]
ADDED = "The assistant tells people where to find help."
SERVER = """
import sys
from pathlib import Path
from steersman.cli.rate import analyse
from steersman.http_server import Address, listen
from steersman.rating.app import serve
from steersman.rating.statement_app import StatementApp
from steersman.rating.statement_session import open_conversation
address = Address(port=0)
bound = listen(address)
print(bound.getsockname()[1], flush=True)
serve(StatementApp(open_conversation(Path(sys.argv[1])), sys.argv[2], analyse), address, bound)
"""


@pytest.fixture
def talking(tmp_path: Path) -> Iterator[tuple[str, StatementStore, Path]]:
    """The address of a served conversation, its store and its folder."""
    file, folder = tmp_path / "statements.txt", tmp_path / "talk"
    file.write_text("\n".join([*SHARED, *CONTESTED]), encoding="utf-8")
    store = begin_conversation(file, folder, {"title": "How should it behave?"})
    command = [sys.executable, "-c", SERVER, str(folder), ADMIN]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert server.stdout is not None
    port = int(server.stdout.readline())
    yield f"http://127.0.0.1:{port}", store, folder
    server.kill()
    server.wait(10)
    server.stdout.close()
    store.database.engine.dispose()


def key_of(text: str, person: int) -> str:
    """People with even numbers are for what the others are against, and all are for the rest; one of them passes."""
    if text not in CONTESTED:
        return "3" if person == 0 and text == SHARED[1] else "1"
    return "1" if person % 2 == CONTESTED.index(text) % 2 else "2"


def test_twenty_people_become_two_groups_and_a_constitution(
    talking: tuple[str, StatementStore, Path], visit: Callable[..., Any], tmp_path: Path
) -> None:
    url, store, folder = talking
    accounts = RaterAccounts(store.database)
    people = [visit() for _ in range(20)]
    for number, page in enumerate(people):
        join(page, f"{url}/join#{accounts.invite(f'person {number}')}")

    people[0].click("text=Add a statement of your own")
    people[0].fill("textarea", ADDED)
    people[0].click("text=Send")
    people[0].wait_for_selector("text=waits for the moderator")
    boss = visit()
    boss.goto(f"{url}/admin#{ADMIN}")
    boss.wait_for_selector(f"text={ADDED}")
    boss.click("button:has-text('Accept')")
    boss.wait_for_selector("text=None.")
    people[0].click("text=Back to voting")
    people[0].wait_for_load_state("load")
    read(people[0])

    mistaken = on_screen(people[1])
    people[1].keyboard.press("3")
    next_one(people[1], mistaken)
    people[1].keyboard.press("u")
    people[1].wait_for_function("() => document.querySelector('.count').textContent.includes('0 done')")
    read(people[1])
    for _ in range(len(SHARED) + len(CONTESTED) + 1):
        before = [on_screen(page) for page in people]
        for number, page in enumerate(people):
            page.keyboard.press(key_of(page.inner_text(".said"), number))
        for page, shown in zip(people, before, strict=True):
            next_one(page, shown)
    assert all("That is all for now" in page.inner_text("#task") for page in people)

    boss.evaluate("refresh()")
    boss.wait_for_selector("#live strong")
    seen = boss.inner_text("#live")
    assert "120 votes of 20 people on 6 statements" in seen
    assert "2 groups: A 10, B 10" in seen
    assert seen.index(ADDED) < seen.index("What divides the groups")

    run, file = CliRunner(), tmp_path / "agreed.yaml"
    for command in (
        ["rate", "export-statements", str(folder)],
        ["constitution", "draft", str(folder / "votes"), "--to", str(file)],
    ):
        done = run.invoke(app, command)
        assert done.exit_code == 0, done.output
    made = load(file)
    assert {principle.statement for principle in made.principles} == {*SHARED, ADDED}
    for principle in made.principles:
        assert principle.support is not None
        assert [group.votes for group in principle.support.groups] == [10, 10]
        passed = principle.statement == SHARED[1]
        assert sorted(group.agree for group in principle.support.groups) == [9 if passed else 10, 10]
    assert all(text in file.read_text(encoding="utf-8") for text in CONTESTED)
