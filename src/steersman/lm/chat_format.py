"""Templates and loss masks: the only place that knows how a conversation becomes token ids.

A model with a chat template keeps it, with all its stop ids. A base model gets roles spelled out in ordinary text,

    <bos>User: How do I boil an egg?
    Assistant: Put it in boiling water for eight minutes.<eos>

because its turn tokens were never trained: in gemma-3-270m `<end_of_turn>` lies within cosine 0.9 of 6,442 unused
tokens, so a LoRA that ends turns with it also raises all of those. The trained `<eos>` ends a turn cleanly.

Prompt and completion are tokenised apart, so that the sampler sees exactly the ids that training saw. Text from
users never becomes a control token: `<eos>` typed by a person stays six ordinary characters. An answer ends at the
token that the template closes a turn with, whatever the model's configuration says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from steersman.errors import DataError, ModelError
from steersman.lm.chat_template import ChatTemplate, chat_template, encodable
from steersman.types import ROLE_NAMES, Message, Text, messages_of, uses_tools

if TYPE_CHECKING:
    from steersman.lm.packing import Packed

# Spelled-out roles as a chat template, for programs that an exported model goes to: it writes the ids of `ChatFormat`.
SPELLED_OUT = (
    "{{- bos_token -}}{%- for m in messages -%}{%- if not loop.first -%}{{- '\\n' -}}{%- endif -%}"
    "{{- {'system': 'System', 'user': 'User', 'assistant': 'Assistant'}[m['role']] + ': ' -}}"
    "{%- if loop.last and m['role'] == 'assistant' -%}{{- m['content'] | trim + eos_token -}}"
    "{%- else -%}{{- m['content'] -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '\\nAssistant:' -}}{%- endif -%}"
)


class Example(NamedTuple):
    """Token ids of a prompt and its completion; ``completion_start`` is where the loss begins."""

    token_ids: list[int]
    completion_start: int
    truncated_tokens: int = 0


class Batch(NamedTuple):
    """Right-padded token ids with masks, all [B, T]; ``completion_mask`` marks what carries loss.

    ``packed``: the rows are read in this arrangement, without the padding between them.
    """

    token_ids: Tensor
    attention_mask: Tensor
    completion_mask: Tensor
    packed: Packed | None = None

    @property
    def scored_tokens(self) -> int:
        """How many tokens carry loss."""
        return int(self.completion_mask.sum())


def pad(examples: Sequence[Example], pad_id: int, device: Any = None) -> Batch:
    """Stack examples into one batch, padded on the right to the longest."""
    width = max(len(e.token_ids) for e in examples)
    token_ids = torch.full((len(examples), width), pad_id)
    attention, completion = torch.zeros_like(token_ids), torch.zeros_like(token_ids, dtype=torch.bool)
    for row, (ids, start, _) in enumerate(examples):
        token_ids[row, : len(ids)] = torch.tensor(ids)
        attention[row, : len(ids)] = 1
        completion[row, start : len(ids)] = True
    return Batch(token_ids.to(device), attention.to(device), completion.to(device))


@dataclass(frozen=True)
class ChatFormat:
    """How one model reads conversations. Build it with `chat_format`."""

    tokenizer: Any
    stop_ids: frozenset[int]
    template: ChatTemplate | None  # the model's own; None: roles are spelled out

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Text at which an answer is over although no stop id came: a base model goes on with the next turn."""
        return () if self.template else ("\nUser:", "\nSystem:", "\nAssistant:")

    def prompt_ids(self, prompt: Text, preamble: Text | None = None) -> list[int]:
        """Ids from BOS to the place where the assistant's answer starts.

        Args:
            prompt: the conversation; its last message is the user's.
            preamble: messages put before it, for example a few-shot prompt.
        """
        messages = [*(messages_of(preamble) if preamble else ()), *messages_of(prompt)]
        if messages[-1].role == "assistant":
            raise DataError("the prompt ends with an assistant message", expected="a last message by the user")
        if self.template is not None:
            return self.template.prompt_ids(messages)
        _refuse_tools(messages)
        text = "\n".join(f"{ROLE_NAMES[m.role]}: {m.content}" for m in messages) + "\nAssistant:"
        return self._bos() + self._encode(text)

    def completion_ids(self, completion: str, prompt: Text = "?") -> list[int]:
        """Ids of an answer with its terminator, as they follow `prompt_ids`.

        Args:
            prompt: what is answered; a chat template may write an answer otherwise after another conversation.
        """
        if self.template is None:
            _refuse_tools([Message(role="assistant", content=completion)])
            return [*self._encode(" " + completion.strip()), self.tokenizer.eos_token_id]
        ids = self.template.answer_ids(messages_of(prompt), completion)
        stop = next((i for i, token in enumerate(ids) if token in self.stop_ids), None)
        return [*ids, self.tokenizer.eos_token_id] if stop is None else ids[: stop + 1]

    def prompt_within(
        self, prompt: Text, limit: int, *, preamble: Text | None = None, question_limit: int = 0
    ) -> list[int]:
        """Ids of a prompt of at most ``limit`` tokens: without its oldest turns, then without its question's beginning.

        Turns go in pairs, a user's and the answer to it, with what tools said in between. System text, tools, the
        preamble and what the template writes always stay; where they alone are longer, so is the result.

        Args:
            preamble: as in `prompt_ids`.
            question_limit: the length down to which the question may be cut, if it is more than ``limit``.
        """
        messages = list(messages_of(prompt))
        first = next((i for i, m in enumerate(messages) if m.role not in ("system", "tools")), 0)
        ids = self.prompt_ids(tuple(messages), preamble)
        while len(ids) > limit and (end := _end_of_turns(messages, first)) < len(messages):
            del messages[first:end]
            ids = self.prompt_ids(tuple(messages), preamble)
        excess = len(ids) - max(limit, question_limit)
        if excess <= 0:
            return ids
        other = self.prompt_ids((*messages[:-1], messages[-1].model_copy(update={"content": "?"})), preamble)
        start, end = common_length([ids, other]), common_length([ids[::-1], other[::-1]])
        return ids[:start] + ids[start + max(0, min(excess, len(ids) - start - end)) :]

    def fit(
        self, prompt: Text, answers: Sequence[list[int]], max_length: int
    ) -> tuple[list[int], list[list[int]], int]:
        """A prompt's ids and those of its answers, of which none is longer than ``max_length`` with the prompt.

        What is too long loses, in this order: the prompt's oldest turns; the end of the answers with their terminators,
        down to half of the length; the beginning of the question; at last, system text. Reported, never silent.

        Args:
            answers: ids of `completion_ids`.

        Returns:
            (prompt, answers, how many tokens were too many).
        """
        whole, longest = self.prompt_ids(prompt), max(map(len, answers))
        excess = max(0, len(whole) + longest - max_length)
        if not excess:
            return whole, list(answers), 0
        most = max_length - min(longest, max_length // 2)
        head = shorten(self.prompt_within(prompt, max_length - longest, question_limit=most), most)
        return head, [ids[: max_length - len(head)] for ids in answers], excess

    def example(self, prompt: Text, completion: str, max_length: int) -> Example:
        """Prompt and completion as one sequence of at most ``max_length`` ids, see `fit`."""
        head, (tail,), excess = self.fit(prompt, [self.completion_ids(completion, prompt)], max_length)
        return Example(head + tail, len(head), excess)

    def length(self, prompt: Text, answers: Sequence[str]) -> int:
        """Tokens of a prompt with its longest answer, if there is any."""
        longest = max((len(self.completion_ids(answer, prompt)) for answer in answers), default=0)
        return len(self.prompt_ids(prompt)) + longest

    def decode(self, ids: Sequence[int]) -> str:
        """An answer's text without its terminator."""
        kept = [i for i in ids if i not in self.stop_ids]
        text: str = self.tokenizer.decode(kept, skip_special_tokens=True)
        return (self.template.without_empty_thought(text) if self.template else text).strip()

    # internals ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def _bos(self) -> list[int]:
        bos = self.tokenizer.bos_token_id
        return [] if bos is None else [bos]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(encodable(text), add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]
        return ids


def _end_of_turns(messages: Sequence[Message], first: int) -> int:
    """Where the pair of turns that begins at ``first`` ends: after an answer that no tool has to complete."""
    end = first + 2
    while end < len(messages) and "tool" in (messages[end].role, messages[end - 1].role):
        end += 1
    return end


def _refuse_tools(messages: Sequence[Message]) -> None:
    if uses_tools(messages):
        raise DataError(
            "a conversation with tools, and the model has no chat template to write them",
            expected="a model whose chat template has tools",
            do="use such a model, or leave these rows out",
        )


def common_length(sequences: Sequence[list[int]]) -> int:
    """With how many equal ids all sequences begin."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*sequences, strict=False)))


def shorten(prompt_ids: list[int], limit: int) -> list[int]:
    """Drop ids from the beginning of a prompt, keeping its first id (BOS)."""
    return prompt_ids if len(prompt_ids) <= limit else prompt_ids[:1] + prompt_ids[len(prompt_ids) - limit + 1 :]


def chat_format(tokenizer: Any, generation_config: Any = None) -> ChatFormat:
    """The format of a model: its own chat template if it has one, spelled-out roles if not.

    Args:
        tokenizer: a Hugging Face tokenizer with an EOS token.
        generation_config: the model's, whose ``eos_token_id`` may list several stop ids.

    Raises:
        ModelError: no EOS token.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no EOS token", expected="a trained token that ends an answer")
    template = chat_template(tokenizer) if tokenizer.chat_template else None
    listed = getattr(generation_config, "eos_token_id", None)
    stops = {tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])}
    if template is not None:
        stops.add(template.closing_id())
    return ChatFormat(tokenizer, frozenset(stops - {None}), template)
