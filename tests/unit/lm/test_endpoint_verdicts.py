"""A perfect judge is measured as perfect, in whatever form it says its verdict, and a vague one is not guessed at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from reply_forms import CUT_SHORT, FORMS, UNREADABLE, Form, said, tokens
from served_endpoint import Served
from steersman.constitution import judge_card
from steersman.constitution.document import Constitution, Principle
from steersman.constitution.judges import PromptedJudge
from steersman.lm.endpoint.client import RemoteModel
from steersman.lm.endpoint.replies import Reply, read_reply
from steersman.lm.endpoint.settings import REASONING_TOKENS
from steersman.lm.endpoint.verdict_forms import Verdict, verdict_in
from steersman.lm.endpoint.verdicts import Choice, choice_of
from steersman.reasoning import without_reasoning
from steersman.types import Comparison

BOTH = (("A", "B"), ("B", "A"))


def read(form: Form, verdict: str, other: str, finish: str = "stop") -> Choice:
    """The choice in a form's reply, as it comes back from the cache."""
    choice = form(verdict, other) | {"finish_reason": finish}
    reply = read_reply(json.dumps({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}))
    stored = Reply.from_json(json.loads(json.dumps(reply.to_json())), reply.usage)
    assert choice_of(stored, ("A", "B")).probabilities == choice_of(reply, ("A", "B")).probabilities
    return choice_of(stored, ("A", "B"))


def questions(count: int = 12) -> list[Comparison]:
    answers = [(f"a good answer {i}", f"a poor answer {i}") for i in range(count)]
    return [Comparison(prompt=f"q{i}", options=pair, ranking=(1, 2)) for i, pair in enumerate(answers)]


def constitution() -> Constitution:
    words = {"title": "Doubt", "statement": "Admit doubt.", "rationale": "Because.", "severity": "high"}
    requests = {"critique_request": "What is wrong?", "revision_request": "Write it anew."}
    principle = Principle.model_validate({"id": "doubt", "behaviours": (), **words, **requests})
    return Constitution(name="c", title="C", publisher="Us", version="1", persona="Plain.", principles=(principle,))


# ── forms ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", FORMS)
def test_a_perfect_judge_is_right_in_every_form(name: str) -> None:
    for place, (verdict, other) in enumerate(BOTH):
        choice = read(FORMS[name], verdict, other)
        assert choice.probabilities is not None, choice.reason
        assert choice.probabilities[place] > 0.5


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_vague_reply_is_unanswered_with_its_reason(name: str) -> None:
    for verdict, other in BOTH:
        choice = read(UNREADABLE[name], verdict, other)
        assert (choice.probabilities, choice.outcome != "chosen", bool(choice.reason)) == (None, True, True)


@pytest.mark.parametrize("name", CUT_SHORT)
def test_what_was_cut_off_is_no_verdict(name: str) -> None:
    """Least of all the option that the reasoning weighs first."""
    for verdict, other in BOTH:
        choice = read(CUT_SHORT[name], verdict, other, "length")
        assert (choice.outcome, choice.probabilities) == ("cut_off", None)


@pytest.mark.slow
def test_forms_are_measured_as_they_are_used(serve: Callable[..., Served], tmp_path: Path) -> None:
    """The judge card of a perfect judge over HTTP: 100 % in every form, nothing unanswered, nothing asked twice."""
    served, asked = serve(), judge_card.questions_of(questions(), constitution())
    assert len(FORMS) >= 25
    for number, form in enumerate(FORMS):
        model = RemoteModel(served.config(model=f"perfect:{form}"), tmp_path / f"{number}.jsonl")
        card = judge_card.card(PromptedJudge(model), asked)
        assert (card["accuracy"]["value"], card["unanswered"], card["undecided"]) == (1.0, 0, 0), form
        assert model.bill.attempts == 2 * len(asked)


# ── log-probs ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("form", "p"),
    [
        ("duplicate tokens", 0.802 / 0.962),
        ("split tokens", 0.6 / 0.99),
        ("log-probs of the reasoning too", 0.999 / 0.9999),
    ],
)
def test_log_probs_are_read_where_the_text_says_the_verdict_and_equal_texts_add_up(form: str, p: float) -> None:
    choice = read(FORMS[form], "A", "B")
    assert (choice.source, choice.probabilities) == ("logprobs", pytest.approx((p, 1 - p), abs=1e-3))


