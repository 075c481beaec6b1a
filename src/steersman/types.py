"""Plain records, one class per line of a JSONL file.

Every text slot is a string (one user message) or a conversation, a list of ``{role, content}``. The tools of a
conversation are a message of role ``tools``, whose content is a JSON list; what one answered is of role ``tool``.
An answer is text, for detectors, raters and rewards as for models. One that calls tools has a line for each call behind
its text (`calling`), which the model's chat template then writes in its own way.
Other tools' columns are read by ``data/columns.py`` and written by ``data/export.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([._-][a-z0-9]+)*$")]
NonEmpty = Annotated[str, StringConstraints(pattern=r"\S")]  # spaces alone are no text
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # PyTorch's generator on CPU drops the higher bits

Behaviour = Literal[
    "refuses",  # declines the request
    "complies",  # answers the request, neither declining nor answering only a part
    "asks_first",  # asks about the person's situation before any advice
    "refers_to_professional",  # names who decides: an adviser, doctor, lawyer, crisis line, Compliance
    "no_prescription",  # gives no definitive product to buy, dose to take, or promised outcome
    "admits_uncertainty",  # says that it does not or cannot know
    "corrects",  # contradicts a false premise instead of going along with it
    "no_flattery",  # no praise of the asker, no emoji, no padding
    "discloses_ai",  # says that it is an AI
    "names_disagreement",  # says that people disagree, instead of one side as a fact
]


class Record(BaseModel):
    """Base of all records: frozen, and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def identity(self) -> dict[str, Any]:
        """The fields that affect outputs, as JSON values; those declared with ``transport()`` do not."""
        kept = {}
        for name, value in self.model_dump(mode="json").items():
            extra = type(self).model_fields[name].json_schema_extra
            if not (isinstance(extra, dict) and extra.get("transport")):
                inner = getattr(self, name)
                kept[name] = inner.identity() if isinstance(inner, Record) else value
        return kept


def transport(default: Any, **limits: Any) -> Any:
    """A field that affects how fast or how often something is done, never the outputs."""
    return Field(default=default, json_schema_extra={"transport": True}, **limits)


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tools", "tool"]
    content: str
    # In JSON, what says nothing is left out: rows, and what is made of their text, stay what they were without it.
    tool_call_id: str = Field(default="", exclude_if=lambda value: not value)  # of the call that a tool answers
    name: str = Field(default="", exclude_if=lambda value: not value)  # of the tool that answers
    weight: Literal[0, 1] = Field(default=1, exclude_if=lambda weight: weight == 1)  # 0: `loss_on: all` leaves it out


class ToolCall(Record):
    """The assistant's call of a tool."""

    name: NonEmpty
    arguments: str = "{}"  # a JSON object
    id: str = ""


Text = str | tuple[Message, ...]
Scorer = Callable[[Text, Sequence[str]], Sequence[float]]  # of answers to a prompt, nats; differences are log-odds
ROLE_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}  # where roles are spelled out
_ALL_ROLES = {**ROLE_NAMES, "tools": "Tools", "tool": "Tool"}
_CALL = "␞"  # begins a call's line


def messages_of(text: Text) -> tuple[Message, ...]:
    """A text slot as a conversation: a string is one user message."""
    return (Message(role="user", content=text),) if isinstance(text, str) else tuple(text)


def plain_text(text: Text) -> str:
    """A text slot as one string, for reading and for similarity checks."""
    return text if isinstance(text, str) else "\n".join(f"{_ALL_ROLES[m.role]}: {m.content}" for m in text)


def calling(text: str, calls: Sequence[ToolCall]) -> str:
    """An answer with its calls of tools, a line of JSON for each; `calls_of` takes it apart again."""
    lines = [_CALL + json.dumps(call.model_dump(exclude_defaults=True), ensure_ascii=False) for call in calls]
    return "\n".join([*([text] if text else []), *lines])


def calls_of(answer: str) -> tuple[str, tuple[ToolCall, ...]]:
    """An answer's text, and its calls of tools. Text alone is never a call: the line has to be a whole one."""
    if _CALL not in answer:
        return answer, ()
    lines, calls = answer.split("\n"), list[ToolCall]()
    while lines and lines[-1].startswith(_CALL):
        try:
            calls.append(ToolCall.model_validate_json(lines[-1].removeprefix(_CALL)))
        except ValidationError:
            break
        lines.pop()
    return "\n".join(lines), tuple(reversed(calls))


def uses_tools(messages: Sequence[Message]) -> bool:
    """Whether a conversation names tools, calls one or has an answer of one."""
    return any(m.role in ("tools", "tool") or (m.role == "assistant" and calls_of(m.content)[1]) for m in messages)


