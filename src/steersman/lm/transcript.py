"""A model's answers in a file, so that a killed run resumes (evaluation, critiques, revisions, feedback)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from steersman.lm.language_model import LanguageModel
from steersman.lm.limits import shortened
from steersman.lm.sampling import Completion, Request, SamplingConfig
from steersman.store import append_jsonl, cut_torn_tail, read_jsonl
from steersman.terminal import console
from steersman.types import Text, plain_text

RESUMABLE = 128  # prompts; a resumed run samples again at most this many


class Transcript:
    """A JSONL file with a row per answer: its ``step`` (what it is for), the ``index`` of its prompt, the answer."""

    def __init__(self, file: Path) -> None:
        cut_torn_tail(file)
        self.file = file
        # A batch that reached the disk only in part, before a kill or on a full disk, was answered a second time.
        self.rows: dict[tuple[str, int], dict[str, Any]] = {
            (row["step"], row["index"]): row for row in read_jsonl(file)
        }

    def answers(
        self,
        step: str,
        model: LanguageModel,
        prompts: Mapping[int, Text],
        config: SamplingConfig,
        *,
        preamble: Text | None = None,
        advance: Callable[[], object] = lambda: None,
    ) -> dict[int, dict[str, Any]]:
        """The rows of all prompts, by their indices, which choose the random streams.

        Batches are cut the same way each time, so that after a kill the answers are those of an undisturbed run.

        Args:
            advance: called for each new answer.
        """
        order = sorted(prompts, key=lambda index: (len(plain_text(prompts[index])), index))
        for batch in (order[i : i + RESUMABLE] for i in range(0, len(order), RESUMABLE)):
            if all((step, index) in self.rows for index in batch):
                continue
            rows = []
            request = Request([prompts[index] for index in batch], config, preamble=preamble, indices=batch)
            for answer in model.answers(request):
                rows.append(_row(step, answer))
                advance()
            append_jsonl(self.file, rows)
            self.rows |= {(step, row["index"]): row for row in rows}
        found = {index: self.rows[step, index] for index in prompts}
        if cut := sum(row["truncated_prompt_tokens"] > 0 for row in found.values()):
            console.print(f"{step}: {shortened(cut, len(found))}", markup=False, soft_wrap=True)
        return found


def _row(step: str, answer: Completion) -> dict[str, Any]:
    return {
        "step": step,
        "index": answer.index,
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "tokens": len(answer.token_ids),
        "logprob_nats": round(sum(answer.logprobs), 3),
        "truncated_prompt_tokens": answer.truncated_prompt_tokens,
    }
