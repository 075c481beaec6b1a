"""What `steersman serve` starts: which models, with which keys, and the fast ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steersman.cli.in_process import read_by
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


def opened_run(folder: Path) -> Any:
    """A run whose policy is that of dpo."""
    for stage in ("sft/adapter", "dpo/model", "reward_model/adapter", "base/model", "guard"):
        (folder / stage).mkdir(parents=True)

    class Opened:
        path, present, base = folder, {"base", "sft", "dpo", "reward_model"}, folder / "base" / "model"
        trains_a_policy, about = True, {"policy": "dpo"}

    return Opened()


def test_the_models_of_a_run(tmp_path: Path) -> None:
    opened = opened_run(tmp_path)
    assert models_of(opened) == {
        "raw": None,
        "sft": tmp_path / "sft",
        "dpo": tmp_path / "dpo",
        "aligned": tmp_path / "dpo",
    }
    opened.trains_a_policy = False
    assert "aligned" not in models_of(opened)


def test_a_guards_probe_reads_the_model_that_it_was_trained_on(tmp_path: Path) -> None:
    opened = opened_run(tmp_path / "run")
    elsewhere, base, guard = tmp_path / "elsewhere", opened.base, opened.path / "guard"
    assert read_by(guard, base, opened.path / "dpo", opened) == ["dpo", "aligned"]
    assert read_by(guard, elsewhere, Path("/where/it/was/sft"), opened) == ["sft"]  # the run has moved
    assert read_by(guard, elsewhere, None, opened) == ["raw"]
    assert read_by(elsewhere, base, None, opened) == ["raw"]
    assert read_by(elsewhere, base, opened.path / "sft", opened) == ["sft"]
    assert read_by(elsewhere, elsewhere, None, opened) == []
    assert read_by(elsewhere, base, Path("/of/another/run/sft"), opened) == []


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
