"""What `steersman serve` starts: which models, with which keys, and the fast ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steersman.cli.serve import KEYS, api_keys, load_engine, models_of
from steersman.errors import UserError
from steersman.http_server import Address
from steersman.lm.language_model import LocalModel
from steersman.serving import models
from steersman.serving.engine import Engine, EngineConfig
from steersman.serving.token_text import TokenText
from steersman.types import Demonstration

from .conftest import TEXTS, job, run, text_of


def test_other_machines_need_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS, raising=False)
    assert api_keys(None, Address()) == []
    for public in (Address(host="0.0.0.0"), Address(host="192.168.1.4"), Address(url="https://models.example.org")):
        with pytest.raises(UserError, match="no key"):
            api_keys(None, public)
    monkeypatch.setenv(KEYS, " a-key , another ")
    assert api_keys(None, Address(host="0.0.0.0")) == ["a-key", "another"]
    file = tmp_path / "keys"
    file.write_text("# of Ann\nanns-key\n\n", encoding="utf-8")
    assert api_keys(file, Address(host="0.0.0.0")) == ["anns-key"]
    file.write_text("# nobody's\n", encoding="utf-8")
    with pytest.raises(UserError, match="no key in this file"):
        api_keys(file, Address())


def test_a_plain_model_is_served_under_its_folders_name(base: Path, local: LocalModel) -> None:
    engine = load_engine(str(base), (), EngineConfig(context=64))
    assert list(engine.models) == [base.name]
    assert engine.context(base.name) == 64
    with pytest.raises(UserError, match="no run"):
        load_engine(str(base), ("aligned",), EngineConfig())


def test_the_models_of_a_run(tmp_path: Path) -> None:
    for stage in ("sft/adapter", "dpo/model", "reward_model/adapter"):
        (tmp_path / stage).mkdir(parents=True)

    class Opened:
        path, present = tmp_path, {"base", "sft", "dpo", "reward_model"}
        trains_a_policy, about = True, {"policy": "dpo"}

    opened: Any = Opened()
    assert models_of(opened) == {
        "raw": None,
        "sft": tmp_path / "sft",
        "dpo": tmp_path / "dpo",
        "aligned": tmp_path / "dpo",
    }
    opened.trains_a_policy = False
    assert "aligned" not in models_of(opened)


def test_fast_is_the_fast_model(base: Path, engine_of: Callable[..., Engine]) -> None:
    examples = [Demonstration(prompt=text[:12], completion=text[12:]) for text in TEXTS]
    local = LocalModel.load_fast(base, None, examples)
    engine = engine_of(models.load(base, {"raw": None}, fast=True, examples=examples))
    questions = ["How do I cook a?", "tea", "How do I cook bread? And tea?"]
    told = run(engine, [job(local, question, max_new_tokens=16) for question in questions])
    engine.close()  # the engine's copy of the weights leaves the model
    assert [text_of(one) for one in told] == local.generate(questions, max_new_tokens=16)


def test_tokens_spell_their_text_in_bytes(local: LocalModel) -> None:
    tokenizer, text = local.sampler.chat.tokenizer, "Grüße, 🎉 rice!\n  \tand tea"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert b"".join(map(TokenText(tokenizer).bytes_of, ids)) == text.encode()
