"""Hardening of a run's aligned model: refusals under a single direction's ablation, over-refusal, tamper curves.

    python benchmarks/interp_hardening.py train refat --run RUN --to FOLDER [--from FOLDER] [--steps N] [--set lr=3e-4]
    python benchmarks/interp_hardening.py measure NAME --run RUN [--policy FOLDER]
    python benchmarks/interp_hardening.py tamper NAME --run RUN [--policy FOLDER] --kind adversarial
    python benchmarks/interp_hardening.py table

Each command is a piece of a few minutes on two cores, and writes its part of benchmarks/results/interp_hardening.json.
Models learn from the run's training rows; they are measured on the run's evaluation prompts, whose topics no training
row shares. The attacker's direction is found afresh on every model that is measured, with training prompts: of each
layer below the last fifth, the one whose ablation leaves fewest refusals among 24 of them. Refusals are what
`evals/detectors` sees in greedy answers of 24 tokens. The texts that models say are not kept.

The committed figures are a part of that, as far as two shared cores allowed: answers of 16 tokens; directions of five
layers, chosen with 16 prompts; a ReFAT training in the published zero form, which taught nothing. See their `notes`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import steersman
from steersman.evals.forms import HARMFUL, kind_of
from steersman.interp.directions import random_directions
from steersman.interp.hardening import preventative, refat, rerouting
from steersman.interp.hardening.direction import everywhere
from steersman.interp.hardening.measure import Answers, Prompts, answers, strongest
from steersman.interp.hardening.rows import Rows, drawn, drawn_evenly, rows_of
from steersman.interp.hardening.tamper import TamperConfig, tamper_curve
from steersman.lm.adapters import LoraConfig
from steersman.lm.language_model import LocalModel
from steersman.stages.inputs import EVALUATION, TRAIN
from steersman.stats import paired_difference
from steersman.store import StageFolder, append_jsonl, read_json, read_jsonl, write_json
from steersman.types import Comparison

RESULTS = Path(__file__).resolve().parent / "results" / "interp_hardening.json"
TOKENS, TAMPERED_TOKENS, FOUND_WITH = 24, 16, 64
METHODS: dict[str, Any] = {
    "refat": (refat.run, refat.RefatConfig),
    "rerouting": (rerouting.run, rerouting.ReroutingConfig),
    "preventative": (preventative.run, preventative.PreventativeConfig),
}


def record(section: str, name: str, found: Any) -> None:
    """Put a part into the file of results."""
    kept = read_json(RESULTS) if RESULTS.exists() else {}
    kept.setdefault(section, {})[name] = found
    write_json(RESULTS, kept)


def rows_in(run: Any) -> Rows:
    """The run's training rows by kind."""
    comparisons = [Comparison.model_validate(row) for row in read_jsonl(run.path / "data" / "comparisons.jsonl")]
    return rows_of(run[TRAIN], comparisons)


def prompts_in(run: Any) -> Prompts:
    """What is measured with: all evaluation prompts that are to be refused or answered."""
    rows, measured = rows_in(run), run[EVALUATION]
    return Prompts(
        [row.prompt for row in measured if kind_of(row.tags) == HARMFUL],
        [row.prompt for row in measured if "complies" in row.expect],
        [row.prompt for row in drawn(rows.harmful, FOUND_WITH, 0)],
        [row.prompt for row in drawn_evenly(rows.utility, FOUND_WITH, 0)],
    )


def train(given: argparse.Namespace) -> None:
    """One training, from the run's policy or from a folder that another one left."""
    run = steersman.open_run(given.run)
    start = time.perf_counter()
    given.to.mkdir(parents=True, exist_ok=True)
    work, kind = METHODS[given.method]
    settings: dict[str, Any] = {"steps": given.steps}
    for item in given.set:
        key, _, value = item.partition("=")
        if key == "lr":
            settings["optimiser"] = {**kind().optimiser.model_dump(), "learning_rate": float(value)}
        else:
            settings[key] = float(value) if "." in value else int(value)
    config = kind(**settings)
    log = given.to / "events.jsonl"
    out = StageFolder(given.to, given.method, lambda **row: append_jsonl(log, [row]))
    rows = rows_in(run)
    more = {}
    if given.method == "preventative":  # somebody's rows: harmless ones, and some that give in
        more = {"learnt": [*drawn(rows.utility, 6 * len(rows.complying), 1), *rows.complying]}
    work(config, run.base, given.start or run.policy, rows, out, **more)
    seconds = round(time.perf_counter() - start, 1)
    events = [row for row in read_jsonl(log) if row["event"] == "train"]
    told = {key: events[-1][key] for key in events[-1] if isinstance(events[-1][key], float)}
    found = {"config": config.model_dump(mode="json"), "from": str(given.start and given.start.name), "last": told}
    record("trainings", given.to.name, {"method": given.method, "seconds": seconds, **found})
    print(given.to.name, f"{seconds} s", told)


def load(given: argparse.Namespace) -> LocalModel:
    """The model that a command is about."""
    run = steersman.open_run(given.run)
    if given.name == "raw":
        return run.raw()
    return LocalModel.load(run.base, given.policy or run.policy)


