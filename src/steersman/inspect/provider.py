"""A run as a model of Inspect: ``inspect eval TASK --model steersman/RUN -M policy=aligned -M guard=true``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)

from steersman.errors import UserError
from steersman.inspect.run_model import Answered, RunModel
from steersman.types import Message

StopReason = Literal["stop", "max_tokens", "content_filter", "unknown"]
STOPS: dict[str, StopReason] = {"stop": "stop", "length": "max_tokens", "content_filter": "content_filter"}
AT_ONCE = 32  # the engine decodes so many answers at once
SETTINGS = ("max_tokens", "temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty")


class RunAPI(ModelAPI):
    """One of a run's models, with or without the guard around it.

    Args:
        model_name: the run's folder.
        policy: aligned, raw, or a stage such as sft.
        guard: true for the run's own guard, or the folder of another.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        policy: str = "aligned",
        guard: bool | str = False,
        **other: Any,
    ) -> None:
        if other:
            raise UserError(
                f"no argument {', '.join(other)}", where=f"steersman/{model_name}", expected="policy, guard"
            )
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        self.model = RunModel.open(model_name, policy, guard)

    async def generate(
        self, input: list[ChatMessage], tools: Sequence[Any], tool_choice: Any, config: GenerateConfig
    ) -> ModelOutput:
        """Answer a conversation of text.

        Raises:
            UserError: tools were offered, which answers here do not call, or the engine refuses the request.
        """
        if tools:
            raise UserError("tools were offered, and this provider calls none", where=f"steersman/{self.model_name}")
        said = await self.model.answer(conversation_of(input), settings_of(config))
        return output_of(said, self.model_name)

    def max_connections(self) -> int:
        """How many requests Inspect sends at once."""
        return AT_ONCE

    async def aclose(self) -> None:
        """End the engine and the guard."""
        if self.model.guard is not None:
            self.model.guard.close()
        await asyncio.to_thread(self.model.service.engine.close)  # type: ignore[attr-defined]


def conversation_of(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Inspect's messages as ours."""
    return tuple(Message(role=message.role, content=message.text) for message in messages)


def settings_of(config: GenerateConfig) -> dict[str, Any]:
    """What Inspect sets of sampling, by OpenAI's names."""
    found = {name: getattr(config, name) for name in SETTINGS if getattr(config, name) is not None}
    return found | ({"stop": list(config.stop_seqs)} if config.stop_seqs else {})


def output_of(said: Answered, model: str) -> ModelOutput:
    """An answer as Inspect's; what the guard decided is metadata."""
    message = ChatMessageAssistant(content=said.text, model=model, source="generate")
    usage = ModelUsage(
        input_tokens=said.prompt_tokens,
        output_tokens=said.tokens,
        total_tokens=said.prompt_tokens + said.tokens,
    )
    return ModelOutput(
        model=model,
        choices=[ChatCompletionChoice(message=message, stop_reason=STOPS.get(said.stop, "unknown"))],
        usage=usage,
        metadata={"guard": dict(said.ruling)} if said.ruling else None,
    )
