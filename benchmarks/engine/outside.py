"""Does training with a compact vocabulary leak probability into the rows that it scores rarely?

    steersman align laptop --until sft --set sft.vocabulary=full --out CONTROL
    .venv/bin/python benchmarks/engine/outside.py RUN --control CONTROL [--tokens 20000]

The fine-tuned model of a run is exported and loaded in plain `transformers`, the base model as well, and that of a
control that differs in nothing but the whole vocabulary. All answer the run's evaluation prompts at temperature 1 over
the whole vocabulary. Measured over the sampled positions: the probability that a model gives to tokens
outside the compact rows; the sampled tokens outside them; and letters of scripts that do not occur in the training
data, and the answers that have any. Results go to benchmarks/results/outside.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from steersman.data.formats import read
from steersman.lm import pretrained
from steersman.lm.chat_format import ChatFormat, Example, chat_format, pad
from steersman.lm.compact_vocabulary import choose_vocabulary
from steersman.lm.export import export
from steersman.lm.head import head_of
from steersman.lm.sampling import Request, Sampler, SamplingConfig
from steersman.recipe import Recipe, load_recipe
from steersman.stats import wilson
from steersman.store import read_jsonl
from steersman.train import sft
from steersman.types import Demonstration, Prompt

RESULTS = Path(__file__).resolve().parents[1] / "results" / "outside.json"
BATCH, LONGEST = 64, 96
MODELS = ["base", "compact", "whole"]


def exact_rows(recipe: Recipe, run: Path, model: Any, chat: ChatFormat) -> torch.Tensor:
    """[V] bool: the rows that the run's training scored at every position."""
    train, validation = (read(run / "data" / f"{name}.jsonl", Demonstration) for name in ("train", "validation"))
    config = recipe.sft
    examples, _ = sft.encode(train, chat, config.max_length)
    replayed = [Example(row["token_ids"], row["start"]) for row in read_jsonl(run / "sft" / "replay.jsonl")]
    opened, held_out = sft.prefixes(config.prefix, train, examples), sft.encode(validation, chat, config.max_length)[0]
    every = [*examples, *opened, *replayed, *held_out]
    vocabulary = choose_vocabulary(config.compact, model, head_of(model), every)
    return vocabulary.position >= 0


def script(letter: str) -> str:
    """The first word of a letter's name: LATIN, CYRILLIC, HANGUL ..."""
    return unicodedata.name(letter, "UNNAMED").split(" ")[0]


def scripts(texts: list[str]) -> set[str]:
    """Those of all letters."""
    return {script(letter) for text in texts for letter in set(text) if letter.isalpha()}


def measured(
    model: Any, chat: ChatFormat, prompts: list[Prompt], inside: torch.Tensor, tokens: int, known: set[str]
) -> dict[str, Any]:
    """Sample about so many tokens, then look at the distributions that they came from."""
    head, config = head_of(model), SamplingConfig(temperature=1.0, max_new_tokens=LONGEST, batch_size=BATCH)
    count, outside_mass, outside_tokens, strange = 0, 0.0, 0, []  # strange: of each answer
    for start in itertools.count(step=BATCH):
        texts = [prompts[i % len(prompts)].prompt for i in range(start, start + BATCH)]
        found = sorted(
            Sampler(model, chat).generate(Request(texts, config, indices=range(start, start + BATCH))),
            key=lambda answer: answer.index,
        )
        for text, answer in zip(texts, found, strict=True):
            prompt = chat.prompt_ids(text)
            with torch.inference_mode():
                hidden, chosen = sft.scored_hidden(model, pad([Example(prompt + answer.token_ids, len(prompt))], 0))
                outside_mass += float(torch.softmax(head.logits(hidden), -1)[:, ~inside].sum())
            count, outside_tokens = count + len(chosen), outside_tokens + int((~inside[chosen]).sum())
            strange.append([letter for letter in answer.text if letter.isalpha() and script(letter) not in known])
        print(f"{count} tokens, outside {outside_mass / count:.4f}", flush=True)
        if count >= tokens:
            break
    return {
        "tokens": count,
        "mass_outside": outside_mass / count,
        "sampled_outside": wilson(outside_tokens, count)._asdict(),
        "letters_of_other_scripts": sum(map(len, strange)),
        "answers_with_such": wilson(sum(map(bool, strange)), len(strange))._asdict(),
        "scripts": sorted({script(letter) for letters in strange for letter in letters}),
    }


def main() -> None:
    """The models, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--control", type=Path, required=True, help="a run with sft.vocabulary=full, else the same")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=MODELS)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    recipe = load_recipe(str(arguments.run / "recipe.yaml"), [])
    base = pretrained.resolve(recipe.model, notify=print)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    chat = chat_format(pretrained.load_tokenizer(base), model.generation_config)
    inside = exact_rows(recipe, arguments.run, model, chat)
    prompts = read(arguments.run / "data" / "evaluation.jsonl", Prompt)
    train = read(arguments.run / "data" / "train.jsonl", Demonstration)
    known = scripts([row.completion for row in train])
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    found["rows"] = int(inside.sum())
    tuned = {"compact": arguments.run / "sft", "whole": arguments.control / "sft"}
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            source = export(base, tuned[name], Path(folder), merged=True) if name in tuned else base
            model = AutoModelForCausalLM.from_pretrained(source).eval()
            found[name] = measured(model, chat, prompts, inside, arguments.tokens, known)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
