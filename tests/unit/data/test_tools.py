"""Rows with tools: one meaning in each tool's form, on both sides of a preference, there and back, and their faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steersman.constitution import document
from steersman.data.columns import records_of
from steersman.data.export import export
from steersman.data.sources import DataSet
from steersman.errors import DataError
from steersman.recipe import load_recipe
from steersman.stage import Sources
from steersman.stages.sources import check_conversations
from steersman.types import Comparison, Demonstration, Message, ToolCall, calling, calls_of, messages_of

SCHEMA = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": SCHEMA}]
ASK = {"role": "user", "content": "Bonn?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "21"}
DONE, WRONG = ({"role": "assistant", "content": text} for text in ("21 degrees.", "It rains."))


def demonstration(row: dict[str, Any]) -> Demonstration:
    (found,) = records_of(row, Demonstration)
    return Demonstration.model_validate(found)


def comparison(row: dict[str, Any]) -> Comparison:
    (found,) = records_of(row, Comparison)
    return Comparison.model_validate(found)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, CALLING, RESULT, DONE], "tools": TOOLS, "parallel_tool_calls": False},
        {"messages": [ASK, CALLING, RESULT, DONE], "tools": json.dumps(TOOLS)},
        {"prompt": [ASK, CALLING, RESULT], "completion": [DONE], "tools": TOOLS},
        {"prompt": [ASK], "completion": [CALLING, RESULT, DONE], "tools": TOOLS},
        {
            "messages": [
                ASK,
                {"role": "assistant", "function_call": {"name": "weather", "arguments": '{"city": "Bonn"}'}},
                {"role": "function", "name": "weather", "content": "21"},
                DONE,
            ],
            "functions": [SCHEMA],
        },
        {
            "conversations": [
                {"from": "human", "value": "Bonn?"},
                {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bonn"}}'},
                {"from": "observation", "value": "21"},
                {"from": "gpt", "value": "21 degrees."},
            ],
            "tools": json.dumps(TOOLS),
        },
    ],
)
def test_one_conversation_in_many_forms(row: dict[str, Any]) -> None:
    found = demonstration(row)
    offered, ask, call, result = messages_of(found.prompt)
    assert (offered.role, json.loads(offered.content), ask) == ("tools", TOOLS, Message.model_validate(ASK))
    (one,) = calls_of(call.content)[1]
    assert (one.name, json.loads(one.arguments), one.id) == ("weather", {"city": "Bonn"}, one.id and "c1")
    assert (result.role, result.content) == ("tool", "21")
    assert found.completion == "21 degrees."
    assert Demonstration.model_validate_json(found.model_dump_json()) == found


def test_preferences_between_calls_and_after_calls_there_and_back() -> None:
    alone = comparison({"prompt": "Bonn?", "chosen": [CALLING], "rejected": [WRONG], "tools": TOOLS})
    after = comparison(
        {"chosen": [ASK, CALLING, RESULT, DONE], "rejected": [ASK, CALLING, RESULT, WRONG], "tools": TOOLS}
    )
    apart = {"prompt": [ASK], "chosen": [CALLING, RESULT, DONE], "rejected": [CALLING, RESULT, WRONG], "tools": TOOLS}
    assert comparison(apart) == after
    assert calls_of(alone.options[0]) == ("", (ToolCall(name="weather", arguments='{"city": "Bonn"}', id="c1"),))
    assert after.options == ("21 degrees.", "It rains.")
    for row in (alone, after):
        (written,) = export([row], "trl").rows
        assert written["tools"] == TOOLS
        assert "␞" not in json.dumps(written, ensure_ascii=False)
        assert comparison(written) == row
        assert set(export([row], "openrlhf").refused) == set(export([row], "hh").refused) == {0}


def test_an_answer_and_its_calls_come_apart_as_they_were_put_together() -> None:
    calls = [ToolCall(name="a", arguments='{"x": "1\\n␞{}"}'), ToolCall(name="ü", id="7")]
    for text in ("", "Let me look.\n", "␞{not a call}\n␞"):
        assert calls_of(calling(text, calls)) == (text, tuple(calls))
        assert calls_of(text) == (text, ())


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"tool_calls": [{**CALL, "type": "custom"}]}, "a call of the type 'custom'"),
        ({"tool_calls": [{"name": "w", "arguments": "{"}]}, "'arguments' is no JSON"),
        ({"tool_calls": [{"name": "w", "arguments": "[1]"}]}, "'arguments' of a call must be an object"),
        ({"role": "user"}, "a call of a tool by 'user'"),
        ({"weight": 0}, "the weight 0"),
    ],
)
def test_what_cannot_be_learnt_is_refused(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        demonstration({"messages": [ASK, {**CALLING, **change}, RESULT, DONE], "tools": TOOLS})


def test_a_row_that_the_model_cannot_write_is_named_before_training(tiny_base: Path) -> None:
    rows = [Demonstration(prompt="Hi?", completion="Yes."), demonstration({"messages": [ASK, CALLING, RESULT, DONE]})]
    data = DataSet(Path("mine"), rows, [], [], [])
    with pytest.raises(DataError, match="mine, demonstrations, row 2: a conversation with tools, and the model has no"):
        check_conversations(Sources(load_recipe("smoke"), document.NONE, data), tiny_base)
    check_conversations(Sources(load_recipe("smoke"), document.NONE, data._replace(demonstrations=rows[:1])), tiny_base)
