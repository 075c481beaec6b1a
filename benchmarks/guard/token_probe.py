"""What the token probe adds to decoding: processor time with it and without, in turns, in this process.

    python benchmarks/guard/token_probe.py [--guard RUN/guard]

The engine of `steersman serve` decodes the same answers of gemma-3-270m at 1 and at 8 streams, A B A B, with the
guard's own `TokenProbe` (without ``--guard``: random weights of the same size) and without one. Only the steps of
decoding count. ``added_share`` is of the medians of processor time a token; the last step of an answer that ends at its
number of tokens is in it, which is taken for the probe alone. Beside it the probe's own work in one step, which differs
less from run to run. Writes `benchmarks/results/guard/token_probe.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steersman.guard.rails.classifier import token_probe
from steersman.guard.rails.probe import TokenProbe
from steersman.lm import pretrained
from steersman.lm.sampling import SamplingConfig
from steersman.serving import models
from steersman.serving.engine import Engine, EngineConfig, Lane
from steersman.serving.probing import Probe
from steersman.serving.sequences import Job, Ticket

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL, NAME = "gemma-3-270m", "m"


class Timed(Engine):
    """Adds up the processor time of its steps, by how many sequences were decoded."""

    def _step(self, lane: Lane) -> None:
        began = time.process_time()
        super()._step(lane)
        self.spent = getattr(self, "spent", 0.0) + time.process_time() - began


def _releasing(done: threading.Semaphore) -> Callable[[Any], None]:
    return lambda told: done.release() if told.finish else None


def decoded(served: dict[str, models.Served], probe: Probe | None, rows: int, most: int, seed: int) -> float:
    """Seconds of processor time a token."""
    engine, done = Timed(served, EngineConfig(rows=rows), {NAME: probe} if probe else {}), threading.Semaphore(0)
    engine.start()
    chat = served[NAME].chat
    ends = tuple((token, -100.0) for token in chat.stop_ids)
    for number in range(rows):
        ids = chat.prompt_ids(f"[{seed}.{number}] Tell me how bread is made, what it costs and who needs it.")
        config = SamplingConfig(max_new_tokens=most, seed=max(seed, 0))
        engine.submit([Ticket(Job(NAME, ids, config, index=number, logit_bias=ends), _releasing(done))])
    for _ in range(rows):
        done.acquire()
    engine.close()
    return float(engine.spent / engine.counters.sampled_tokens)


def own_work(probe: TokenProbe, rows: int, width: int) -> float:
    """Microseconds of the probe itself in one step, the least of many."""
    hidden, readings, best = torch.randn(rows, 1, width), [probe.follow() for _ in range(rows)], float("inf")
    for _ in range(300):
        began = time.process_time()
        for reading, score in zip(readings, probe.tokens(hidden[:, -1]).tolist(), strict=True):
            reading.add(score)
        best = min(best, time.process_time() - began)
    return 1e6 * best


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--guard", type=Path)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "guard" / "token_probe.json")
    arguments = parser.parse_args()
    served = models.load(pretrained.resolve(MODEL), {NAME: None})
    width = int(served[NAME].sampler.model.config.get_text_config().hidden_size)
    probe = token_probe(arguments.guard) if arguments.guard else None
    if probe is None:
        weight = np.random.default_rng(0).normal(size=width).astype(np.float32) / width
        probe = TokenProbe(14, weight, 0.0, 3.0)
    found = []
    for rows in arguments.streams:
        seconds: dict[str, list[float]] = {"without": [], "with": []}
        for number in range(-1, arguments.rounds):  # the first of all allocates, and does not count
            for name, given in (("without", None), ("with", probe)):
                spent = decoded(served, given, rows, arguments.tokens, number)
                if number >= 0:
                    seconds[name].append(spent)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        one = {
            "streams": rows,
            "processor_ms_per_token": {name: [round(1000 * s, 3) for s in values] for name, values in seconds.items()},
            "added_share": round(medians["with"] / medians["without"] - 1, 4),
            "of_which_last_steps": round(1 / arguments.tokens, 4),
            "own_work_us_per_step": round(own_work(probe, rows, width), 1),
        }
        one["own_work_share"] = round(one["own_work_us_per_step"] / 1e6 / (medians["without"] * rows), 5)
        found.append(one)
        print(json.dumps(one), flush=True)
    about = {"model": MODEL, "tokens": arguments.tokens, "cores": os.cpu_count(), "load_average": os.getloadavg()}
    arguments.out.write_text(json.dumps({"about": about, "rows": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
