"""Plain records, one class per line of a JSONL file. They import nothing of ours but the error tree.

Every text slot is a string (one user message) or a conversation, a list of ``{role, content}``.
Files with TRL's column names are read and written by ``data/formats.py``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

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
ROLE_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


def messages_of(text: Text) -> tuple[Message, ...]:
    """A text slot as a conversation: a string is one user message."""
    return (Message(role="user", content=text),) if isinstance(text, str) else tuple(text)


def plain_text(text: Text) -> str:
    """A text slot for reading and for similarity checks."""
    return text if isinstance(text, str) else "\n".join(f"{ROLE_NAMES[m.role]}: {m.content}" for m in text)


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


class Comparison(Record):
    """A prompt and two answers, one better. ``failure`` names what is wrong with the worse one."""

    prompt: Request
    chosen: NonEmpty
    rejected: NonEmpty
    principles: tuple[Slug, ...] = ()
    topic: Slug | None = None
    failure: str = ""
    margin: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    tags: tuple[str, ...] = ()
    author: str = ""
    source: str = ""