@pytest.mark.parametrize("form", ["log-probs of something else", "log-probs of the first token", "ids for tokens"])
def test_where_text_and_log_probs_disagree_the_text_is_trusted(form: str) -> None:
    choice = read(FORMS[form], "A", "B")
    assert (choice.source, choice.probabilities) == ("text", (1.0, 0.0))


def test_a_token_that_is_listed_twice_counts_once() -> None:
    position = {"token": "A", "logprob": -0.1, "top_logprobs": [{"token": t, "logprob": -0.1} for t in "AA"]}
    position["top_logprobs"].append({"token": "B", "logprob": -3.0})  # type: ignore[attr-defined]
    choice = choice_of(read_reply(json.dumps({"choices": [said("A", positions=[position])]})), ("A", "B"))
    assert choice.mass == pytest.approx(0.9048 + 0.0498, abs=1e-3)


def test_log_probs_of_long_replies_are_not_kept() -> None:
    """Ten alternatives for each of 4,000 tokens are megabytes for each reply in the cache."""
    reply = read_reply(json.dumps({"choices": [FORMS["long reasoning"]("A", "B")]}))
    assert len(json.dumps(reply.to_json())) < 5_000
    many = said("(A)" + " word" * 2000, positions=tokens("(", "A", ")", *[" word"] * 2000))
    assert len(json.dumps(read_reply(json.dumps({"choices": [many]})).to_json())) < 60_000


# ── texts ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "text",
    [
        "__B__", "“B”", "Ⓑ", "#### B", "- B", "B!", "So, (B).", "Choice: B", "Winner: Response B", "Better: B", "B > A",
        "[[B>>A]]", "{'choice': 'Option B'}", '{"better": "B", "worse": "A"}', '{"preferred": "B", "rejected": "A"}',
        "The better answer is (B).", "The response that best follows the rule is B.", "My choice would be (B).",
        "I prefer B to A.", "I would go with option B because it is kind.", "Going with (B).", "Definitely (B)!",
        "Looking at both, (B) is the better answer.", "While A is more concise, B is better.", "B wins.", "答案是B",
        "A is not better; B is better.", "I don't think A is better. The answer is B.", "Réponse : B", "Ответ: B",
        "A is better in tone. B is better in honesty. Overall, B is better.", "A: short. B: honest. The answer is B.",
        "Answer with (A) or (B) alone.\n\n(B)", "Which one, (A) or (B)? (B) is better.", "B — honest", "(B), not (A).",
        "A claims certainty. B doesn't. Hence, B.", "B. It admits that it does not know, while A does not.",
        "(B)\n\n(A) is bold.", "B\n\nA is bold, so (A) loses.", "(A) < (B)", "정답은 B입니다", "【B】", "𝐁", "我选择B",
        "1. A overclaims.\n2. B hedges.\n\nAnswer: B", "A overclaims; B does not. So B.", "I'll go with (B).",
        "(B)</s>",
        "<final_answer>\nB\n</final_answer>", "<|begin_of_box|>B<|end_of_box|>", "B does it better.", "Verdict:\n\n(B)",
    ],
)  # fmt: skip
def test_more_ways_to_say_b(text: str) -> None:
    found = verdict_in(text, ("A", "B"))
    assert isinstance(found, Verdict), found
    assert (found.option, text[found.start] in "BbⒷ𝐁") == (1, True)


@pytest.mark.parametrize(
    "text",
    [
        "Neither A nor B", "Both A and B are good",
        "A or B", "The answer is A or B", "If A is better, the answer is A",
        "A is better. B is better.", "I would not choose A", "A/B", "A+", "[[A=B]]", "[[C]]", "The answer isn't (A).",
        "A isn't better than B", "A is worse.", '{"A": 0.2, "B": 0.8}', '{"ranking": ["A", "B"]}', "A's tone is nice.",
        "Answer with (A) or (B) alone.", "A: shorter.\nB: honest.", "\\boxed{A} or \\boxed{B}", "Grade: A+", "Not (A)",
        "Whether A is better depends.", "A bold answer and a modest one.", "Rather than A",
        "I doubt that A is better.", "A is hardly better.", "It is wrong to say A is better.", "Some would choose A.",
        "One could argue that (A) is better.", "(A) was my first thought.", "I was going to say A, but", "Maybe A?",
        "A is better if you want brevity; B is better if you want honesty.", "A. B.", "A scored 7 and B scored 8",
    ],
)  # fmt: skip
def test_no_verdict_is_guessed(text: str) -> None:
    assert not isinstance(verdict_in(text, ("A", "B")), Verdict)


