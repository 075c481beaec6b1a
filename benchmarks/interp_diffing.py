"""What training did to gemma-3-270m, seen from inside: weights, KL and the activation-difference lens, beside nulls.

    .venv/bin/python benchmarks/interp_diffing.py RUN TEXTS
    .venv/bin/python benchmarks/interp_diffing.py RUN TEXTS --quick     # the lens alone: 100 texts, two layers

RUN is a finished run on gemma-3-270m. TEXTS is a JSON Lines file, gzipped, with the field prompt, of texts that have
nothing to do with the training (BOLD: beginnings of Wikipedia's articles, which are not in the repository; none of them
is in the figures). Does the lens name what was trained? The words of the training are those that its completions use
far more than TEXTS do (log-odds), chosen before the lens is read; the figure is how many of the lens's 20 tokens are
among them, for the real difference and for noise of the same size in each matrix. About four minutes on two cores.
The figures go to benchmarks/results/interp_diffing.json, those of --quick to interp_diffing_quick.json.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from steersman.interp.activations import hooks
from steersman.interp.anatomy import anatomy_of
from steersman.interp.diffing import (
    Divergences,
    activation_difference,
    adding,
    by_layer,
    divergences,
    perturbed,
    stream_norm,
    weight_changes,
)
from steersman.runs import open_run
from steersman.store import write_json

RESULTS = Path(__file__).resolve().parent / "results" / "interp_diffing.json"
TEXTS, SCORED, LENGTH, WORDS, TRAINED_WORDS, STEERED = 300, 24, 40, 20, 200, 9
QUICK = (9, 17)
PROMPTS = (
    "What is a good way to spend a rainy Sunday?",
    "Tell me about the history of the bicycle.",
    "How do I make pancakes?",
    "Why is the sky blue?",
    "Name three animals that live in the sea.",
    "What should I read next?",
)


def odds(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """Words that are over-represented in our texts: log-odds with a count of one added, words of 20 uses or more."""
    counts = [collections.Counter(word for text in texts for word in words_of(text)) for texts in (ours, theirs)]
    sizes = [sum(count.values()) for count in counts]
    scores = {
        word: math.log((count + 1) / sizes[0]) - math.log((counts[1][word] + 1) / sizes[1])
        for word, count in counts[0].items()
        if count >= 20 and len(word) > 2
    }
    return sorted(scores, key=lambda word: -scores[word])[:TRAINED_WORDS]


def words_of(text: str) -> list[str]:
    return [word.strip(".,:;!?()[]\"'").lower() for word in text.split()]


def share(tokens: Sequence[str], trained: set[str]) -> float:
    """Of the tokens, those that are a trained word, or the first four or more letters of one."""
    clean = [token.strip().lower() for token in tokens]
    hits = [token in trained or (len(token) > 3 and any(word.startswith(token) for word in trained)) for token in clean]
    return sum(hits) / len(hits)


def lens_of(
    base: Any, trained: Any, rows: list[list[int]], decode: Any, words: set[str], layers: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    every = range(anatomy_of(base).layers) if layers is None else layers
    found = activation_difference(base, trained, rows, decode, layers=every, words=WORDS)
    kept = [one._asdict() for one in found]
    for one in kept:
        one |= {"vector": None, "lowered": one["lowered"][:5]}
        one["trained_words"] = share(one["raised"], words)
    return kept


def pushed(base: Any, noisy: Any, aligned: Any, rows: list[list[int]], words: set[str]) -> dict[str, Any]:
    """What the trained model says with a difference added, and the same length of noise's."""
    tokenizer, trained, steered = aligned.sampler.chat.tokenizer, aligned.sampler.model, {}
    norm = stream_norm(trained, rows[:50], STEERED)
    for what, other in (("trained", trained), ("noise", noisy)):
        found = activation_difference(base, other, rows, tokenizer.decode, layers=[STEERED], words=1)
        for strength in (0.0, 0.5, 1.0):
            edit = adding(found[-1].vector, norm, strength)
            with hooks(trained, {f"blocks.{STEERED}.hook_resid_post": edit}):
                said = aligned.generate(PROMPTS, max_new_tokens=32)
            hits = [word in words for text in said for word in words_of(text)]
            steered[f"{what} {strength}"] = {"trained_words": sum(hits) / max(1, len(hits)), "answers": said}
    return steered


def moved_most(found: Divergences, rows: list[list[int]], tokenizer: Any) -> list[dict[str, Any]]:
    return [
        {
            "before": tokenizer.decode(rows[one.text][max(0, one.position - 7) : one.position + 1]),
            "nats": one.nats,
            "rises": [tokenizer.decode([token]) for token in one.rises],
            "falls": [tokenizer.decode([token]) for token in one.falls],
        }
        for one in found.most
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    start, run = time.perf_counter(), open_run(arguments.run)
    raw, aligned = run.raw(), run.aligned()
    base, trained = raw.sampler.model, aligned.sampler.model
    tokenizer, chat = raw.sampler.chat.tokenizer, raw.sampler.chat
    with gzip.open(arguments.texts, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["prompt"] for line in file]
    with (run.path / "data" / "train.jsonl").open(encoding="utf-8") as file:
        own = [row for row in map(json.loads, file) if isinstance(row["prompt"], str)]
    words = set(odds([row["completion"] for row in own], texts))
    picked = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [
        [tokenizer.bos_token_id, *tokenizer(texts[i], add_special_tokens=False)["input_ids"]]
        for i in picked[: 3 * TEXTS]
    ]
    rows = [row for row in rows if len(row) >= 8][:TEXTS]
    if arguments.quick:
        few = {"trained": lens_of(base, trained, rows[:100], tokenizer.decode, words, QUICK)}
        few["noise"] = lens_of(base, perturbed(base, trained), rows[:100], tokenizer.decode, words, QUICK)
        write_json(RESULTS.with_name("interp_diffing_quick.json"), few)
        return
    mine = [chat.example(row["prompt"], row["completion"], LENGTH).token_ids for row in own[:: len(own) // SCORED]][
        :SCORED
    ]
    unrelated = [row[:LENGTH] for row in rows[:SCORED]]
    changes, noisy = weight_changes(base, trained), perturbed(base, trained)
    print(f"weights: {time.perf_counter() - start:.0f} s", flush=True)
    lens = {"trained": lens_of(base, trained, rows, tokenizer.decode, words)}
    lens["noise"] = lens_of(base, noisy, rows, tokenizer.decode, words)
    print(f"lens: {time.perf_counter() - start:.0f} s", flush=True)
    sets = {"own examples": mine, "unrelated texts": unrelated}
    kl = {
        f"{name}, {what}": divergences(base, other, some, count=10)
        for name, some in sets.items()
        for what, other in (("trained", trained), ("noise", noisy))
    }
    print({name: one.mean.plain() for name, one in kl.items()}, f"{time.perf_counter() - start:.0f} s", flush=True)
    figures = {
        "trained_words": sorted(words),
        "by_layer": by_layer(changes),
        "first": [one._asdict() for one in changes[:12]],
        "largest_rank": max(one.rank for one in changes),
        "unchanged": sum(not one.relative for one in changes),
        "kl": {
            name: {**one.mean.json(), "median": statistics.median(value for nats in one.nats for value in nats)}
            for name, one in kl.items()
        },
        "moved_most": moved_most(kl["own examples, trained"], mine, tokenizer),
        "lens": lens,
        "steered": pushed(base, noisy, aligned, rows, words),
        "seconds": round(time.perf_counter() - start),
    }
    write_json(RESULTS, figures)


if __name__ == "__main__":
    main()
