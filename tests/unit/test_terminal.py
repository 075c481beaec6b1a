"""Nothing is silent for longer than the limit, and what is said says what is being done."""

from __future__ import annotations

import contextlib
import io
import time

import pytest

from steersman import terminal
from steersman.terminal import Progress, console, working


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "SILENCE_S", 0.2)


def test_the_innermost_work_is_named_whenever_nothing_else_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with working("outer"), working("inner"), contextlib.redirect_stderr(io.StringIO()) as swallowed:
        time.sleep(0.7)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith("  inner: ") for line in lines)
    assert not swallowed.getvalue()  # a library's own chatter is, ours is not


def test_it_is_quiet_while_something_is_shown_and_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    with working("work"):
        for _ in range(10):
            console.print("line")
            time.sleep(0.05)
    time.sleep(0.5)
    assert "work" not in capsys.readouterr().err


def test_a_slow_step_of_a_bar_is_said_too(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("steps", 5) as progress:
        progress.advance()
        time.sleep(0.5)
    assert capsys.readouterr().err.splitlines().count("  steps 1/5") >= 2
