"""Comparisons in the columns of other tools: what each row means, and what it is refused for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from steersman.data.columns import transcript
from steersman.data.formats import read, sort_out
from steersman.errors import DataError
from steersman.store import write_jsonl
from steersman.types import Comparison, Demonstration, Message, plain_text

PUBLIC = Path(__file__).resolve().parents[3] / "../shared/data/preferences"
SYSTEM, USER, ASSISTANT = (
    lambda text: {"role": "system", "content": text},
    lambda text: {"role": "user", "content": text},
    lambda text: {"role": "assistant", "content": text},
)
TALK = [USER("Why?"), ASSISTANT("Because: 1."), USER("¿Y ahora?")]
BETTER = Comparison(prompt="Why?", options=("Because.", "No."), ranking=(1, 2))


def conversation(*messages: dict[str, str]) -> tuple[Message, ...]:
    return tuple(Message.model_validate(message) for message in messages)


def comparisons(folder: Path, *rows: Any) -> list[Comparison]:
    write_jsonl(folder / "rows.jsonl", rows)
    return read(folder / "rows.jsonl", Comparison)


def fault(folder: Path, row: Any) -> str:
    """What is said of a row that cannot be read."""
    with pytest.raises(DataError) as error:
        comparisons(folder, row)
    first, *faults = str(error.value).split("\n")
    assert first == f"{folder / 'rows.jsonl'}:1: 1 bad row(s)"
    assert "  expected: a comparison a line: prompt, chosen and rejected, or prompt, options and ranking," in faults[-2]
    return "; ".join(line.removeprefix("  line 1: ") for line in faults[:-2])


# ── one comparison in many forms ─────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "options": ["Because.", "No."], "ranking": [1, 2]},
        {"prompt": "Why?", "options": ["Because.", "No."], "choice": 0},
        {"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
        {"prompt": "Why?", "chosen": [ASSISTANT("Because.")], "rejected": ASSISTANT("No.")},
        {"chosen": [USER("Why?"), ASSISTANT("Because.")], "rejected": [USER("Why?"), ASSISTANT("No.")]},
        {"prompt": "Why?", "chosen": [USER("Why?"), ASSISTANT("Because.")], "rejected": [ASSISTANT("No.")]},
        {"chosen": "\n\nHuman: Why?\n\nAssistant: Because.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
        {"instruction": "Why?", "input": "", "output": ["Because.", "No."], "history": []},
        {"instruction": "Why?", "chosen": "Because.", "rejected": "No."},
        {
            "conversations": [{"from": "human", "value": "Why?"}],
            "chosen": {"from": "gpt", "value": "Because."},
            "rejected": {"from": "gpt", "value": "No."},
        },
        {"messages": [USER("Why?")], "chosen": ASSISTANT("Because."), "rejected": ASSISTANT("No.")},
        {"prompt": "Why?", "response_0": "Because.", "response_1": "No.", "better_response_id": 0},
        {
            "fields": {"prompt": "Why?", "a": "Because.", "b": "No."},
            "responses": {"ranking": [{"value": [{"value": "b", "rank": 2}, {"value": "a", "rank": 1}]}]},
        },
    ],
)
def test_every_tool_s_columns_give_the_same_comparison(tmp_path: Path, row: dict[str, Any]) -> None:
    assert comparisons(tmp_path, row) == [BETTER]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": TALK, "options": ["いいえ", "Ja 🙂"], "ranking": [2, 1]},
        {"prompt": TALK, "chosen": "Ja 🙂", "rejected": "いいえ"},
        {"prompt": TALK, "chosen": [*TALK, ASSISTANT("Ja 🙂")], "rejected": [*TALK, ASSISTANT("いいえ")]},
        {"chosen": [*TALK, ASSISTANT("Ja 🙂")], "rejected": [*TALK, ASSISTANT("いいえ")]},
        {
            f: f"\n\nHuman: Why?\n\nAssistant: Because: 1.\n\nHuman: ¿Y ahora?\n\nAssistant: {answer}"
            for f, answer in (("chosen", "Ja 🙂"), ("rejected", "いいえ"))
        },
        {"instruction": "¿Y", "input": "ahora?", "output": ["Ja 🙂", "いいえ"], "history": [["Why?", "Because: 1."]]},
        {
            "conversations": [
                {"from": "human", "value": "Why?"},
                {"from": "gpt", "value": "Because: 1."},
                {"from": "human", "value": "¿Y ahora?"},
            ],
            "chosen": {"from": "gpt", "value": "Ja 🙂"},
            "rejected": {"from": "gpt", "value": "いいえ"},
        },
    ],
)
def test_conversations_and_any_script(tmp_path: Path, row: dict[str, Any]) -> None:
    (found,) = comparisons(tmp_path, row)
    asked = "¿Y\n\nahora?" if "instruction" in row else "¿Y ahora?"
    assert found.prompt == conversation(*TALK[:2], USER(asked))
    assert [(pair.better, pair.worse) for pair in found.pairs()] == [("Ja 🙂", "いいえ")]


def test_a_system_text_leads_the_conversation(tmp_path: Path) -> None:
    answers = {"chosen": "Because.", "rejected": "No."}
    shared = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Why?"}]
    found = comparisons(
        tmp_path,
        {"instruction": "Why?", "system": "Be brief.", **answers},
        {"conversations": shared[1:], "system": "Be brief.", **answers},
        {"conversations": shared, **answers},
    )
    assert [row.prompt for row in found] == [conversation(SYSTEM("Be brief."), USER("Why?"))] * 3


def test_our_fields_stand_beside_other_tools_columns(tmp_path: Path) -> None:
    extra = {"margin": 0.5, "rater": "ana", "group": "g", "weight": 2, "failure": "vague", "principles": ["be-plain"]}
    (found,) = comparisons(tmp_path, {"prompt": "Why?", "chosen": "Because.", "rejected": "No.", **extra})
    assert found == Comparison.model_validate({**BETTER.model_dump(), **extra})


def test_a_choice_puts_one_option_before_all_others(tmp_path: Path) -> None:
    (found,) = comparisons(tmp_path, {"prompt": "Why?", "options": ["a", "b", "c"], "choice": 1})
    assert found.ranking == (2, 1, 2)
    assert [(pair.better, pair.worse) for pair in found.pairs()] == [("b", "a"), ("b", "c")]


def test_answers_from_best_to_worst(tmp_path: Path) -> None:
    (found,) = comparisons(tmp_path, {"instruction": "Why?", "output": ["a", "b", "c"]})
    assert (found.options, found.ranking) == (("a", "b", "c"), (1, 2, 3))


def test_history_is_read_for_demonstrations_too(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "d.jsonl", [{"instruction": "And?", "output": "Yes.", "history": [["Why?", "So."]]}])
    before = conversation(USER("Why?"), ASSISTANT("So."), USER("And?"))
    assert read(tmp_path / "d.jsonl", Demonstration) == [Demonstration(prompt=before, completion="Yes.")]


# ── HH-RLHF ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def hh(folder: Path, before: str, chosen: str, rejected: str) -> Comparison:
    (found,) = comparisons(folder, {"chosen": before + chosen, "rejected": before + rejected})
    return found


def test_marks_and_colons_within_a_turn_are_text(tmp_path: Path) -> None:
    prompt = 'Say "Human: hi": now\nAssistant: or\n\nassistant: this\n\nHuman: that\n\nHumans: all'
    answers = ("Note: a\n\nAssistant: b: c ", "\nHuman: no\n\n")
    found = hh(tmp_path, f"\n\nHuman: {prompt}\n\nAssistant: ", *answers)
    assert found == Comparison(prompt=prompt, options=answers, ranking=(1, 2))


def test_turns_without_text_or_without_the_first_blank_lines(tmp_path: Path) -> None:
    assert transcript("Human:\n\nAssistant: b\n\nHuman:") == [USER(""), ASSISTANT("b"), USER("")]
    assert hh(tmp_path, "Human: a\n\nAssistant: ", "b", "c").prompt == "a"


@pytest.mark.parametrize(
    ("chosen", "rejected", "found"),
    [
        ("\n\nHuman: a\n\nAssistant: ", "\n\nHuman: a\n\nAssistant: b", "'chosen' is empty"),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant:", "'rejected' is empty"),
        (
            "\n\nHuman: a\n\nAssistant: b",
            "\n\nHuman: x\n\nAssistant: c",
            "'chosen' and 'rejected' differ already before",
        ),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a", "'chosen' and 'rejected' differ already before"),
        ("\n\nHuman: a", "\n\nHuman: b", "no 'prompt', neither by itself nor at the beginning of"),
        ("a", "b", "no 'prompt', neither by itself nor at the beginning of 'chosen' and 'rejected'"),
        ("\n\nHuman: a\n\nAssistant: b", "c", "no 'prompt', neither by itself"),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: b", "'options': two of the answers are the same"),
        (
            "\n\nHuman: a\n\nAssistant: b\n\nHuman: c",
            "\n\nHuman: a\n\nAssistant: b\n\nHuman: d",
            "'chosen' must be text or one assistant message",
        ),
    ],
)
def test_transcripts_that_are_no_comparison(tmp_path: Path, chosen: str, rejected: str, found: str) -> None:
    assert fault(tmp_path, {"chosen": chosen, "rejected": rejected}).startswith(found)


# ── PKU-SafeRLHF ─────────────────────────────────────────────────────────────────────────────────────────────────────
PKU = {
    "prompt": "Why?",
    "response_0": "a",
    "response_1": "b",
    "prompt_source": "a list",
    "response_0_source": "model-x",
    "response_1_severity_level": 2,
    "response_0_harm_category": {"x": False},
    "response_1_sha256": "0",
    "is_response_0_safe": True,
    "is_response_1_safe": False,
    "better_response_id": 1,
    "safer_response_id": 0,
}


def test_what_is_better_and_what_is_safer_are_two_rankings(tmp_path: Path) -> None:
    (found,) = comparisons(tmp_path, PKU)
    assert found == Comparison(
        prompt="Why?",
        options=("a", "b"),
        ranking=(2, 1),
        per_principle={"safety": (1, 2)},
        tags=("safe:0", "unsafe:1"),
        source="a list",
    )
    only_safety = {name: value for name, value in PKU.items() if name != "better_response_id"}
    (found,) = comparisons(tmp_path, {**only_safety, "tags": ["mine"]})
    assert (found.ranking, found.pairs(), found.tags) == (None, [], ("mine", "safe:0", "unsafe:1"))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"better_response_id": 2}, "'better_response_id' must be the index of an option, 0 to 1, found '2'"),
        ({"safer_response_id": -1}, "'safer_response_id' must be the index of an option, 0 to 1, found '-1'"),
        ({"better_response_id": True}, "'better_response_id' must be the index of an option, 0 to 1, found 'True'"),
        ({"is_response_1_safe": "no"}, "'is_response_1_safe' must be true or false, found 'no'"),
        ({"response_1": " "}, "'options.1' is empty"),
        ({"response_1": "a"}, "'options': two of the answers are the same text"),
    ],
)
def test_pku_rows_that_contradict_themselves(tmp_path: Path, change: dict[str, Any], found: str) -> None:
    assert fault(tmp_path, PKU | change).startswith(found)
    assert fault(tmp_path, {"prompt": "Why?", "response_0": "a"}) == "no 'response_1'"


# ── one labelled answer ──────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "completion": "a", "label": False},
        {"prompt": "Why?", "completion": "a", "label": 0},
        {"prompt": "Why?", "completion": "a", "label": "False"},
        {"prompt": [USER("Why?")], "completion": [ASSISTANT("a")], "label": False},
        {"messages": [USER("Why?"), ASSISTANT("a")], "label": False},
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "a"}], "kto_tag": False},
        {"instruction": "Why?", "output": "a", "kto_tag": "false"},
        {"prompt": "Why?", "options": ["a"], "desirable": False},
    ],
)
def test_one_labelled_answer_is_a_comparison_and_no_demonstration(tmp_path: Path, row: dict[str, Any]) -> None:
    (found,) = comparisons(tmp_path, row)
    assert (plain_text(found.prompt).removeprefix("User: "), found.options) == ("Why?", ("a",))
    assert (found.desirable, found.pairs()) == (False, [])
    if "options" not in row:
        _, faults, _ = sort_out(tmp_path / "rows.jsonl", Demonstration)
        assert "good or bad" in faults[1][0]


# ── bad rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────
RANKED = {"prompt": "Why?", "options": ["a", "b", "c"], "ranking": [1, 2, 2]}
PAIR = {"prompt": "Why?", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"prompt": "Why?"}, "no 'options'"),
        ({"prompt": "Why?", "options": ["a", "b"]}, "the row has no preference: no 'ranking', 'soft_label'"),
        ({**RANKED, "options": ["a"]}, "a comparison has 2 to 9 answers, not 1, unless 'desirable' says"),
        ({**RANKED, "options": list("abcdefghij")}, "'options': a comparison has 2 to 9 answers, not 10"),
        ({**RANKED, "options": ["a", "b", "a"]}, "'options': two of the answers are the same text"),
        ({**RANKED, "options": ["a", "b", " "]}, "'options.2' is empty"),
        ({**RANKED, "options": "abc"}, "'options' must be a list, found 'abc'"),
        ({**RANKED, "ranking": [1, 2]}, "'ranking' has 2 ranks for 3 options"),
        ({**RANKED, "ranking": [2, 2, 3]}, "'ranking': the best rank is 1, and no answer has it, found '[2, 2, 3]'"),
        ({**RANKED, "ranking": [0, 1, 2]}, "'ranking.0': input should be greater than or equal to 1, found '0'"),
        ({**RANKED, "ranking": [1, True, 2]}, "'ranking.1': input should be a valid integer, found 'True'"),
        ({**RANKED, "ranking": "best"}, "'ranking' must be a list, found 'best'"),
        ({**RANKED, "choice": 0}, "'choice' and 'ranking' both say which option is best; keep one"),
        (
            {"prompt": "a", "options": ["a", "b"], "choice": 2},
            "'choice' must be the index of an option, 0 to 1, found '2'",
        ),
        (
            {"prompt": "a", "options": ["a", "b"], "choice": "a"},
            "'choice' must be the index of an option, 0 to 1, found",
        ),
        ({**RANKED, "order_shown": [1, 2, 3]}, "'order_shown' must hold each index from 0 to 2 once, found [1, 2, 3]"),
        ({**RANKED, "soft_label": 0.7}, "'soft_label' and 'margin' are about two options, found 3"),
        ({**RANKED, "margin": 1}, "'soft_label' and 'margin' are about two options, found 3"),
        ({**PAIR, "soft_label": 0.4}, "'soft_label' 0.4 contradicts 'ranking' [1, 2]: above 0.5 the first option is"),
        ({**PAIR, "soft_label": 1.5}, "'soft_label': input should be less than or equal to 1, found '1.5'"),
        ({**RANKED, "weight": 0}, "'weight': input should be greater than 0, found '0'"),
        ({**RANKED, "seconds": -1}, "'seconds': input should be greater than or equal to 0, found '-1'"),
        ({**RANKED, "per_principle": {"kind": [1, 2]}}, "'per_principle' 'kind' has 2 ranks for 3 options"),
        (
            {"prompt": "a", "options": ["a", "b"], "both_bad": True, "gold": True},
            "'gold' says that the ranking is right",
        ),
        (
            {"prompt": "Why?", "options": ["a", "b"], "rankings": [1, 2]},
            "unknown field 'rankings', did you mean ranking",
        ),
        ({"prompt": "Why?", "chosen": "a"}, "no 'rejected'"),
        ({"prompt": "Why?", "rejected": "a"}, "no 'chosen'"),
        ({**PAIR, "ranking": [1, 2]}, "'chosen' and 'rejected' rank their answers, and so does 'ranking'; keep one"),
        ({**PAIR, "choice": 1}, "'chosen' and 'rejected' rank their answers, and so does 'choice'; keep one"),
        ({**PAIR, "rejected": ""}, "'rejected' is empty"),
        ({**PAIR, "chosen": 5}, "'chosen' must be text or one assistant message, found '5'"),
        ({**PAIR, "chosen": [USER("a")]}, "'chosen' must be text or one assistant message"),
        ({**PAIR, "chosen": [USER("Who?"), ASSISTANT("a")]}, "'chosen' must be text or one assistant message"),
        ({**PAIR, "chosen": {"from": "bot", "value": "a"}}, "a turn from 'bot', known: "),
        ({"chosen": [ASSISTANT("a")], "rejected": [ASSISTANT("b")]}, "no 'prompt', neither by itself nor at"),
        ({"chosen": [], "rejected": []}, "no 'prompt', neither by itself nor at"),
        (
            {"chosen": [USER("a"), ASSISTANT("a")], "rejected": [USER("b"), ASSISTANT("b")]},
            "'chosen' and 'rejected' differ already before their last answers",
        ),
        ({"prompt": "Why?", "completion": "a"}, "one answer: a comparison needs two, or one with a 'label' that is"),
        ({"prompt": "Why?", "completion": "a", "label": "good"}, "one answer: a comparison needs two, or one with a"),
        ({"prompt": "Why?", "completion": " ", "label": True}, "'completion' is empty"),
        ({"messages": [USER("a"), USER("b")], "label": True}, "'messages' must end with an assistant message"),
        ({**RANKED, "desirable": True}, "'desirable' is about one answer alone, found 3"),
        (
            {**RANKED, "options": ["a"], "ranking": [1], "desirable": True},
            "one answer alone is 'desirable' or not, and",
        ),
        ({"instruction": "Why?", "output": "a"}, "'output' must be a list of answers, the best first"),
        ({"instruction": "Why?", "output": ["a"]}, "a comparison has 2 to 9 answers, not 1, unless"),
        ({"instruction": "Why?", "history": [["a"]], "output": ["a", "b"]}, "'history' must be a list of [request, "),
        ({"instruction": "Why?", "system": 3, "output": ["a", "b"]}, "'system' must be text"),
    ],
)
def test_each_fault_is_named(tmp_path: Path, row: dict[str, Any], found: str) -> None:
    assert fault(tmp_path, row).startswith(found)


def test_rows_are_read_or_named_and_none_is_lost(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [PAIR, {"prompt": "Why?"}, RANKED, {**PAIR, "margin": -1, "topic": "A B"}])
    rows, faults, _ = sort_out(tmp_path / "rows.jsonl", Comparison)
    assert [row.options for row in rows] == [("a", "b"), ("a", "b", "c")]
    assert {line: len(reasons) for line, reasons in faults.items()} == {2: 1, 4: 2}


def test_a_fault_in_a_long_text_is_named_without_the_text(tmp_path: Path) -> None:
    assert fault(tmp_path, {**PAIR, "chosen": "b" * 99, "rejected": "b" * 99}) == (
        "'options': two of the answers are the same text"
    )


# ── public rows ──────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.skipif(not PUBLIC.is_dir(), reason="needs shared/data/preferences")
@pytest.mark.parametrize(
    ("name", "read_rows", "pairs", "faults"),
    [
        ("hh_harmless_base", 1430, 1430, {"'chosen' is empty": 2}),
        ("dpo_en_demo", 300, 300, {}),
        (
            "oasst_zh_ranked",
            768,
            1745,
            {
                "'options': two of the answers are the same text": 6,
                "'options': a comparison has 2 to 9 answers, not 10": 1,
            },
        ),
        ("oasst_en_ranked_pairs", 434, 434, {}),
        ("kto_en_demo", 300, 0, {}),
        ("kto_mix_test", 1092, 0, {}),
    ],
)
def test_public_rows_are_read_or_refused_for_what_they_are(
    name: str, read_rows: int, pairs: int, faults: dict[str, int]
) -> None:
    rows, found, _ = sort_out(PUBLIC / f"{name}.jsonl.gz", Comparison)
    assert (len(rows), sum(len(row.pairs()) for row in rows)) == (read_rows, pairs)
    reasons = Counter("; ".join(reasons) for reasons in found.values())
    counted = {start: sum(n for reason, n in reasons.items() if reason.startswith(start)) for start in faults}
    assert counted == faults
    assert sum(reasons.values()) == sum(faults.values())


# ── shapes of public sets ────────────────────────────────────────────────────────────────────────────────────────────
def test_shapes_that_practitioners_bring(tmp_path: Path) -> None:
    first = [USER("Which?"), ASSISTANT("The Nile."), USER("And then?")]
    rows = [
        {"prompt": "And then?", "chosen": [*first, ASSISTANT("a")], "rejected": [*first, ASSISTANT("b")], "score": 1},
        {"system": "Be brief.", "question": "Why?", "chosen": "a", "rejected": "b"},  # Orca's pairs
        {"prompt": "Why?", "chosen": "a", "rejected": "b", "margin": None, "topic": None},
    ]
    write_jsonl(tmp_path / "comparisons.jsonl", rows)
    found = read(tmp_path / "comparisons.jsonl", Comparison)
    assert [len(row.prompt) if isinstance(row.prompt, tuple) else row.prompt for row in found] == [3, 2, "Why?"]
    rows = [
        {"instruction": "Name a colour.", "input": None, "output": "Blue."},
        {"prompt": "Hi", "prompt_id": "x", "messages": [USER("Hi"), ASSISTANT("Blue.")]},  # UltraChat
    ]
    write_jsonl(tmp_path / "demonstrations.jsonl", rows)
    assert [row.completion for row in read(tmp_path / "demonstrations.jsonl", Demonstration)] == ["Blue."] * 2


def test_answers_that_differ_in_spaces_alone_are_one(tmp_path: Path) -> None:
    found = fault(tmp_path, {"prompt": "Why?", "chosen": "a", "rejected": " a "})
    assert found.startswith("'options': two of the answers are the same text")


def test_a_message_tree_is_a_comparison_for_each_question_with_ranked_replies(tmp_path: Path) -> None:
    """OpenAssistant's: by rank, along the path; what is deleted or has no rank is left out."""

    def message(role: str, text: str, *replies: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"role": role, "text": text, "lang": "de", "replies": list(replies), **more}

    later = message("prompter", "Und?", message("assistant", "B", rank=1), message("assistant", "A", rank=0))
    gone = message("assistant", "gone", rank=2, deleted=True)
    tree = message(
        "prompter", "Why?", message("assistant", "worse", rank=1), message("assistant", "better", later, rank=0), gone
    )
    write_jsonl(tmp_path / "trees.jsonl", [{"message_tree_id": "x", "tree_state": "ready", "prompt": tree}])
    first, second = read(tmp_path / "trees.jsonl", Comparison)
    assert (first.prompt, first.options, first.ranking) == ("Why?", ("better", "worse"), (1, 2))
    assert first.tags == ("lang:de",)
    assert second.prompt == conversation(USER("Why?"), ASSISTANT("better"), USER("Und?"))
    assert second.options == ("A", "B")
    write_jsonl(tmp_path / "none.jsonl", [{"prompt": message("prompter", "Why?")}])
    assert sort_out(tmp_path / "none.jsonl", Comparison).faults == {
        1: ["a tree in which no question has two ranked replies"]
    }


def test_a_history_before_two_answers_is_their_prompt(tmp_path: Path) -> None:
    row = {"history": [{"role": "prompter", "text": "Why?"}], "chosen": "Because.", "rejected": "No."}
    write_jsonl(tmp_path / "rows.jsonl", [row])
    assert read(tmp_path / "rows.jsonl", Comparison) == [BETTER]


def test_every_instance_of_a_task_is_a_demonstration(tmp_path: Path) -> None:
    instances = [{"input": "3", "output": "9"}, {"input": "", "output": "?"}]
    write_jsonl(tmp_path / "rows.jsonl", [{"instruction": "Square it.", "instances": instances}])
    found = read(tmp_path / "rows.jsonl", Demonstration)
    assert [(row.prompt, row.completion) for row in found] == [("Square it.\n\n3", "9"), ("Square it.", "?")]
