"""Uploading to the Hub: what arrives there, and its refusals in one sentence, without the token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from pretend_hub import PretendHub, serving
from steersman.errors import ModelError
from steersman.lm import hub

TOKEN = "hf_" + "secret" * 5


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendHub]:
    with serving(PretendHub(TOKEN)) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("---\nlibrary_name: peft\n---\n")
    (tmp_path / "out" / "weights.safetensors").write_bytes(b"\0\1")
    return tmp_path / "out"


@pytest.mark.parametrize("public", [False, True])
def test_a_folder_is_uploaded_private_unless_asked_otherwise(public: bool, remote: PretendHub, folder: Path) -> None:
    hub.check_push("me/mine")
    assert hub.push(folder, "me/mine", public=public) == f"{remote.address}/me/mine"
    assert remote.created["visibility"] == ("public" if public else "private")
    assert remote.files == {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("status", "message"), [(403, "may not write there"), (404, "no such owner"), (500, "the Hub answered 500")]
)
def test_what_the_hub_refuses_is_said(status: int, message: str, remote: PretendHub, folder: Path) -> None:
    remote.status = status
    with pytest.raises(ModelError, match=message) as refused:
        hub.push(folder, "me/mine")
    assert TOKEN not in str(refused.value)
    assert not remote.files


def test_what_would_be_refused_is_said_before_the_work(remote: PretendHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="not the name of a repository"):
        hub.check_push("mine")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(ModelError, match="does not know this token"):
        hub.check_push("me/mine")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="cannot be reached"):
        hub.check_push("me/mine")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ModelError, match="no token"):
        hub.check_push("me/mine")


def test_a_models_own_card_is_read_if_it_can_be(tmp_path: Path) -> None:
    assert hub.front_matter(tmp_path) == {}
    for text, found in (("---\nlicense: mit\n---\nx", {"license": "mit"}), ("no head", {}), ("---\n: [\n---\n", {})):
        (tmp_path / "README.md").write_text(text)
        assert hub.front_matter(tmp_path) == found
