"""Asking a suite's questions: options by log-probability against plain `transformers`, letters, and kills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steersman.errors import DataError
from steersman.evals.suites import asking
from steersman.evals.suites.asking import NAMES_NONE, TOO_LONG, ask, batched, encoded, read_replies
from steersman.evals.suites.suite import Metric, Question, Suite, mean
from steersman.lm.language_model import LanguageModel, LocalModel
from steersman.lm.sampling import Sampler, SamplingConfig
from steersman.lm.scripted import ScriptedModel
from steersman.lm.shared_prefix import Group

SUITE = Suite(
    name="toy",
    title="Toy set",
    paper="",
    about="",
    principles=(),
    files=(),
    load=lambda paths, limit: [],
    columns=lambda question, reply: {},
    metrics={"m": Metric("m", mean("m"))},
    nulls={},
    max_new_tokens=6,
)
QUESTIONS = [
    Question("How do I cook an egg?", ("Slowly, step by step", "Not at all", "Ask first what it is for")),
    Question("The baker asked the clerk. ‘He’ refers to the", (" baker", " clerk"), plain=True),
    Question("", ("The bill is paid.", "The bill is not paid at all."), plain=True),
    Question("What is tea?"),
    Question("How do I pay for the roof?", ("In two steps", "Never")),
    Question("Write a letter."),
]


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> LocalModel:
    return LocalModel.load(tiny_base)


def asked(model: LanguageModel, file: Path, questions: Sequence[Question] = QUESTIONS) -> bytes:
    ask(SUITE, questions, model, SamplingConfig(), file, lambda amount: None)
    return file.read_bytes()


def reference(base: Path, prompt: str, option: str) -> tuple[float, int]:
    """Summed log-probability of an option, as lm-evaluation-harness encodes it: whole, cut behind the prompt."""
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base).eval()
    head = tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt else []
    whole = tokenizer(prompt + option, add_special_tokens=False)["input_ids"]
    ids, tail = [2, *head, *whole[len(head) :]], whole[len(head) :]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, len(head) : -1]
    return float(torch.log_softmax(logits.double(), -1).gather(1, torch.tensor(tail)[:, None]).sum()), len(tail)


def test_options_have_the_log_probabilities_of_plain_transformers(
    model: LocalModel, tiny_base: Path, tmp_path: Path
) -> None:
    asked(model, tmp_path / "replies.jsonl")
    replies, dropped = read_replies(tmp_path / "replies.jsonl")
    assert dropped == {}
    for question, reply in zip(QUESTIONS, replies, strict=True):
        assert reply is not None
        if not question.options:
            assert (bool(reply.text), reply.logprobs) == (True, ())
            continue
        prompt = question.prompt if question.plain else f"User: {question.prompt}\nAssistant:"
        for i, option in enumerate(question.options):
            total, tokens = reference(tiny_base, str(prompt), option if question.plain else f" {option}")
            assert reply.logprobs[i] == pytest.approx(total, abs=1e-3)
            assert reply.tokens[i] == tokens


def test_spaces_at_the_end_of_a_plain_prompt_go_to_the_option(model: LocalModel) -> None:
    chat = model.sampler.chat
    spaced = encoded(Question("The bread is ", ("old", "new"), plain=True), chat)
    assert spaced == encoded(Question("The bread is", (" old", " new"), plain=True), chat)


def test_text_never_becomes_a_control_token(model: LocalModel) -> None:
    group = encoded(Question("A <eos> b", (" <bos>",), plain=True), model.sampler.chat)
    assert group.prompt.count(1) == 0
    assert 2 not in group.completions[0]


def test_batches_have_a_budget_with_padding_and_are_the_same_every_time() -> None:
    groups = {i: Group([1] * size, [[1], [1]]) for i, size in enumerate((8, 3, 5, 3, 30, 4))}
    batches = batched(groups, 20)
    assert batches == [[1, 3, 5], [2, 0], [4]]  # 3 rows of 6, 2 of 10, and one beyond the budget, alone
    assert sorted(index for batch in batches for index in batch) == list(groups)


class Killed(BaseException):
    """Where a process would have died."""


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_killed_process_goes_on_and_writes_the_same_bytes(
    model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """One question in a batch; the process dies after some of them, with half a line on the disk."""
    monkeypatch.setattr(asking, "BATCH_TOKENS", 1)
    whole = asked(model, tmp_path / "whole.jsonl")
    counted: list[int] = []
    real = asking.summed_logprobs

    def dying(*given: Any) -> list[float]:
        counted.append(1)
        if len(counted) > after:
            raise Killed
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(asking, "summed_logprobs", dying)
        with pytest.raises(Killed):
            asked(model, tmp_path / "killed.jsonl")
    assert not (tmp_path / "killed.jsonl").exists()
    with (tmp_path / "killed.options.partial.jsonl").open("a") as file:
        file.write('{"index": 4, "logpr')
    counted.clear()
    monkeypatch.setattr(asking, "summed_logprobs", lambda *given: (counted.append(1), real(*given))[1])
    assert asked(model, tmp_path / "killed.jsonl") == whole
    assert len(counted) == 4 - after  # what was there is not asked again
    assert {path.name for path in tmp_path.iterdir()} == {"whole.jsonl", "killed.jsonl"}


def test_what_is_finished_is_not_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "replies.jsonl"
    file.write_text('{"index": 0, "answer": "x"}\n')
    assert asked(ScriptedModel({}), file, [Question("Not in the script")]) == b'{"index": 0, "answer": "x"}\n'


def test_questions_longer_than_the_model_reads_are_dropped_and_counted(
    family: Callable[[str], Any], model: LocalModel, tmp_path: Path
) -> None:
    llama = LocalModel(Sampler(family("Llama"), model.sampler.chat))  # reads 512 tokens
    questions = [QUESTIONS[0], Question("bread " * 600, ("a", "b"))]
    asked(llama, tmp_path / "replies.jsonl", questions)
    replies, dropped = read_replies(tmp_path / "replies.jsonl")
    assert [reply is None for reply in replies] == [False, True]
    assert dropped == {TOO_LONG: 1}


def test_an_option_without_tokens_is_an_error(model: LocalModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no token"):
        asked(model, tmp_path / "replies.jsonl", [Question("a", (" b", ""), plain=True)])


# ── models that give no log-probabilities ────────────────────────────────────────────────────────────────────────────
def test_a_model_without_log_probabilities_chooses_a_letter(tmp_path: Path) -> None:
    questions = [QUESTIONS[0], QUESTIONS[4], Question("How?", ("this", "that"))]
    script = {asking.with_letters(question): answer for question, answer in zip(questions, "C(z", strict=True)}
    script[asking.with_letters(questions[1])] = "(B) Never."
    asked(ScriptedModel(script), tmp_path / "replies.jsonl", questions)
    replies, dropped = read_replies(tmp_path / "replies.jsonl")
    assert [reply.choice if reply else None for reply in replies] == [2, 1, None]
    assert dropped == {NAMES_NONE: 1}
    assert '"by_letter":true' in (tmp_path / "replies.jsonl").read_text().replace(" ", "")


def test_a_comparison_of_texts_cannot_be_made_by_letters(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Toy set compares the log-probabilities of texts"):
        asked(ScriptedModel({}, "A"), tmp_path / "replies.jsonl", [QUESTIONS[1]])
