"""A round that cannot begin says why in a sentence and leaves no store; one that ends keeps its votes, in silence."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from steersman.errors import UserError
from steersman.http_server import Address
from steersman.rating.participants import SharedLink
from steersman.rating.round import Round
from steersman.rating.session import Source, begin, export, serve_round

OK = {"prompt": "A?", "options": ["x", "y"]}


def asked(folder: Path, *rows: dict[str, object]) -> Path:
    file = folder / "asked.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The applications that would have been served."""
    apps: list[object] = []
    monkeypatch.setattr("steersman.rating.session.serve", lambda app, *_: apps.append(app))
    return apps


def start(file: Path, store: str | None = None, address: Address | None = None, **more: object) -> None:
    given = {"source": Source(**more.pop("source", {})), "settings": Round(), "names": ["Ann"]}  # type: ignore[arg-type]
    address = address or Address(port=0)
    serve_round(file, **given, address=address, load_model=lambda _: None, store=store, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "B?", "options": ["a" * 60_001, "b"]}, "has 60001 characters"),
        ({"prompt": "B?", "chosen": "b", "rejected": "a" * 60_001}, "has 60001 characters"),
        ({"prompt": "B?", "options": ["same", "same"]}, "same"),
        ({"prompt": "B?", "options": [str(i) for i in range(10)]}, "10"),
        ({"prompt": "B?", "options": ["b"]}, ""),
    ],
)
@pytest.mark.parametrize("where", [None, "new/rating.sqlite"])
def test_a_row_that_is_no_question_is_a_sentence_and_leaves_no_store(
    tmp_path: Path, row: dict[str, object], told: str, where: str | None
) -> None:
    file = asked(tmp_path, OK, row)
    with pytest.raises(UserError) as refused:
        start(file, where and str(tmp_path / where))
    assert told in str(refused.value)
    assert len(str(refused.value)) < 600
    assert [path.name for path in tmp_path.iterdir()] == ["asked.jsonl"]


def test_other_failures_at_the_start_leave_no_store(tmp_path: Path) -> None:
    file, gold = asked(tmp_path, OK), tmp_path / "gold.jsonl"
    gold.write_text(json.dumps({"prompt": "k", "chosen": "a" * 60_001, "rejected": "b"}) + "\n")
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = Address(port=other.getsockname()[1])
        failures = (
            lambda: start(file, address=taken),
            lambda: start(file, address=Address(port=0, url="rating.example.org")),
            lambda: start(file, address=Address(port=0, host="0.0.0.0")),
            lambda: start(file, shared=SharedLink(completion="C1")),
            lambda: start(file, shared=SharedLink(participants=1, completion="not a code")),
            lambda: start(file, source={"gold": str(gold)}),
            lambda: start(file, source={"gold": "nowhere.jsonl"}),
            lambda: start(file, source={"compare": ("raw", "aligned")}),
            lambda: start(tmp_path / "nowhere.jsonl"),
            lambda: export(file),
        )
        for number, fails in enumerate(failures):
            with pytest.raises(UserError):
                fails()
            assert sorted(path.name for path in tmp_path.iterdir()) == ["asked.jsonl", "gold.jsonl"], number


def test_an_interrupt_while_answers_are_sampled_leaves_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("steersman.rating.session.make_questions", interrupted)
    with pytest.raises(KeyboardInterrupt):
        begin(asked(tmp_path, OK), Source(), Round(), interrupted)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["asked.jsonl"]


def test_a_store_with_votes_is_never_removed(tmp_path: Path) -> None:
    file = asked(tmp_path, OK)
    begin(file, Source(), Round(), lambda _: None).database.engine.dispose()  # type: ignore[arg-type,return-value]
    with pytest.raises(UserError, match="other settings"):
        begin(file, Source(), Round(seed=7), lambda _: None)  # type: ignore[arg-type,return-value]
    assert (tmp_path / "asked.rating.sqlite").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_server_ends_without_a_traceback_and_keeps_the_votes(tmp_path: Path, number: signal.Signals) -> None:
    """By Ctrl-C, which a terminal sends to the scorer's process too, while that is scoring."""
    rows = [{"prompt": f"question {i}", "options": ["yes", "no"]} for i in range(40)]
    file = asked(tmp_path, *rows)
    command = [sys.executable, "-m", "steersman", "rate", str(file), "--port", "0", "--participants", "2"]
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ, start_new_session=True)
    try:
        link = None
        for _ in range(1200):
            assert process.poll() is None, (tmp_path / "log").read_text()
            if link := re.search(r"(http://\S+)/study\?key=([\w-]+)&participant=", (tmp_path / "log").read_text()):
                break
            time.sleep(0.25)
        assert link is not None
        with httpx.Client(base_url=link[1], timeout=60) as client:
            body = {"key": link[2], "participant": "p1", "consent": True}
            assert client.post("/study", json=body).status_code == 200
            text = client.get("/task").text
            name = re.search(r'data-assignment="([^"]+)"', text)
            assert name is not None
            vote = {"submission": "the-only-vote", "assignment": name[1], "ranking": [1, 2]}
            assert client.post("/vote", json=vote).status_code == 200
            os.killpg(process.pid, number)
        assert process.wait(120) == (0 if number == signal.SIGINT else 143)
        log.flush()
        told = (tmp_path / "log").read_text()
        assert "Traceback" not in told
        assert "warning" not in told
        assert "Error" not in told
        for _ in range(240):  # Python's own tracker of resources takes a moment to see that nobody is left
            own = ["ps", "-o", "pid=", "-g", str(process.pid)]
            left = subprocess.run(own, capture_output=True, text=True).stdout.split()
            if not left:
                break
            time.sleep(0.25)
        assert left == []
    finally:
        log.close()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert any("comparisons.jsonl (1 rows)" in line for line in export(file))
    assert "p1" in (tmp_path / "asked.rating" / "participants.csv").read_text()
