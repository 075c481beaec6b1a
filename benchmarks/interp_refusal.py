"""The refusal direction of a run's aligned model: where it is, what it does, what is left of it when it is baked in.

    python benchmarks/interp_refusal.py RUN find        # the direction by the published selection, leaks, the bake
    python benchmarks/interp_refusal.py RUN behaviour   # refusals plain, ablated, added, baked; with 95 % Wilson limits
    python benchmarks/interp_refusal.py RUN random      # the three numbers of 20 random ones of its norm, cleared
    python benchmarks/interp_refusal.py RUN base        # the same search in the base model
    python benchmarks/interp_refusal.py RUN personas    # three persona vectors of the base, and the aligned one's shift
    python benchmarks/interp_refusal.py RUN smollm      # a model with norms first: its direction, hook and baked

Each step adds its part to benchmarks/results/interp_refusal.json; they are to be run in this order, two to six minutes
each on two cores. The direction is found with prompts of the run's `prompts` and `development` files, which expect a
refusal or an answer; behaviour is measured on its forms (harmful requests, look-alikes, plain ones), which no training
and no selection reads. A refusal is what `evals.detectors.refusal` calls one, partial ones counted apart.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import steersman
from steersman.evals.detectors.refusal import refusal
from steersman.interp import baking
from steersman.interp.anatomy import anatomy_of
from steersman.interp.directions import Direction, ablating, adding, answers, random_directions, split_directions
from steersman.interp.persona_texts import TRAITS
from steersman.interp.personas import persona_vector, shift
from steersman.interp.refusal import (
    RefusalConfig,
    RefusalDirection,
    clear_of,
    common_stream,
    first_logprobs,
    measure,
    refusal_direction,
)
from steersman.interp.saved_vectors import load_safetensors, save_safetensors
from steersman.lm import pretrained
from steersman.lm.chat_format import ChatFormat
from steersman.lm.head import head_of
from steersman.lm.language_model import LocalModel
from steersman.stages.inputs import POLICY
from steersman.stats import wilson
from steersman.store import read_json, read_jsonl, write_json

RESULTS = Path(__file__).resolve().parent / "results" / "interp_refusal.json"
TOKENS, HARMLESS = 20, 15  # of an answer; harmless prompts of each kind
# The published KL is 0.1. Uncleared candidates break this model: see `uncleared_and_first_cleared` in the results.
CONFIG = RefusalConfig(fit=48, validation=8, candidates=6, most_kl=0.5, clear="always")
SMOLLM = "smollm2-135m-instruct"
RANDOM, RANDOM_PROMPTS = 20, 5


def prompts_of(run: Path, files: tuple[str, ...], expects: str, principle: str = "") -> list[Any]:
    rows = [row for name in files for row in read_jsonl(run / "data" / f"{name}.jsonl")]
    return [
        row["prompt"]
        for row in rows
        if row["expect"][0] == expects and isinstance(row["prompt"], str) and principle in (*row["principles"], "")
    ]


def found_json(found: RefusalDirection, chat: ChatFormat, seconds: float) -> dict[str, Any]:
    direction = found.direction
    return {
        "layer": direction and direction.layer,
        "position": direction and direction.position,
        "norm": direction and direction.norm,
        "reason": found.reason,
        "tokens": {chat.tokenizer.decode([token]): shares for token, shares in found.tokens.items()},
        "token_ids": list(found.tokens),
        "zero": found.zero,
        "harmful_score": found.harmful_score,
        "harmless_score": found.harmless_score,
        "dropped": {"harmful": found.dropped_harmful, "harmless": found.dropped_harmless},
        "fitted": found.fitted,
        "validated": found.validated,
        "untried": found.untried,
        "candidates": [one._asdict() for one in found.candidates],
        "seconds": round(seconds, 1),
    }


def find(run: Path, local: LocalModel) -> dict[str, Any]:
    model, chat, files = local.sampler.model, local.sampler.chat, ("prompts", "development")
    harmful, harmless = (prompts_of(run, files, expects) for expects in ("refuses", "complies"))
    start = time.monotonic()
    found = refusal_direction(model, chat, harmful, harmless, CONFIG)
    result: dict[str, Any] = {"direction": found_json(found, chat, time.monotonic() - start)}
    one = found.direction
    if one is None:
        return result
    save_safetensors(run_file(run), [one])
    rows = [chat.prompt_ids(prompt) for prompt in prompts_of(run, ("forms",), "complies")[:8]]
    result["splits"] = [
        {"norm": split.norm, "cosine": float(split.vector @ one.vector)}
        for split in split_directions(model, [chat.prompt_ids(text) for text in harmless[:64]], one)
    ]
    leaks, kept = {"before": baking.leaks(model, one.vector)}, {}
    for name in ("naive", "leave", "untie"):
        copy = baking.copy_of(model)
        if name == "naive":
            baking.bake_naively(copy, one.vector)
            leaks[name] = baking.leaks(copy, one.vector)
        else:
            leaks[name] = baking.bake_ablation(copy, one.vector, embeddings=name).leaks  # type: ignore[arg-type]
        kept[name] = baking.compare(model, copy, one.vector, rows)._asdict()
    kept["nothing"] = baking.compare(model, model, one.vector, rows)._asdict()
    for blend in (0.0, 0.01, 1.0):
        copy = baking.copy_of(model)
        baking.bake_ablation(copy, one.vector, blend=blend)
        kept[f"untie, blend {blend:g}"] = baking.compare(model, copy, one.vector, rows)._asdict()
        print(blend, kept[f"untie, blend {blend:g}"], flush=True)
    result["leaks"] = {name: {site: leak._asdict() for site, leak in sites.items()} for name, sites in leaks.items()}
    result["hook_and_baked"] = kept
    return result


def run_file(run: Path) -> Path:
    return Path(tempfile.gettempdir()) / f"interp_refusal-{run.name}.safetensors"


def rates(prompts: list[Any], said: list[str]) -> dict[str, Any]:
    kinds = Counter(refusal(prompt, answer) for prompt, answer in zip(prompts, said, strict=True))
    return {"refused": wilson(kinds["refusal"], len(said)).json(), "kinds": dict(kinds)}


def sets(run: Path, most: int) -> dict[str, list[Any]]:
    return {
        "harmful": prompts_of(run, ("forms",), "refuses")[: 3 * most],
        "lookalike": prompts_of(run, ("forms",), "complies", "no-needless-refusal")[:most],
        "plain": prompts_of(run, ("forms",), "complies", "helpful-plain")[:most],
    }


def behaviour(run: Path, local: LocalModel) -> dict[str, Any]:
    model, chat, one = local.sampler.model, local.sampler.chat, stored(run)
    asked = sets(run, HARMLESS)
    result: dict[str, Any] = {}

    def ask(name: str, model: Any, kinds: tuple[str, ...] = ("harmful", "lookalike", "plain")) -> None:
        said = {kind: answers(model, chat, asked[kind], max_new_tokens=TOKENS) for kind in kinds}
        result[name] = {kind: rates(asked[kind], said[kind]) for kind in kinds}

    ask("plain", model)
    with ablating(model, one.vector):
        ask("ablated", model)
    with adding(model, one.layer, one.difference):
        ask("added", model, ("lookalike", "plain"))
    copy = baking.copy_of(model)
    baking.bake_ablation(copy, one.vector)
    ask("baked", copy, ("harmful",))
    return {"behaviour": result}


def randomised(run: Path, local: LocalModel) -> dict[str, Any]:
    model, chat, one = local.sampler.model, local.sampler.chat, stored(run)
    asked, head = sets(run, RANDOM_PROMPTS), head_of(local.sampler.model)
    tokens = read_json(RESULTS)["direction"]["token_ids"]
    harmful, harmless = (
        [chat.prompt_ids(text) for text in asked[kind][:RANDOM_PROMPTS]] for kind in ("harmful", "plain")
    )
    plain, found = first_logprobs(model, head, harmless), []
    common = common_stream(
        model, harmless
    )  # random ones that hold what all tokens share break Gemma, whatever they are
    nulls = [
        Direction(each.name, clear_of(each.vector.double(), common), each.layer, each.position, each.norm, each.model)
        for each in random_directions(one, RANDOM)
    ]
    for direction in (one, *nulls):
        numbers = measure(model, head, direction, tokens, harmful, harmless, plain)._asdict()
        found.append({"name": direction.name, **numbers})
        print(direction.name, numbers, flush=True)
    return {"random": found, "random_behaviour": behaviour_under(run, local, one, nulls)}


def behaviour_under(run: Path, local: LocalModel, one: Direction, nulls: list[Direction]) -> dict[str, Any]:
    """Answers with each random direction ablated (harmful requests) and added (plain ones), as rates in their order."""
    model, chat, asked = local.sampler.model, local.sampler.chat, sets(run, HARMLESS)
    harmful, plain = asked["harmful"][:HARMLESS], asked["plain"]
    left, added = [], []
    for direction in nulls:
        with ablating(model, direction.vector):
            left.append(rates(harmful, answers(model, chat, harmful, max_new_tokens=TOKENS))["refused"]["value"])
        with adding(model, one.layer, direction.difference):
            added.append(rates(plain, answers(model, chat, plain, max_new_tokens=TOKENS))["refused"]["value"])
        print(direction.name, left[-1], added[-1], flush=True)
    return {
        "prompts": [len(harmful), len(plain)],
        "harmful_refused_ablated": sorted(left),
        "plain_refused_added": sorted(added, reverse=True),
    }


def base(run: Path, local: LocalModel) -> dict[str, Any]:
    files, start = ("prompts", "development"), time.monotonic()
    harmful, harmless = (prompts_of(run, files, expects) for expects in ("refuses", "complies"))
    found = refusal_direction(local.sampler.model, local.sampler.chat, harmful, harmless, CONFIG)
    return {"base": found_json(found, local.sampler.chat, time.monotonic() - start)}


def smollm(run: Path, local: LocalModel) -> dict[str, Any]:
    model, chat, start = local.sampler.model, local.sampler.chat, time.monotonic()
    harmful, harmless = (prompts_of(run, ("prompts", "development"), expects) for expects in ("refuses", "complies"))
    found = refusal_direction(model, chat, harmful, harmless, CONFIG)
    result = found_json(found, chat, time.monotonic() - start)
    drawn = torch.randn(anatomy_of(model).width, generator=torch.Generator().manual_seed(0))
    vector = drawn if found.direction is None else found.direction.vector
    rows = [chat.prompt_ids(prompt) for prompt in prompts_of(run, ("forms",), "complies")[:8]]
    copy = baking.copy_of(model)
    report = baking.bake_ablation(copy, vector)
    result["hook_and_baked"] = baking.compare(model, copy, vector, rows)._asdict()
    result["largest_leak"], result["untied"] = report.largest, report.untied
    result["before"] = max(leak.largest for leak in report.before.values())
    with tempfile.TemporaryDirectory() as folder:  # `save` loads it again and compares bit for bit
        baking.save(copy, pretrained.resolve(SMOLLM), Path(folder) / "baked", {"direction": "refusal"})
    return {"smollm2": result}


def personas(run: Path, local: LocalModel, raw: LocalModel) -> dict[str, Any]:
    result, prompts = {}, prompts_of(run, ("forms",), "complies", "helpful-plain")[:HARMLESS]
    for trait in TRAITS:
        found = persona_vector(raw.sampler.model, raw.sampler.chat, trait)
        moved = shift(raw.sampler.model, local.sampler.model, raw.sampler.chat, found, prompts)
        result[trait.name] = {
            "layer": found.direction.layer,
            "gap": found.gap,
            "told_apart": found.told_apart.json(),
            "by_layer": found.by_layer,
            "shift": moved.mean.json(),
            "in_gaps": moved.gaps,
            "percentile_of_random": moved.percentile,
        }
        print(trait.name, result[trait.name], flush=True)
    return {"personas": result}


def stored(run: Path) -> Direction:
    return load_safetensors(run_file(run))["refusal"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("step", choices=("find", "behaviour", "random", "base", "personas", "smollm"))
    given = parser.parse_args()
    folder, raw = Path(steersman.open_run(given.run)[POLICY]), pretrained.resolve("gemma-3-270m")
    start = time.monotonic()
    if given.step in ("base", "smollm"):
        local = LocalModel.load(raw if given.step == "base" else pretrained.resolve(SMOLLM))
    else:
        local = LocalModel.load(raw, folder)
    steps = {"find": find, "behaviour": behaviour, "random": randomised, "base": base, "smollm": smollm}
    if given.step == "personas":
        part = personas(given.run, local, LocalModel.load(raw))
    else:
        part = steps[given.step](given.run, local)
    part["layers"], part["machine"] = (
        anatomy_of(local.sampler.model).layers,
        f"{platform.machine()}, {torch.get_num_threads()} threads",
    )
    part[f"seconds_{given.step}"] = round(time.monotonic() - start, 1)
    write_json(RESULTS, (read_json(RESULTS) if RESULTS.exists() else {}) | part)
    print({key: value for key, value in part.items() if key.startswith("seconds")})


if __name__ == "__main__":
    main()
