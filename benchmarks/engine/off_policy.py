"""How far int8 weights and a compact vocabulary take rollouts from the policy, and what the correction leaves of that.

    .venv/bin/python benchmarks/engine/off_policy.py --base FOLDER-OF-GEMMA [--adapter RUN/sft/adapter]

Completions of Steersman's own prompts are drawn each way and scored by the exact fp32 policy. Printed, and kept in
benchmarks/results/off_policy.json: KL(sampler || policy) in nats a token, the mean size of the log-ratio, the share of
tokens whose weight is capped, and the effective sample size of the weights, as a share of all tokens.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from steersman.data import sources
from steersman.functional import sampler_weights
from steersman.lm import pretrained
from steersman.lm.adapters import load_adapter
from steersman.lm.chat_format import chat_format
from steersman.lm.compact_vocabulary import CompactConfig, compact_vocabulary
from steersman.lm.head import head_of, token_logprobs, trunk
from steersman.lm.int8 import Int8Copy
from steersman.lm.sampling import Sampler, SamplingConfig
from steersman.lm.shared_prefix import Group, shared_prefix_batch, shared_prefix_hidden

RESULTS = Path(__file__).resolve().parents[1] / "results" / "off_policy.json"
PROMPTS, ANSWERS, TOKENS, ROWS_AT_ONCE = 16, 4, 64, 4


def measured(drawn: torch.Tensor, exact: torch.Tensor) -> dict[str, float]:
    """What the weights of all tokens look like; both [N]."""
    weights = sampler_weights(exact, drawn)
    return {
        "kl_nats_per_token": float((drawn - exact).mean()),
        "mean_log_ratio_nats": float((drawn - exact).abs().mean()),
        "capped_share": float((exact - drawn > torch.tensor(2.0).log()).float().mean()),
        "effective_sample_share": float(weights.sum() ** 2 / (len(weights) * (weights**2).sum())),
        "tokens": len(drawn),
    }


def main() -> None:
    """Draw, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    tokenizer, model = pretrained.load_tokenizer(arguments.base), pretrained.load_model(arguments.base)
    model.requires_grad_(False)
    chat, head = chat_format(tokenizer, model.generation_config), head_of(model)
    data = sources.load("assistant")
    seen = [chat.completion_ids(row.completion) for row in data.demonstrations]
    starts = [chat.prompt_ids(prompt.prompt) for prompt in data.prompts[:PROMPTS]]
    with torch.no_grad():
        hidden = trunk(model)(input_ids=torch.tensor([starts[0]]), use_cache=False).last_hidden_state[0]
    rows = torch.tensor(sorted({token for ids in [*seen, *starts] for token in ids}))
    vocabulary = compact_vocabulary(rows, hidden, head, CompactConfig())
    if arguments.adapter is not None:
        load_adapter(model, arguments.base, arguments.adapter)
    ways: dict[str, dict[str, Any]] = {
        "fp32, all rows": {},
        "int8, all rows": {"int8": Int8Copy(model, head)},
        "fp32, compact rows": {"vocabulary": vocabulary},
        "int8, compact rows": {"vocabulary": vocabulary, "int8": Int8Copy(model, vocabulary.head)},
    }
    sampling = SamplingConfig(temperature=1.0, max_new_tokens=TOKENS, batch_size=PROMPTS * ANSWERS // 4)
    found = {}
    for name, way in ways.items():
        start = time.perf_counter()
        answers = Sampler(model, chat, **way).continue_ids([s for s in starts for _ in range(ANSWERS)], sampling)
        completions = sorted(answers, key=lambda c: c.index)
        seconds = time.perf_counter() - start
        drawn = torch.tensor([logprob for c in completions for logprob in c.logprobs])
        exact = []
        for i in range(0, PROMPTS, ROWS_AT_ONCE):
            groups = [
                Group(starts[j], [c.token_ids for c in completions[j * ANSWERS : (j + 1) * ANSWERS]])
                for j in range(i, i + ROWS_AT_ONCE)
            ]
            batch = shared_prefix_batch(groups, 0)
            with torch.no_grad():
                exact.append(token_logprobs(shared_prefix_hidden(model, batch, batch.source), batch.targets, head))
        found[name] = measured(drawn, torch.cat(exact)) | {"tokens_per_second": round(len(drawn) / seconds, 1)}
        print(name, {key: round(value, 5) for key, value in found[name].items()}, flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