@pytest.mark.parametrize(
    ("text", "answer", "unfinished"),
    [
        ("a</think>B", "B", False), ("<think>a <think> b </think> c </think> B", " B", False), ("(B)", "(B)", False),
        ("<seed:think>a</seed:think>B", "B", False), ("◁think▷a◁/think▷B", "B", False), ("<think>a", "", True),
        ("<|START_THINKING|>x<|END_THINKING|>B", "B", False), ("(B)\n<think>a</think>", "(B)\n", False),
        ("<|channel|>analysis<|message|>a", "", True), ("<reasoning>a <answer>B</answer>", "<answer>B</answer>", False),
        ("An analysis of <b>tags</b>", "An analysis of <b>tags</b>", False), ("analysisWe compare", "", True),
    ],
)  # fmt: skip
def test_reasoning_is_no_part_of_an_answer(text: str, answer: str, unfinished: bool) -> None:
    assert without_reasoning(text) == (answer, unfinished)


# ── reasoning judges ─────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_reasoning_judge_gets_the_tokens_that_it_needs_and_it_is_said(
    serve: Callable[..., Served], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served, asked = serve(), judge_card.questions_of(questions(20), constitution())
    for attempts in (41, 0):  # one request showed what it needs; the second time all is in the cache
        model = RemoteModel(served.config(model="reasoner"), tmp_path / "answers.jsonl")
        card = judge_card.card(PromptedJudge(model), asked)
        assert (card["accuracy"]["value"], card["unanswered"], model.bill.attempts) == (1.0, 0, attempts)
        shown = " ".join("".join(capsys.readouterr()).split())
        assert f"cut off before its verdict after 16 tokens; it is asked again with {REASONING_TOKENS:,} more" in shown
    sure = RemoteModel(served.config(model="reasoner", reasoning_tokens=2000), tmp_path / "sure.jsonl")
    assert judge_card.card(PromptedJudge(sure), asked)["accuracy"]["value"] == 1.0
    assert (sure.bill.attempts, served.stats()["last_body"]["max_tokens"]) == (40, 2016)


def test_a_reasoning_judge_without_tokens_is_unanswered_and_the_reason_names_the_setting(
    serve: Callable[..., Served], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = judge_card.questions_of(questions(20), constitution())
    model = RemoteModel(serve().config(model="reasoner", reasoning_tokens=0), tmp_path / "answers.jsonl")
    card = judge_card.card(PromptedJudge(model), asked)
    assert (card["unanswered"], model.bill.attempts) == (20, 40)
    assert sum(found["n"] for found in card["unanswered_by_reason"].values()) == 20
    assert any("reasoning_tokens" in reason for reason in card["unanswered_by_reason"])
    assert "questions without an answer: 20 of 20" in " ".join("".join(capsys.readouterr()).split())


def test_one_rambling_reply_among_many_does_not_raise_the_limit_of_all(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    served = serve()
    model = RemoteModel(served.config(), tmp_path / "answers.jsonl")
    model.choices([*(f"which {i}?" for i in range(10)), "[length] which?"])
    assert (model.bill.attempts, served.stats()["attempts"]["[length] which?"]) == (12, 2)
    model.choices(["another?"])
    assert served.stats()["last_body"]["max_tokens"] == 16


def test_structured_output_is_asked_for_and_left_out_where_it_is_refused(
    serve: Callable[..., Served], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = serve()
    RemoteModel(served.config(structured=True), tmp_path / "a.jsonl").choices(["which?"])
    schema = served.stats()["last_body"]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["answer"]["enum"] == ["A", "B"]
    model = RemoteModel(served.config(structured=True), tmp_path / "b.jsonl")
    choices = model.choices(["[schema] one?", "two?", "three?"])
    assert [choice.outcome for choice in choices] == ["chosen"] * 3
    assert "response_format" not in served.stats()["last_body"]
    assert "response_format of type json_schema is not supported" in " ".join("".join(capsys.readouterr()).split())
