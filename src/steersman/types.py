"""Plain records, one class per line of a JSONL file. They import nothing of ours but the error tree.

Every text slot is a string (one user message) or a conversation, a list of ``{role, content}``.
Other tools' columns are read by ``data/columns.py`` and written by ``data/export.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

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
]


class Record(BaseModel):
    """Base of all records: frozen, and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def identity(self) -> dict[str, Any]:
        """The fields that affect outputs, as JSON values. Fields declared with ``transport()`` are left out."""
        kept = {}
        for name, value in self.model_dump(mode="json").items():
            extra = type(self).model_fields[name].json_schema_extra
            if not (isinstance(extra, dict) and extra.get("transport")):
                inner = getattr(self, name)
                kept[name] = inner.identity() if isinstance(inner, Record) else value
        return kept


def transport(default: Any, **limits: Any) -> Any:
    """A field that decides how often or how fast something is done, never what comes out."""
    return Field(default=default, json_schema_extra={"transport": True}, **limits)


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Text = str | tuple[Message, ...]
Scorer = Callable[[Text, Sequence[str]], Sequence[float]]  # of answers to a prompt, nats; differences are log-odds
ROLE_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


def messages_of(text: Text) -> tuple[Message, ...]:
    """A text slot as a conversation: a string is one user message."""
    return (Message(role="user", content=text),) if isinstance(text, str) else tuple(text)


def plain_text(text: Text) -> str:
    """A text slot for reading and for similarity checks."""
    return text if isinstance(text, str) else "\n".join(f"{ROLE_NAMES[m.role]}: {m.content}" for m in text)


def judged_by(prompt: Text, principle: str) -> Text:
    """The prompt as a judge reads it who is to judge by this principle alone: a system message holds its text."""
    told = Message(role="system", content=f"Judge by this rule alone: {principle}")
    return (told, *messages_of(prompt))


def _ends_with_user(text: Text) -> Text:
    if not isinstance(text, str) and (not text or text[-1].role != "user"):
        raise ValueError("a conversation must end with a user message")
    return text


Request = Annotated[Text, AfterValidator(_ends_with_user)]  # what a model is asked to answer


class Prompt(Record):
    """A request put to a model. ``expect`` lists the behaviours a good reply shows; evaluation prompts need it."""

    prompt: Request
    principles: tuple[Slug, ...] = ()
    topic: Slug | None = None
    expect: tuple[Behaviour, ...] = ()
    split: Literal["train", "evaluation"] = "train"
    tags: tuple[str, ...] = ()
    source: str = ""


class Demonstration(Record):
    """A prompt and the completion that we would want."""

    prompt: Request
    completion: NonEmpty
    principles: tuple[Slug, ...] = ()
    topic: Slug | None = None
    tags: tuple[str, ...] = ()
    author: str = ""
    source: str = ""


def _comparable(options: tuple[str, ...]) -> tuple[str, ...]:
    if not 2 <= len(options) <= 9:
        raise ValueError(f"a comparison has 2 to 9 answers, not {len(options)}")
    if len(set(options)) < len(options):
        raise ValueError("two of the answers are the same text")
    return options


def _starts_at_1(ranks: tuple[int, ...]) -> tuple[int, ...]:
    if 1 not in ranks:
        raise ValueError("the best rank is 1, and no answer has it")
    return ranks


# One number an option, 1 for the best; equal ones are a tie. Only their order is read, so that (1, 1, 2) and (1, 1, 3),
# as sports count, say the same.
Ranking = Annotated[tuple[Annotated[int, Field(ge=1, strict=True)], ...], AfterValidator(_starts_at_1)]


class OrderedPair(NamedTuple):
    """Two answers to one prompt, with what its comparison says of them."""

    better: str
    worse: str
    margin: float | None
    weight: float


class Comparison(Record):
    """A prompt, two to nine answers, and what somebody said of them: a ranking, a probability, or that none will do.

    ``soft_label`` is the probability that the first of two options is better; ``margin`` is how much better the better
    of two is. ``both_bad`` says that no option is acceptable. That is a floor and not an order: the options of such a
    row may still be ranked, and without a ranking nothing follows about which of them is better. ``order_shown`` holds
    the options' indices as they were shown, from left to right. ``gold``: the ranking is known to be right.
    ``failure`` names what is wrong with the worse answers; ``expect`` lists the behaviours that a good one shows.
    """

    prompt: Request
    options: Annotated[tuple[NonEmpty, ...], AfterValidator(_comparable)]
    ranking: Ranking | None = None
    both_bad: bool = False
    order_shown: tuple[int, ...] | None = None
    soft_label: float | None = Field(default=None, ge=0, le=1)
    margin: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    rater: str = ""
    group: str = ""
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    per_principle: dict[Slug, Ranking] = Field(default={})
    rationale: str = ""
    gold: bool = False
    principles: tuple[Slug, ...] = ()
    topic: Slug | None = None
    expect: tuple[Behaviour, ...] = ()
    failure: str = ""
    tags: tuple[str, ...] = ()
    author: str = ""
    source: str = ""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Comparison:
        count = len(self.options)
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
        if self.ranking is None and self.soft_label is None and not self.both_bad and not self.per_principle:
            raise ValueError("nothing is said of the options: no 'ranking', 'soft_label', 'both_bad', 'per_principle'")
        return self

    def __hash__(self) -> int:
        """Equal comparisons have equal hashes; the dictionary of rankings has none of its own."""
        return hash((self.prompt, self.options, self.ranking, self.rater))

    def pairs(self) -> list[OrderedPair]:
        """Every two options of which one is better, in the options' order; ties make none.

        The ranking decides, whether or not ``both_bad``: the lesser evil is still the better answer. Without one the
        likelier side of ``soft_label`` does, and with neither there are no pairs. Each pair carries the row's margin
        and weight, so that a ranking of many options weighs more than one of two unless its reader divides.
        """
        ranked = list(zip(self.ranks(), self.options, strict=False))  # no ranks, no pairs
        return [
            OrderedPair(better, worse, self.margin, self.weight)
            for (above, better), (below, worse) in permutations(ranked, 2)
            if above < below
        ]

    @property
    def certainty(self) -> float:
        """The probability that the better of two answers is the better one; 1 where a ranking says so."""
        return 1.0 if self.soft_label is None else max(self.soft_label, 1 - self.soft_label)

    def ranks(self) -> tuple[int, ...]:
        """Places with ties and without gaps; empty where nothing is said of the order."""
        if self.ranking is None:
            return self._likelier()
        places = sorted(set(self.ranking))
        return tuple(places.index(rank) + 1 for rank in self.ranking)

    def on(self, principle: str) -> Comparison | None:
        """What is said by one principle: its own ranking, or the whole row's if the row is about it."""
        if principle in self.per_principle:
            own = {"ranking": self.per_principle[principle], "soft_label": None, "margin": None}
            return self.model_copy(update={**own, "principles": (principle,), "per_principle": {}})
        return self if principle in self.principles else None

    def _likelier(self) -> tuple[int, ...]:
        if self.soft_label is None:
            return ()
        return (1, 1) if self.soft_label == 0.5 else (1, 2) if self.soft_label > 0.5 else (2, 1)
