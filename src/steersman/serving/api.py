"""Requests of OpenAI's chat and text completions, as closed records: what is not known is refused by name.

Fields that change nothing here are accepted and listed in `IGNORED`. Whatever would change the answer is done or
refused, never passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from steersman.serving.errors import ApiError
from steersman.types import Record

# What clients send that has no meaning for a server of one's own.
IGNORED = (
    "user",
    "store",
    "metadata",
    "service_tier",
    "parallel_tool_calls",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
)
# What is refused although OpenAI has it, with the reason.
REFUSED = {
    "functions": "tools are the form in which this server reads functions",
    "function_call": "tools are the form in which this server reads functions",
    "audio": "this server reads and writes text alone",
    "prediction": "this server has no predicted outputs",
    "reasoning_effort": "this server's models have no levels of reasoning",
    "verbosity": "this server's models have no levels of verbosity",
    "web_search_options": "this server searches nothing",
    "suffix": "this server's models continue a text and do not fill gaps",
}
MOST_CHOICES, MOST_PROMPTS = 16, 64
_TYPES_IN_A_PATH = re.compile(r"^(str|int|float|bool|none|list|dict|function-|constrained|[A-Z])")
Body = TypeVar("Body", bound="Sampled")
Finite = Annotated[float, Field(allow_inf_nan=False)]


class StreamOptions(Record):
    """What a stream has beside its deltas. Padding against the measuring of lengths is never sent."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ResponseFormat(Record):
    """The form of an answer; only free text is there."""

    type: str
    json_schema: Any = None


class Sampled(Record):
    """What chat and text completions have in common."""

    model: str
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: Finite = Field(default=1.0, ge=0, le=2)
    top_p: Finite = Field(default=1.0, ge=0, le=1)
    top_k: int = Field(default=0, ge=-1)  # as vLLM has it: 0 and -1 are off
    no_repeat_ngram: int = Field(default=0, ge=0)  # ours: `SamplingConfig.no_repeat_ngram`
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    frequency_penalty: Finite = Field(default=0.0, ge=-2, le=2)
    presence_penalty: Finite = Field(default=0.0, ge=-2, le=2)
    logit_bias: dict[str, Annotated[Finite, Field(ge=-100, le=100)]] = Field(default_factory=dict)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def check(self) -> None:
        """What one field alone does not show.

        Raises:
            ApiError: see the sentences.
        """
        if len(self.stops) > 4 or not all(self.stops):
            raise ApiError("'stop' is one text or up to four, none of them empty.", param="stop")
        if self.stream_options is not None and not self.stream:
            raise ApiError("'stream_options' is only allowed with 'stream': true.", param="stream_options")


class ChatMessage(Record):
    """A message of a conversation; its parts are read by `conversation.messages_of_request`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None  # of a participant: no chat template writes it
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] = Field(default_factory=list)
    tool_call_id: str | None = None
    annotations: list[Any] = Field(default_factory=list)  # of an earlier answer


class ChatRequest(Sampled):
    """A request of ``/v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[dict[str, Any]] = Field(default_factory=list)
    tool_choice: str | dict[str, Any] = "auto"
    response_format: ResponseFormat = ResponseFormat(type="text")
    modalities: list[str] = Field(default=["text"])

    @property
    def most_tokens(self) -> int | None:
        """Of an answer, if the request says."""
        return self.max_completion_tokens or self.max_tokens

    def check(self) -> None:
        """See `Sampled.check`."""
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError("'top_logprobs' is only allowed with 'logprobs': true.", param="top_logprobs")
        both = self.max_tokens, self.max_completion_tokens
        if None not in both and both[0] != both[1]:
            raise ApiError("'max_tokens' and 'max_completion_tokens' differ; give one.", param="max_tokens")
        if self.response_format.type != "text":
            raise ApiError(
                f"'response_format' {self.response_format.type!r} is not supported: this server does not constrain "
                "what is sampled. Ask for the form in the prompt, and check the answer.",
                code="unsupported_parameter",
                param="response_format",
            )
        if self.modalities != ["text"]:
            raise ApiError(
                "'modalities' can only be [\"text\"] here.", code="unsupported_parameter", param="modalities"
            )
        if self.tool_choice not in ("auto", "none"):
            raise ApiError(
                '\'tool_choice\' can be "auto" or "none" here: this server cannot force a call.',
                code="unsupported_parameter",
                param="tool_choice",
            )