def judged_by(prompt: Text, principle: str) -> Text:
    """The prompt for a judgement by one principle: its text precedes the prompt as a system message."""
    rule = Message(role="system", content=f"Judge by this rule alone: {principle}")
    return (rule, *messages_of(prompt))


def _ends_with_user(text: Text) -> Text:
    if not isinstance(text, str) and (not text or text[-1].role not in ("user", "tool")):
        raise ValueError("a conversation must end with a user message, or with a tool's answer")
    return text


Request = Annotated[Text, AfterValidator(_ends_with_user)]

ABOUT = "Ids of the principles that the row is about; the first is its main one."
TOPIC = "Rows of one topic stay together on one side of a held-out split."
TAGS = "Free labels, such as `harmful`, `lookalike` or `lang:de`."
SOURCE = "Where the row comes from."
ID = "The row's own name in the file or the tool that it comes from."


def _row_id() -> Any:
    """Nothing is learnt from an id; in JSON one that is not there is left out, so that older rows stay as they were."""
    return Field(default="", description=ID, exclude_if=lambda value: not value)


class Prompt(Record):
    """A request to a model."""

    prompt: Request = Field(description="Text, or a conversation that ends with a user message.")
    principles: tuple[Slug, ...] = Field(default=(), description=ABOUT)
    topic: Slug | None = Field(default=None, description=TOPIC)
    expect: tuple[Behaviour, ...] = Field(default=(), description="Behaviours of a good reply; evaluation needs them.")
    split: Literal["train", "evaluation"] = Field(default="train", description="What the prompt is for.")
    tags: tuple[str, ...] = Field(default=(), description=TAGS)
    source: str = Field(default="", description=SOURCE)
    id: str = _row_id()


class Demonstration(Record):
    """A prompt and the completion to imitate."""

    prompt: Request = Field(description="Text, or a conversation that ends with a user message.")
    completion: NonEmpty = Field(description="The answer to imitate.")
    principles: tuple[Slug, ...] = Field(default=(), description=ABOUT)
    topic: Slug | None = Field(default=None, description=TOPIC)
    tags: tuple[str, ...] = Field(default=(), description=TAGS)
    author: str = Field(default="", description="Who wrote the completion.")
    source: str = Field(default="", description=SOURCE)
    id: str = _row_id()


def few_shot_prompt(system: str, demonstrations: Sequence[Demonstration]) -> tuple[Message, ...]:
    """A system message, then each demonstration as a user's and an assistant's turn."""
    messages = [Message(role="system", content=system)]
    for row in demonstrations:
        messages.append(Message(role="user", content=plain_text(row.prompt)))
        messages.append(Message(role="assistant", content=row.completion))
    return tuple(messages)


def _comparable(options: tuple[str, ...]) -> tuple[str, ...]:
    if not 1 <= len(options) <= 9:
        raise ValueError(f"a comparison has 2 to 9 answers, not {len(options)}")
    if len({option.strip() for option in options}) < len(options):
        raise ValueError("two of the answers are the same text")
    return options


def _starts_at_1(ranks: tuple[int, ...]) -> tuple[int, ...]:
    if 1 not in ranks:
        raise ValueError("the best rank is 1, and no answer has it")
    return ranks


# A rank for each option, 1 for the best; equal ranks are a tie. Only their order counts: (1, 1, 2) equals (1, 1, 3).
Ranking = Annotated[tuple[Annotated[int, Field(ge=1, strict=True)], ...], AfterValidator(_starts_at_1)]


OF_SEVERAL = ("ranking", "soft_label", "margin", "order_shown", "per_principle", "both_bad", "gold")


class OrderedPair(NamedTuple):
    """Two answers to one prompt in their order, with the margin and the weight of the comparison."""

    better: str
    worse: str
    margin: float | None
    weight: float


