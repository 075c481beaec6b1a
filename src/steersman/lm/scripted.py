"""A model that answers from a script: for tests and dry runs, in milliseconds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from steersman.errors import DataError
from steersman.lm.sampling import Completion, Request, SamplingConfig
from steersman.types import Text, plain_text


@dataclass(frozen=True)
class ScriptedModel:
    """Answers by prompt, and the one to every other prompt, ``otherwise``. A word counts as a token.

    The prompt's key is its `plain_text`; a preamble changes nothing.
    """

    script: Mapping[str, str]
    otherwise: str | None = None

    def answers(self, request: Request) -> Iterator[Completion]:
        """The scripted answers, cut at ``max_new_tokens`` words; log-probs are 0: a script is certain.

        Raises:
            DataError: the script has no answer to a prompt.
        """
        for index, prompt in zip(request.numbers, request.prompts, strict=True):
            text = plain_text(prompt)
            answer = self.script.get(text, self.otherwise)
            if answer is None:
                do = "add the prompt to it, or a default answer, ``otherwise``"
                raise DataError(f"the script has no answer to {text!r}", do=do)
            words = answer.split(" ")
            kept = words[: request.config.max_new_tokens]
            if request.on_text is not None:
                for i in range(len(kept)):
                    request.on_text(index, " ".join(kept[: i + 1]))
            yield Completion(
                index=index,
                text=" ".join(kept),
                token_ids=list(range(len(kept))),
                logprobs=[0.0] * len(kept),
                finish_reason="stop" if len(kept) == len(words) else "length",
                prompt_tokens=len(text.split()),
                truncated_prompt_tokens=0,
            )

    def choose(
        self, prompts: Sequence[Text], options: Sequence[str], *, preamble: Text | None = None
    ) -> list[tuple[float, ...] | None]:
        """0 for the option with which the scripted answer begins, in brackets or not, minus infinity for others."""
        choices: list[tuple[float, ...] | None] = []
        for answer in self.answers(Request(prompts, SamplingConfig(max_new_tokens=10**6))):
            chosen = tuple(0.0 if answer.text.lstrip("(").startswith(option) else -math.inf for option in options)
            choices.append(chosen if max(chosen) == 0 else None)
        return choices
