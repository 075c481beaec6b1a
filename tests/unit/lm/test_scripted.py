"""A scripted model: the interface of a model, answers from a table."""

from __future__ import annotations

import pytest

from steersman.errors import DataError
from steersman.lm.language_model import LanguageModel
from steersman.lm.sampling import Request, SamplingConfig
from steersman.lm.scripted import ScriptedModel
from steersman.types import Message

CONVERSATION = (Message(role="user", content="Hi"), Message(role="user", content="Why?"))
MODEL: LanguageModel = ScriptedModel({"What is tar?": "A sticky black liquid.", "User: Hi\nUser: Why?": "Because."})
CONFIG = SamplingConfig(max_new_tokens=3)


def test_answers_come_from_the_script_and_keep_the_prompts_numbers() -> None:
    found = list(MODEL.answers(Request([CONVERSATION, "What is tar?"], CONFIG, indices=[7, 4])))
    assert [(a.index, a.text, a.finish_reason) for a in found] == [
        (7, "Because.", "stop"),
        (4, "A sticky black", "length"),
    ]
    assert [(len(a.token_ids), a.logprobs) for a in found] == [(1, [0.0]), (3, [0.0] * 3)]


def test_it_streams_word_by_word() -> None:
    heard: list[tuple[int, str]] = []
    list(MODEL.answers(Request(["What is tar?"], CONFIG, on_text=lambda *said: heard.append(said))))
    assert heard == [(0, "A"), (0, "A sticky"), (0, "A sticky black")]


def test_a_prompt_outside_the_script_is_an_error_or_has_the_answer_for_everything_else() -> None:
    with pytest.raises(DataError, match="no answer to 'What is pitch"):
        list(MODEL.answers(Request(["What is pitch?"], CONFIG)))
    (answer,) = ScriptedModel({}, otherwise="Pass.").answers(Request(["What is pitch?"], CONFIG))
    assert answer.text == "Pass."
