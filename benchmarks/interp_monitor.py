"""What a monitor in the checkpoint costs in our sampler: plain and watched decoding, turn about in one process.

    python benchmarks/interp_monitor.py [--model gemma-3-270m] [--rounds 6]

A decodes plainly, B with a monitor of three probes at the middle layer and the gate on "stop", with thresholds that
nothing reaches, so that both sample the same tokens (which is checked). A B A B ..., for a batch of 32 sequences and
for twelve one at a time, where a hook's fixed cost weighs most. Seconds on the clock and of the processor; the ratio of
each round, their median and range. The clock of a busy machine is off by more than a monitor costs, so that a third
column counts the seconds inside the monitor's own hooks, as a share of the same decoding. Putting it on (some 60 ms, a
check that the gate ends answers) is not decoding and is not counted. Writes benchmarks/results/interp_monitor.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from steersman.data import sources
from steersman.interp import monitor
from steersman.interp.concept_probes import unrelated_chat
from steersman.interp.probes import Probe, middle_site
from steersman.lm import pretrained, tiny
from steersman.lm.language_model import LocalModel
from steersman.lm.sampling import Request, Sampler, SamplingConfig
from steersman.provenance import software_and_machine
from steersman.store import write_json

RESULTS = Path(__file__).resolve().parent / "results" / "interp_monitor.json"


class Decoded(NamedTuple):
    """Seconds on the clock, of the processor and inside the monitor's hooks, and what was sampled."""

    wall: float
    processor: float
    hooks: float
    ids: list[list[int]]


def decoded(sampler: Sampler, watched: Any, prompts: list[str], tokens: int, batch: int) -> Decoded:
    """Decode once, with the monitor or without."""
    around = nullcontext() if watched is None else monitor.watching(sampler.model, watched, gate="stop")
    config, inside = SamplingConfig(max_new_tokens=tokens, batch_size=batch), [0.0]
    with around:
        if watched is not None:
            places = (watched.entry["block"], watched.entry["norm"])
            for module in (sampler.model, *map(sampler.model.get_submodule, places)):
                count_seconds(module, inside)
        wall, own = time.perf_counter(), time.process_time()
        found = sorted(sampler.generate(Request(prompts, config)), key=lambda one: one.index)
        wall, own = time.perf_counter() - wall, time.process_time() - own
    return Decoded(wall, own, inside[0], [one.token_ids for one in found])


def count_seconds(module: Any, inside: list[float]) -> None:
    """Add the seconds that a module's last hook takes to ``inside``."""
    key, hook = list(module._forward_hooks.items())[-1]

    def counted(*given: Any) -> Any:
        start = time.perf_counter()
        result = hook(*given)
        inside[0] += time.perf_counter() - start
        return result

    module._forward_hooks[key] = counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-3-270m", help="a model, or `tiny`")
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.model == "tiny":
            tiny.build(tiny.corpus(sources.load("assistant").demonstrations[:200]), Path(folder))
        base = Path(folder) if arguments.model == "tiny" else pretrained.resolve(arguments.model)
        sampler = LocalModel.load(base).sampler
    model, chat = sampler.model, sampler.chat
    site, width = middle_site(model), model.config.get_text_config().hidden_size
    weights = torch.randn(3, width, generator=torch.Generator().manual_seed(0))
    probes = [Probe(f"p{i}", "logistic", site, "last", w, 0.0, 0.0, 1.0, w) for i, w in enumerate(weights)]
    conversations, _ = unrelated_chat(chat, 8, replies=True)
    began = time.perf_counter()
    made = monitor.make(model, chat, probes, conversations)
    made_s = time.perf_counter() - began
    made.threshold.fill_(1e30)
    asked = [row.text.split("\n")[0] for row in unrelated_chat(chat, 32, replies=False)[0]]
    found: dict[str, Any] = {"model": arguments.model, "site": site, "make_s": round(made_s, 2)}
    for name, prompts, tokens, batch in (("batch of 32", asked, 24, 32), ("one sequence at a time", asked[:12], 32, 1)):
        decoded(sampler, None, prompts, 4, batch)  # warm
        rounds = []
        for _ in range(arguments.rounds):
            plain, watched = (decoded(sampler, one, prompts, tokens, batch) for one in (None, made))
            assert plain.ids == watched.ids, "the monitor changed what was sampled"
            rounds.append({"plain_s": plain[:2], "watched_s": watched[:3]})
        ratios = {
            clock: [one["watched_s"][i] / one["plain_s"][i] - 1 for one in rounds]
            for i, clock in enumerate(("wall", "processor"))
        }
        ratios["inside the hooks"] = [one["watched_s"][2] / one["watched_s"][0] for one in rounds]
        found[name] = {
            "tokens": sum(map(len, plain.ids)),
            "rounds": rounds,
            "overhead": {
                clock: {"median": statistics.median(all_), "lowest": min(all_), "highest": max(all_)}
                for clock, all_ in ratios.items()
            },
        }
        print(name, found[name]["tokens"], "tokens", found[name]["overhead"])
    write_json(RESULTS, found | {"machine": software_and_machine("cpu")})


if __name__ == "__main__":
    main()