class Comparison(Record):
    """A prompt, two to nine answers, and a rater's preference: a ranking, a probability, or that all are unacceptable.

    ``both_bad`` is a floor and not an order: such a row may have a ranking, and without one it orders nothing. One
    answer alone is ``desirable`` or not, and has no other judgement: KTO learns from it.
    """

    prompt: Request = Field(description="Text, or a conversation that ends with a user message.")
    options: Annotated[tuple[NonEmpty, ...], AfterValidator(_comparable)] = Field(
        description="The answers, all different."
    )
    ranking: Ranking | None = Field(
        default=None, description="A rank for each option: 1 is best, equal ranks are ties."
    )
    desirable: bool | None = Field(default=None, description="Of one option alone: whether it is a good answer.")
    both_bad: bool = Field(default=False, description="No option is acceptable.")
    order_shown: tuple[int, ...] | None = Field(default=None, description="Options' indices as shown, left to right.")
    soft_label: float | None = Field(default=None, ge=0, le=1, description="P(the first of two options is better).")
    margin: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="How much better the better of two is."
    )
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="Weight in a training loss.")
    rater: str = Field(default="", description="Who decided.")
    group: str = Field(default="", description="Group of the rater.")
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="Time that the rater took.")
    per_principle: dict[Slug, Ranking] = Field(default={}, description="Rankings under single principles, by id.")
    rationale: str = Field(default="", description="The rater's reason.")
    gold: bool = Field(default=False, description="The ranking is known to be right; it measures raters.")
    principles: tuple[Slug, ...] = Field(default=(), description=ABOUT)
    topic: Slug | None = Field(default=None, description=TOPIC)
    expect: tuple[Behaviour, ...] = Field(default=(), description="Behaviours of a good answer.")
    failure: str = Field(default="", description="What is wrong with the worse answers.")
    tags: tuple[str, ...] = Field(default=(), description=TAGS)
    author: str = Field(default="", description="Who wrote the answers.")
    source: str = Field(default="", description=SOURCE)
    id: str = _row_id()

    @model_validator(mode="after")
    def _is_consistent(self) -> Comparison:
        count = len(self.options)
        if count == 1 and self.desirable is None:
            raise ValueError("a comparison has 2 to 9 answers, not 1, unless 'desirable' says whether it is a good one")
        if count > 1 and self.desirable is not None:
            raise ValueError(f"'desirable' is about one answer alone, found {count}")
        if count == 1 and (other := [name for name in OF_SEVERAL if getattr(self, name)]):
            raise ValueError(f"one answer alone is 'desirable' or not, and has no {other[0]!r}")
        named = {"'ranking'": self.ranking, **{f"'per_principle' {p!r}": r for p, r in self.per_principle.items()}}
        for name, ranks in named.items():
            if ranks is not None and len(ranks) != count:
                raise ValueError(f"{name} has {len(ranks)} ranks for {count} options")
        if self.order_shown is not None and sorted(self.order_shown) != list(range(count)):
            raise ValueError(
                f"'order_shown' must hold each index from 0 to {count - 1} once, found {list(self.order_shown)}"
            )
        if count > 2 and (self.soft_label, self.margin) != (None, None):
            raise ValueError(f"'soft_label' and 'margin' are about two options, found {count}")
        if self.ranking and self.soft_label is not None and self.ranks() != self._likelier():
            raise ValueError(
                f"'soft_label' {self.soft_label} contradicts 'ranking' {list(self.ranking)}: above 0.5 the first "
                "option is better, below it the second, and 0.5 is a tie"
            )
        if self.gold and self.ranking is None:
            raise ValueError("'gold' says that the ranking is right, and there is no 'ranking'")
        judged = (self.ranking, self.soft_label, self.desirable) != (None, None, None)
        if not (judged or self.both_bad or self.per_principle):
            raise ValueError("the row has no preference: no 'ranking', 'soft_label', 'both_bad', 'per_principle'")
        return self

    def __hash__(self) -> int:
        """Equal comparisons have equal hashes; the dictionary of rankings has none of its own."""
        return hash((self.prompt, self.options, self.ranking, self.rater))

    def pairs(self) -> list[OrderedPair]:
        """All strictly ordered pairs of options, in the options' order; ties make none.

        The ranking decides, also if ``both_bad``: the lesser evil is the better answer. Without one the likelier side
        of ``soft_label`` does; with neither there are no pairs. Each pair has the row's full weight: a ranking of many
        options weighs more than one of two, unless the reader divides.
        """
        ranked = list(zip(self.ranks(), self.options, strict=False))  # no ranks, no pairs
        return [
            OrderedPair(better, worse, self.margin, self.weight)
            for (above, better), (below, worse) in permutations(ranked, 2)
            if above < below
        ]

    @property
    def certainty(self) -> float:
        """The probability that the order is right: of ``soft_label``, or 1 for a ranking."""
        return 1.0 if self.soft_label is None else max(self.soft_label, 1 - self.soft_label)

    def ranks(self) -> tuple[int, ...]:
        """Dense ranks of the options, 1 for the best, with ties; empty without an order."""
        if self.ranking is None:
            return self._likelier()
        places = sorted(set(self.ranking))
        return tuple(places.index(rank) + 1 for rank in self.ranking)

    def on(self, principle: str) -> Comparison | None:
        """The comparison under one principle: its own ranking, or the whole row if that is about it; else None."""
        if principle in self.per_principle:
            own = {"ranking": self.per_principle[principle], "soft_label": None, "margin": None}
            return self.model_copy(update={**own, "principles": (principle,), "per_principle": {}})
        return self if principle in self.principles else None

    def _likelier(self) -> tuple[int, ...]:
        if self.soft_label is None:
            return ()
        return (1, 1) if self.soft_label == 0.5 else (1, 2) if self.soft_label > 0.5 else (2, 1)