class CompletionRequest(Sampled):
    """A request of ``/v1/completions``."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(default=None, ge=0, le=20)  # as vLLM has it; OpenAI stops at 5
    best_of: int | None = None
    echo: bool = False

    @property
    def most_tokens(self) -> int:
        """Of a completion; OpenAI's default is 16."""
        return self.max_tokens or 16

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """One or more texts, or their token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt  # type: ignore[return-value]

    def check(self) -> None:
        """See `Sampled.check`."""
        super().check()
        if not 1 <= len(self.prompts) <= MOST_PROMPTS:
            raise ApiError(f"'prompt' is one text or 1 to {MOST_PROMPTS}.", param="prompt")
        if self.best_of not in (None, self.n):
            raise ApiError("'best_of' can only equal 'n' here.", code="unsupported_parameter", param="best_of")
        if self.echo:
            raise ApiError("'echo' is not supported: join prompt and text.", code="unsupported_parameter", param="echo")


def decoded(content: bytes) -> Mapping[str, Any]:
    """The JSON object of a body.

    Raises:
        ApiError: it is none, with where it ends to be one.
    """
    try:
        body = json.loads(content.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise ApiError(f"The body is not UTF-8: byte {error.start} is wrong.", code="invalid_json") from None
    except RecursionError:
        raise ApiError("The body is nested too deeply.", code="invalid_json") from None
    except ValueError as error:
        raise ApiError(f"The body is not valid JSON: {str(error)[:200]}.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(f"The body is a JSON {_kind(body)}; a request is an object.", code="invalid_json")
    return body


def parse(kind: type[Body], body: Mapping[str, Any]) -> Body:
    """A request as a record. A field of value null counts as left out.

    Raises:
        ApiError: a field is unknown, missing, or of a wrong type or value; the sentence names it.
    """
    known = kind.model_fields
    given = {name: value for name, value in body.items() if value is not None and name not in IGNORED}
    for name in given:
        if name not in known:
            raise _unknown(name)
    if isinstance(given.get("messages"), list):
        given["messages"] = [
            {k: v for k, v in message.items() if v is not None} if isinstance(message, dict) else message
            for message in given["messages"]
        ]
    try:
        request = kind.model_validate(given, strict=True)
        request.check()
    except ValidationError as error:
        raise _wrong(error) from None
    except RecursionError:
        raise ApiError("The body is nested too deeply.", code="invalid_json") from None
    return request


def _unknown(name: str) -> ApiError:
    if name in REFUSED:
        return ApiError(f"{name!r} is not supported: {REFUSED[name]}.", code="unsupported_parameter", param=name)
    return ApiError(f"Unknown parameter: {name[:100]!r}.", code="unknown_parameter", param=name[:100])


def _wrong(error: ValidationError) -> ApiError:
    """The most specific of pydantic's complaints, in one sentence."""
    details = error.errors(include_url=False, include_input=False, include_context=False)
    detail = max(details, key=lambda each: (len(each["loc"]), each["type"] != "string_type"))
    path = ""
    for number, part in enumerate(detail["loc"]):
        if isinstance(part, int):
            path += f"[{part}]"
        elif number == 0 or not _TYPES_IN_A_PATH.match(part):
            path += f".{part[:60]}" if path else part[:60]
    if detail["type"] == "extra_forbidden":
        return ApiError(f"Unknown parameter: {path!r}.", code="unknown_parameter", param=path)
    if detail["type"] == "missing":
        return ApiError(f"Missing required parameter: {path!r}.", code="missing_required_parameter", param=path)
    code = "invalid_type" if detail["type"].endswith("_type") else "invalid_value"
    return ApiError(
        f"Invalid value for {path!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}.", code=code, param=path
    )


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _kind(value: Any) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
