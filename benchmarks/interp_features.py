"""What a small sparse autoencoder on gemma-3-270m reaches, beside random directions and principal components.

    .venv/bin/python benchmarks/interp_features.py read WORK TEXTS RUN      # once: activations, about four minutes
    .venv/bin/python benchmarks/interp_features.py train WORK TEXTS RUN     # then: train, measure, describe

TEXTS is a JSON Lines file, gzipped, with the fields instruction and output (LIMA, which is not in the repository); the
autoencoder is trained on it and measured on texts of it that it was not trained on. RUN is a finished run, from whose
own demonstrations the examples of features come: they are ours and may be shown. What is read is kept in WORK. The
figures go to benchmarks/results/interp_features.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from steersman.interp.sae import SparseAutoencoder, describe, features, measure, random_dictionary
from steersman.interp.sae_formats import save_sae
from steersman.interp.sae_training import DictionaryConfig, collect, fit
from steersman.lm import pretrained

RESULTS = Path(__file__).resolve().parent / "results" / "interp_features.json"
SITE, CONTEXT, TOKENS, HELD_OUT, SCORED = "blocks.9.hook_resid_post", 128, 200_000, 40, 16
CONFIG = DictionaryConfig(features=2048, k=32, epochs=2, learning_rate=1e-3)
OWN_TEXTS, DESCRIBED = 250, 40


def rows_of(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """Each text's tokens in pieces, each behind the token that begins texts."""
    rows = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = [ids[start : start + CONTEXT - 1] for start in range(0, len(ids), CONTEXT - 1)]
        rows += [[tokenizer.bos_token_id, *piece] for piece in pieces if len(piece) > 15]
    return rows


def principal(x: torch.Tensor, k: int) -> SparseAutoencoder:
    """The first k principal components, each as two features, of which one is active."""
    mean = x.mean(0)
    axes = torch.linalg.eigh(((x - mean).T @ (x - mean)).double()).eigenvectors[:, -k:].float()
    both = torch.cat([axes, -axes], 1)
    return SparseAutoencoder(SITE, both, torch.zeros(2 * k), both.T.contiguous(), mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["read", "train"])
    parser.add_argument("work", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("run", type=Path)
    arguments = parser.parse_args()
    base = pretrained.resolve("gemma-3-270m")
    tokenizer, model = pretrained.load_tokenizer(base), pretrained.load_model(base).eval().requires_grad_(False)
    with gzip.open(arguments.texts, "rt", encoding="utf-8") as file:
        texts = [f"{row['instruction']}\n{row['output']}" for row in map(json.loads, file)]
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    held_out, rows = (
        rows_of([texts[place] for place in places], tokenizer) for places in (order[:HELD_OUT], order[HELD_OUT:])
    )
    while sum(map(len, rows)) > TOKENS:
        rows.pop()
    kept, start = arguments.work / "activations.safetensors", time.perf_counter()
    if arguments.step == "read":
        x, left_out = collect(model, SITE, rows)
        arguments.work.mkdir(parents=True, exist_ok=True)
        save_file({"x": x}, kept, {"left_out": str(left_out), "seconds": f"{time.perf_counter() - start:.0f}"})
        print(len(x), left_out, f"{time.perf_counter() - start:.0f} s")
        return
    x = load_file(kept)["x"]
    found = fit(CONFIG, x, SITE)
    seconds = time.perf_counter() - start
    print(f"trained in {seconds:.0f} s: {found.losses[0]:.3f} to {found.losses[-1]:.3f}, dead {found.dead:.3f}")
    save_sae(found.sae, arguments.work / "sae")
    quality = {"trained": measure(model, found.sae, held_out, SCORED)}
    active = round(quality["trained"].active)
    quality["random"] = measure(model, random_dictionary(x[:20_000], CONFIG.features, active, SITE), held_out, SCORED)
    quality["principal"] = measure(model, principal(x, active), held_out, SCORED)
    print({name: (one, one.recovered) for name, one in quality.items()})
    with (arguments.run / "data" / "train.jsonl").open(encoding="utf-8") as file:
        own = [json.loads(line) for line in file][::3][:OWN_TEXTS]
    own_rows = rows_of(
        [f"{row['prompt']}\n{row['completion']}" for row in own if isinstance(row["prompt"], str)], tokenizer
    )
    values = [features(model, found.sae, [row]) for row in own_rows]
    every = torch.cat([one.values[0, 1:] for one in values])
    share, size = (every > 0).float().mean(0), every.sum(0) / (every > 0).sum(0).clamp(min=1)
    chosen = torch.where((share > 0.001) & (share < 0.02), size, -1).topk(DESCRIBED).indices.tolist()
    described = describe(model, found.sae, own_rows, tokenizer.decode, chosen)
    figures = {
        "site": SITE,
        "config": CONFIG.model_dump(),
        "tokens": len(x),
        "seconds": {"training": round(seconds)},
        "loss_first": found.losses[0],
        "loss_last": sum(found.losses[-20:]) / 20,
        "dead_in_training": found.dead,
        "held_out": {name: {**one._asdict(), "recovered": one.recovered} for name, one in quality.items()},
        "scored_texts": SCORED,
        "never_active_on_own_texts": float((share == 0).float().mean()),
        "described": [{**one._asdict(), "examples": [e._asdict() for e in one.examples]} for one in described],
    }
    RESULTS.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
