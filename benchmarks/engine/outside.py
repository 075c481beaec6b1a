"""Does training with a compact vocabulary leak probability into the rows that it scores rarely?

    .venv/bin/python benchmarks/engine/outside.py RUN [--tokens 20000]

The aligned model is exported and loaded in plain `transformers`, the base model as well. Both answer the run's
evaluation prompts at temperature 1 over the whole vocabulary (`generate`). Measured over the sampled positions: the
probability that a model gives to tokens outside the compact rows; the sampled tokens outside them; and letters of
scripts that do not occur in the training data. Results go to benchmarks/results/outside.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steersman import talk
from steersman.data.formats import read
from steersman.lm import pretrained
from steersman.lm.chat import ChatFormat, Example, chat_format
from steersman.lm.head import choose_vocabulary, head_of
from steersman.lm.model import export
from steersman.recipe import Recipe, load_recipe
from steersman.stats import wilson
from steersman.store import read_jsonl
from steersman.train import sft
from steersman.types import Demonstration, Prompt

RESULTS = Path(__file__).resolve().parents[1] / "results" / "outside.json"
BATCH, LONGEST = 64, 96


def exact_rows(recipe: Recipe, run: Path, model: Any, chat: ChatFormat) -> torch.Tensor:
    """[V] bool: the rows that the run's training scored at every position."""
    train, validation = (read(run / "data" / f"{name}.jsonl", Demonstration) for name in ("train", "validation"))
    config = recipe.sft
    examples, _ = sft.encode(train, chat, config.max_length)
    replayed = [Example(row["token_ids"], row["start"]) for row in read_jsonl(run / "sft" / "replay.jsonl")]
    opened, held_out = sft.openings(config.opening, train, examples), sft.encode(validation, chat, config.max_length)[0]
    every = [*examples, *opened, *replayed, *held_out]
    vocabulary = choose_vocabulary(config.compact, model, head_of(model), every)
    return vocabulary.position >= 0


def script(letter: str) -> str:
    """The first word of a letter's name: LATIN, CYRILLIC, HANGUL ..."""
    return unicodedata.name(letter, "UNNAMED").split(" ")[0]


def scripts(texts: list[str]) -> set[str]:
    """Those of all letters."""
    return {script(letter) for text in texts for letter in set(text) if letter.isalpha()}


def measured(model: Any, tokenizer: Any, chat: ChatFormat, prompts: list[Prompt], inside: torch.Tensor, tokens: int,
             known: set[str]) -> dict[str, Any]:  # fmt: skip
    """Sample about so many tokens, then look at the distributions that they came from."""
    torch.manual_seed(0)
    pad = tokenizer.pad_token_id or 0
    count, outside_mass, outside_tokens, strange = 0, 0.0, 0, []
    for i in range(0, 100 * len(prompts), BATCH):
        ids = [chat.prompt_ids(prompts[j % len(prompts)].prompt) for j in range(i, i + BATCH)]
        width = max(map(len, ids))
        padded = torch.tensor([[pad] * (width - len(row)) + row for row in ids])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
        options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": LONGEST}
        with torch.inference_mode():
            found = model.generate(
                padded, attention_mask=mask, pad_token_id=pad, eos_token_id=list(chat.stop_ids), **options
            )
            sampled = found[:, width:]
            stops = torch.isin(sampled, torch.tensor(sorted(chat.stop_ids))).int()
            real = stops.cumsum(1) - stops == 0  # up to the first stop token, which counts
            whole = torch.cat([mask, real.long()], 1)
            hidden = model.model(input_ids=found, attention_mask=whole, use_cache=False).last_hidden_state[
                :, width - 1 : -1
            ]
            for states in hidden[real].split(256):
                probabilities = torch.softmax(model.lm_head(states).float(), -1)
                outside_mass += float(probabilities[:, ~inside].sum())
        chosen = sampled[real]
        count += len(chosen)
        outside_tokens += int((~inside[chosen]).sum())
        texts = tokenizer.batch_decode(
            [row[keep] for row, keep in zip(sampled, real, strict=True)], skip_special_tokens=True
        )
        strange += [letter for text in texts for letter in text if letter.isalpha() and script(letter) not in known]
        print(f"{count} tokens, outside {outside_mass / count:.4f}", flush=True)
        if count >= tokens:
            break
    return {
        "tokens": count,
        "mass_outside": outside_mass / count,
        "sampled_outside": wilson(outside_tokens, count)._asdict(),
        "letters_of_other_scripts": len(strange),
        "scripts": sorted({script(letter) for letter in strange}),
    }


def main() -> None:
    """Both models, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokens", type=int, default=20_000)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    recipe = load_recipe(str(arguments.run / "recipe.yaml"), [])
    base = pretrained.resolve(recipe.model, notify=print)
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base).eval()
    chat = chat_format(pretrained.load_tokenizer(base), model.generation_config)
    inside = exact_rows(recipe, arguments.run, model, chat)
    prompts = read(arguments.run / "data" / "evaluation.jsonl", Prompt)
    train = read(arguments.run / "data" / "train.jsonl", Demonstration)
    known = scripts([row.completion for row in train])
    found = {
        "rows": int(inside.sum()),
        "base": measured(model, tokenizer, chat, prompts, inside, arguments.tokens, known),
    }
    with tempfile.TemporaryDirectory() as folder:
        export(base, talk.trained_of(arguments.run), Path(folder), merged=True)
        aligned = AutoModelForCausalLM.from_pretrained(folder).eval()
        found["aligned"] = measured(aligned, tokenizer, chat, prompts, inside, arguments.tokens, known)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