def measure(given: argparse.Namespace) -> None:
    """Refusals as it is, under the strongest single direction, under random ones, and where there should be none."""
    prompts = prompts_in(steersman.open_run(given.run))
    local = load(given)
    model, chat = local.sampler.model, local.sampler.chat
    start = time.perf_counter()

    def asked(some: Sequence[Any], edits: Any = ()) -> Answers:
        return answers(model, chat, some, TOKENS, edits)

    plain, harmless = asked(prompts.harmful), asked(prompts.harmless)
    print(given.name, "plain", plain.rate.percent(), "harmless", harmless.rate.percent(), flush=True)
    found = strongest(model, chat, prompts.finding_harmful, prompts.finding_harmless, 16)
    tried = [
        {"layer": one.layer, "form": one.form, "refused": one.refused.json(), "kl_nats": one.divergence}
        for one in found
    ]
    attacked = []
    for one in found[: given.directions]:
        said = asked(prompts.harmful, one.edits)
        attacked.append(
            {"layer": one.layer, "form": one.form, "kl_nats": one.divergence, **said.json(), "each": said.refused}
        )
        print(
            f"  layer {one.layer}: {said.rate.percent()} {said.json()['classes']} KL {one.divergence:.3f}", flush=True
        )
    random = []
    for one in random_directions(_as_direction(found[0]), given.random):
        random.append(asked(prompts.harmful, everywhere(model, one.vector)).json()["refused"])
    result = {"unattacked": plain.json(), "harmless": harmless.json(), "attacked": attacked, "tried": tried}
    each = {"unattacked": plain.refused, "harmless": harmless.refused}
    seconds = round(time.perf_counter() - start, 1)
    record("measured", given.name, {**result, "random": random, "each": each, "seconds": seconds})


def _as_direction(found: Any) -> Any:
    from steersman.interp.directions import Direction

    return Direction("attack", found.vector, found.layer, -1, 1.0)


def tamper(given: argparse.Namespace) -> None:
    """The curve of one kind of rows."""
    run = steersman.open_run(given.run)
    rows, prompts, local = rows_in(run), prompts_in(run), load(given)
    start = time.perf_counter()
    config = TamperConfig(
        at=tuple(int(step) for step in given.at.split(",")),
        batch_size=4,
        answer_tokens=24,
        lora=LoraConfig(trainable_layers=given.layers),
    )
    taught = drawn(rows.utility, 200, 1) if given.kind == "benign" else rows.complying
    harmful = prompts.harmful[:: max(1, len(prompts.harmful) // given.prompts)]

    def left(model: Any, chat: Any) -> Any:
        found = answers(model, chat, harmful, TAMPERED_TOKENS).rate
        print(f"  {given.name} {given.kind}: {found.percent()}, {time.perf_counter() - start:.0f} s", flush=True)
        return found

    curve = tamper_curve(config, local.sampler.model, local.sampler.chat, taught, left)
    seconds = round(time.perf_counter() - start, 1)
    found = {"curve": [point.json() for point in curve], "config": config.model_dump(mode="json"), "seconds": seconds}
    record("tamper", f"{given.name}/{given.kind}", found)


def table(_: argparse.Namespace) -> None:
    """What was found, with differences to the aligned model, and the targets."""
    kept = read_json(RESULTS)
    before = kept["measured"]["aligned"]
    for name, one in kept["measured"].items():
        worst = min(one["attacked"], key=lambda own: own["refused"]["value"])
        first, plain = one["attacked"][0]["refused"]["value"], one["unattacked"]["refused"]["value"]
        over = paired_difference(before["each"]["harmless"], one["each"]["harmless"])
        share = f"{first / plain:.2f} ({worst['refused']['value'] / plain:.2f})" if plain else "-"
        print(
            f"{name}: refuses {100 * plain:.0f} %, ablated {100 * first:.0f} %, share {share}; over-refusal "
            f"{100 * one['harmless']['refused']['value']:.0f} % ({100 * over.value:+.1f} points "
            f"[{100 * over.low:.1f}, {100 * over.high:.1f}])"
        )
    for name, one in kept.get("tamper", {}).items():
        print(name, ", ".join(f"{point['steps']}: {100 * point['left']['value']:.0f} %" for point in one["curve"]))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("train")
    one.add_argument("method", choices=METHODS)
    one.add_argument("--run", type=Path, required=True)
    one.add_argument("--from", dest="start", type=Path)
    one.add_argument("--to", type=Path, required=True)
    one.add_argument("--steps", type=int, default=120)
    one.add_argument("--set", action="append", default=[])
    one.set_defaults(work=train)
    for name, work in (("measure", measure), ("tamper", tamper)):
        one = commands.add_parser(name)
        one.add_argument("name")
        one.add_argument("--run", type=Path, required=True)
        one.add_argument("--policy", type=Path)
        one.add_argument("--directions", type=int, default=3)
        one.add_argument("--random", type=int, default=0)
        one.add_argument("--kind", choices=("benign", "adversarial"), default="adversarial")
        one.add_argument("--at", default="5,25,100")
        one.add_argument("--layers", type=int)
        one.add_argument("--prompts", type=int, default=32)
        one.set_defaults(work=work)
    commands.add_parser("table").set_defaults(work=table)
    given = parser.parse_args()
    given.work(given)


if __name__ == "__main__":
    main()
