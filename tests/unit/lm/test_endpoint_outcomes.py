"""What a reply of an endpoint comes to: every outcome is stated and stored, and choices are read from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from endpoint import probability_of_a
from served_endpoint import Served
from steersman.errors import DataError, ModelError
from steersman.lm.endpoint.client import RemoteModel
from steersman.lm.endpoint.replies import Reply
from steersman.lm.endpoint.verdicts import choice_of
from steersman.types import Message


@pytest.mark.parametrize(
    ("prompt", "outcome", "text"),
    [
        ("plain", "answered", "Reply to plain"),
        ("[length] one", "cut_off", "one two"),
        ("[blocked] one", "filtered", "Reply to [blocked] one"),
        ("[filter] one", "filtered", ""),
        ("[refusal] one", "filtered", "I will not judge this."),
        ("[empty] one", "empty", ""),
        ("[half emoji]", "answered", "Well ?"),
        ("half \ud83d an emoji", "answered", "Reply to half ? an emoji"),
    ],
)
def test_every_outcome_is_stated_and_stored(
    serve: Callable[..., Served], tmp_path: Path, prompt: str, outcome: str, text: str
) -> None:
    served = serve()
    for _ in range(2):
        (reply,) = RemoteModel(served.config(), tmp_path / "answers.jsonl").complete([prompt])
        assert (reply.outcome, reply.text) == (outcome, text)
    assert served.stats()["requests"] == 1


def test_choices_without_logprobs_are_hard_and_say_so(serve: Callable[..., Served], tmp_path: Path) -> None:
    model = RemoteModel(serve().config(), tmp_path / "answers.jsonl")
    prompts = ["[plain] one", "[prose] one", "[bracket] one", "[filter] one", "[empty] one"]
    plain, prose, bracket, blocked, empty = model.choices(prompts)
    assert (plain.source, plain.mass) == ("text", None)
    assert plain.probabilities == ((1.0, 0.0) if probability_of_a(prompts[0]) > 0.5 else (0.0, 1.0))
    assert (prose.outcome, prose.probabilities) == ("no_option", None)
    assert bracket.source == "logprobs"  # the token after the bracket is the one that decides
    assert bracket.probabilities == pytest.approx((p := probability_of_a(prompts[2]), 1 - p))
    assert (blocked.outcome, empty.outcome) == ("filtered", "empty")


def test_an_endpoint_that_refuses_logprobs_is_read_from_the_text(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve()
    with pytest.raises(ModelError, match="no logprobs") as caught:
        RemoteModel(served.config(), tmp_path / "answers.jsonl").choices(["[400] which?"])
    assert "top_logprobs: 0" in str(caught.value)
    (choice,) = RemoteModel(served.config(top_logprobs=0), tmp_path / "answers.jsonl").choices(["[bracket] which?"])
    assert choice.source == "text"
    assert "logprobs" not in served.stats()["last_body"]


def reply_with(**logprobs: float) -> Reply:
    likely = {token.replace("_", " "): value for token, value in logprobs.items()}
    return Reply("", "answered", alternatives=((max(likely, key=lambda t: likely[t]), likely),))


@pytest.mark.parametrize(
    ("reply", "options", "probabilities", "mass"),
    [
        (reply_with(A=-0.5, B=-1.5), ("A", "B"), (0.7310586, 0.2689414), 0.8296608),
        (reply_with(A=-1.0, _A=-2.0, B=-1.5), ("A", "B"), (0.6928041, 0.3071959), 0.7263449),
        (reply_with(yes=-1.0, YES=-2.0, No=-1.5), ("Yes", "No"), (0.6928041, 0.3071959), 0.7263449),
        (
            reply_with(A=-0.5, a=-1.5),
            ("A", "B"),
            (0.7807365, 0.2192635),
            0.7768698,
        ),  # B gets what is left: "a" is an article
        (reply_with(A=-0.5, The=-2.5), ("A", "B"), (0.8807971, 0.1192029), 0.6886157),  # B gets as much as the last
        (reply_with(A=0.0, The=-9999.0), ("A", "B"), (1.0, 1e-9), 1.0),
        (reply_with(A=-9999.0, B=-0.001), ("B", "A"), (1.0, 1.0010005e-9), 0.9990005),
    ],
)
def test_spellings_add_up_and_no_probability_is_zero(
    reply: Reply, options: tuple[str, ...], probabilities: tuple[float, ...], mass: float
) -> None:
    choice = choice_of(reply, options)
    assert choice.probabilities == pytest.approx(probabilities, rel=1e-6)
    assert choice.probabilities is not None
    assert min(choice.probabilities) > 0
    assert choice.mass == pytest.approx(mass, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("A", 0), (" (B)", 1), ("**B**", 1), ("B.", 1), ("A: it is shorter", 0), ("B\nbecause", 1), ("A ", 0),
        ("A better answer is B", 1), ("Apple", None), ("I would say B", 1), ("", None), ("A-level", None),
    ],
)  # fmt: skip
def test_an_article_is_no_choice(text: str, named: int | None) -> None:
    choice = choice_of(Reply(text, "answered"), ("A", "B"))
    assert choice.probabilities == (None if named is None else (1.0 - named, float(named)))


def test_bad_options_and_bad_requests_are_errors(serve: Callable[..., Served], tmp_path: Path) -> None:
    model = RemoteModel(serve().config(), tmp_path / "answers.jsonl")
    for options in (("A",), ("A", "A"), ("yes", "Yes"), ("the first", "B")):
        with pytest.raises(DataError, match="cannot choose"):
            model.choices(["which?"], options)
    with pytest.raises(DataError, match="assistant message"):
        model.complete([(Message(role="assistant", content="Hi"),)])
    assert model.complete([]) == []
