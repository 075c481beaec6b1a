"""A model that answers from a script: for tests, and for dry runs of whatever asks a model, in milliseconds.

A prompt that is not in the script is an error, unless the script says what to answer otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from steersman.errors import DataError
from steersman.lm.sampling import Completion, OnText, SamplingConfig
from steersman.types import Text, plain_text


@dataclass(frozen=True)
class ScriptedModel:
    """Answers by prompt, and ``otherwise`` what it says to every other one. A word counts as a token.

    The prompt's key is its `plain_text`; a preamble changes nothing.
    """

    script: Mapping[str, str]
    otherwise: str | None = None

    def answers(
        self,
        prompts: Sequence[Text],
        config: SamplingConfig,
        *,
        preamble: Text | None = None,
        indices: Sequence[int] | None = None,
        on_text: OnText | None = None,
    ) -> Iterator[Completion]:
        """The scripted answers, cut at ``max_new_tokens`` words; log-probs are 0: a script is certain.

        Raises:
            DataError: the script has no answer to a prompt.
        """
        for index, prompt in zip(indices or range(len(prompts)), prompts, strict=True):
            asked = plain_text(prompt)
            answer = self.script.get(asked, self.otherwise)
            if answer is None:
                raise DataError(
                    f"the script has no answer to {asked!r}",
                    do="add the prompt to it, or say what to answer ``otherwise``",
                )
            words = answer.split(" ")
            kept = words[: config.max_new_tokens]
            if on_text is not None:
                for i in range(len(kept)):
                    on_text(index, " ".join(kept[: i + 1]))
            ended = len(kept) == len(words)
            yield Completion(
                index=index,
                text=" ".join(kept),
                token_ids=list(range(len(kept))),
                logprobs=[0.0] * len(kept),
                finish_reason="stop" if ended else "length",
                prompt_tokens=len(asked.split()),
                truncated_prompt_tokens=0,
            )

    def choose(
        self, prompts: Sequence[Text], options: Sequence[str], *, preamble: Text | None = None
    ) -> list[tuple[float, ...] | None]:
        """0 for the option with which the scripted answer begins, in brackets or not, minus infinity for others."""
        found: list[tuple[float, ...] | None] = []
        for answer in self.answers(prompts, SamplingConfig(max_new_tokens=10**6)):
            said = tuple(0.0 if answer.text.lstrip("(").startswith(option) else -math.inf for option in options)
            found.append(said if max(said) == 0 else None)
        return found
