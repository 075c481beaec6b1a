"""A deployment on the command line: what a chat and a server tell their models, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.constitution.conftest import principle
from tests.unit.constitution.test_contested import contested
from typer.testing import CliRunner

from steersman import runs
from steersman.cli import app, model, serve
from steersman.constitution.document import Constitution, Principle
from steersman.errors import UserError
from steersman.types import Message

RUN = CliRunner()


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Message, ...]]:
    """The conversations that a run's model is given; what it says is nothing new."""
    opened(monkeypatch, contested(override="user"), principle("apples"))
    conversations: list[tuple[Message, ...]] = []

    def answers(request: Any) -> list[Any]:
        conversations.append(request.prompts[0])
        return [SimpleNamespace(text="Good.", truncated_prompt_tokens=0)]

    def speaker(run: object, *, aligned: bool) -> model.Speaker:
        return model.Speaker("aligned" if aligned else "raw", SimpleNamespace(answers=answers))  # type: ignore[arg-type]

    monkeypatch.setattr(model, "speaker", speaker)
    return conversations


def opened(monkeypatch: pytest.MonkeyPatch, *principles: Principle) -> None:
    """Any folder is a run with these principles."""
    rules = Constitution(name="feast", title="F", publisher="Us", version="1", persona="Plain.", principles=principles)
    run = SimpleNamespace(constitution=rules, policy=Path("sft"), trains_a_policy=True, present=(), path=Path("run"))
    run.about = {}
    monkeypatch.setattr(runs, "open_run", lambda folder: run)


def deployment(folder: Path, choices: str) -> str:
    file = folder / "club.yaml"
    file.write_text(f"publisher: The Club\nconstitution: feast\nchoices: {choices}\n", encoding="utf-8")
    return str(file)


def test_a_chat_begins_with_what_the_deployment_decides(heard: list[tuple[Message, ...]], tmp_path: Path) -> None:
    done = RUN.invoke(app, ["chat", "run", "Hi", "--compare", "--deployment", deployment(tmp_path, "{lamb: eat}")])
    assert done.exit_code == 0, done.output
    raw, aligned = heard
    assert "The Club follows one position" in aligned[0].content
    assert "apples" not in aligned[0].content
    assert "Keep apples." in raw[0].content  # it was not trained on the rest
    assert [message.role for message in aligned] == ["system", "user"]


def test_a_user_chooses_where_the_publisher_has_not(heard: list[tuple[Message, ...]], tmp_path: Path) -> None:
    RUN.invoke(app, ["chat", "run", "Hi", "--choose", "lamb=spare"])
    assert "the person that you talk to follows one position" in heard[0][0].content
    words = ["chat", "run", "Hi", "--deployment", deployment(tmp_path, "{lamb: eat}"), "--choose", "lamb=spare"]
    done = RUN.invoke(app, words)
    assert 'refused: "Keep lamb": The Club has decided it' in done.output
    assert "The Club follows one position" in heard[1][0].content
    RUN.invoke(app, ["chat", "run", "Hi"])
    assert [message.role for message in heard[2]] == ["user"]


def test_what_the_publisher_may_not_decide_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(monkeypatch, contested(override="nobody"))
    with pytest.raises(UserError, match="the constitution lets nobody decide otherwise"):
        model.effective_of(Path("run"), Path(deployment(tmp_path, "{lamb: eat}")), ())
    with pytest.raises(UserError, match="found 'lamb'") as caught:
        model.effective_of(Path("run"), None, ["lamb"])
    assert "PRINCIPLE=CHOICE" in str(caught.value)


def test_a_server_tells_each_model_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(monkeypatch, contested(), principle("apples"))
    monkeypatch.setattr(serve, "models_of", lambda run: {"raw": None, "aligned": Path("sft")})
    file = Path(deployment(tmp_path, "{lamb: eat}"))
    with pytest.raises(UserError, match="a model and no run"):
        serve.system_texts(str(tmp_path), file)
    (tmp_path / "run.json").touch()
    told = serve.system_texts(str(tmp_path), file)
    assert "Keep apples" in told["raw"]
    assert "Keep apples" not in told["aligned"]
    assert all("The Club follows one position" in text for text in told.values())
