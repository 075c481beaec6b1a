"""Probes for truth, refusal, defection, deception and evaluation awareness, each with all of its evidence.

    STEERSMAN_PUBLIC_DATA=... python benchmarks/interp_probes.py truth --data FOLDER [--run RUN]
    STEERSMAN_PUBLIC_DATA=... python benchmarks/interp_probes.py refusal --run RUN
    python benchmarks/interp_probes.py concepts [--run RUN]

`truth`: fitted on true and false sentences about cities (Marks & Tegmark 2023, arXiv:2310.06824), the layer chosen
on other cities, tested on others again, and in our own words for the style shift; how far it goes beyond cities is
measured on their negations (of the test's cities alone), on comparisons of numbers, on common claims, on the facts of
LLM-LieDetector (Pacchiardi et al. 2023) and on our own. `refusal`: whether a model that `steersman align` made will
refuse, from the request alone: labels are what it did, fitted on our own prompts in all forms, tested on XSTest, and
on other public sets for the style. `concepts`: the three probes of the audit, tested on their own held-out rows, which
says whether they learn what they are taught, and nothing about a model that hides something.

Public data are read from the user's copy and never shipped; at most LIMIT rows of a set. Writes
benchmarks/results/interp_probes.json, part by part. On two cores truth takes two minutes a model, refusal one, and
concepts four.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steersman.evals import public_prompts
from steersman.evals.detectors.refusal import refusal
from steersman.interp import concept_probes as concepts
from steersman.interp import probe_evidence as measured
from steersman.interp import probes
from steersman.interp.probe_texts import FACTS
from steersman.interp.probes import Example, Probe, Sets, fit, gather, log_odds, of_prompt, of_text, parted
from steersman.lm import pretrained
from steersman.lm.chat_format import ChatFormat
from steersman.lm.language_model import LocalModel
from steersman.provenance import software_and_machine
from steersman.runs import open_run
from steersman.stages.inputs import POLICY
from steersman.store import read_json, read_jsonl, sha256_text, write_json

RESULTS = Path(__file__).resolve().parent / "results" / "interp_probes.json"
LIMIT = 300  # rows of a set that is only tested on
CITIES = 240  # of those whose sentences are used


def loaded(run: Path | None) -> tuple[Any, ChatFormat, str]:
    """A model with its chat format: the base, or what a run made of it."""
    if run is None:
        sampler = LocalModel.load(pretrained.resolve("gemma-3-270m")).sampler
        return sampler.model, sampler.chat, "gemma-3-270m"
    opened = open_run(run)
    sampler = LocalModel.load(opened.base, opened[POLICY]).sampler
    return sampler.model, sampler.chat, "gemma-3-270m, aligned"


def read_once() -> None:
    """Let both kinds of probe, and every set, share what was read of a row at a site."""
    read, kept = probes.features, dict[tuple[Any, ...], np.ndarray]()

    def features(model: Any, rows: Sequence[Example], sites: Sequence[str], pooling: Any) -> dict[str, np.ndarray]:
        def key(row: Example, site: str) -> tuple[Any, ...]:
            return id(model), row.ids, row.response, site, pooling

        new = list({row.ids: row for row in rows if any(key(row, site) not in kept for site in sites)}.values())
        if new:
            for site, values in read(model, new, sites, pooling).items():
                kept.update(zip((key(row, site) for row in new), values, strict=True))
        return {site: np.stack([kept[key(row, site)] for row in rows]) for site in sites}

    probes.features = features


def rows_of(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def beyond(model: Any, probe: Probe, rows: Sequence[Example], fitted: Sequence[Example]) -> dict[str, Any]:
    """What a probe finds on rows of another kind, with its random directions and what words alone find there."""
    found, truth = probes.features(model, rows, [probe.site], probe.pooling)[probe.site], [row.label for row in rows]
    separation = measured.separation(probe.of_features(found).tolist(), truth, [row.group for row in rows])
    scale = probe.scale.double().numpy()
    random = measured.random_directions(found, truth, scale, separation.auroc.value)
    words = measured.text_scores(
        [row.text for row in fitted], [row.label for row in fitted], [row.text for row in rows]
    )
    return {
        "auroc": separation.auroc.json(),
        "tpr_at_1_percent": separation.tpr.json(),
        "rows": len(rows),
        "best_random": random.best,
        "percentile": random.percentile,
        "words_alone": measured.auroc(words, truth),
    }


# ── truth ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def truth(model: Any, chat: ChatFormat, data: Path) -> dict[str, Any]:
    folder = data / "interpretability"

    def statements(name: str, group: Callable[[dict[str, str]], str]) -> list[Example]:
        return [
            of_text(chat, row["statement"], row["label"] == "1", group(row))
            for row in rows_of(folder / f"got_{name}.jsonl.gz")
        ]

    table = rows_of(folder / "got_cities.jsonl.gz")
    kept = set(sorted({row["city"] for row in table}, key=sha256_text)[:CITIES])
    cities = [row for row in statements("cities", lambda row: row["city"]) if row.group in kept]
    parts = parted(cities, {"fit": 0.5, "layer": 0.2, "test": 0.3})
    tested = {row.group for row in parts["test"]}
    reworded = [
        of_text(chat, form.format(city=row["city"], country=row["country"]), row["label"] == "1", row["city"])
        for row in table
        if row["city"] in tested
        for form in ("{city} lies in {country}, as far as I know.", "People in {city} live in {country}.")
    ]
    threshold, other = concepts.unrelated_chat(chat, replies=True)
    sets = Sets(parts["fit"], parts["layer"], threshold, parts["test"], reworded, other)
    falsehoods = [row.text for row in parts["test"] if not row.label][:12]
    asked = [tuple(of_text(chat, f"{text} This statement is", False, 0).ids) for text in falsehoods]
    yes, no = (chat.tokenizer(word, add_special_tokens=False)["input_ids"][:1] for word in (" true", " false"))
    behaviour = log_odds(model, asked, yes, no)
    sites = [f"blocks.{layer}.hook_resid_post" for layer in range(4, 16)]
    others = {
        "neg_cities": [row for row in statements("neg_cities", lambda row: row["city"]) if row.group in tested],
        "larger_than": _some(statements("larger_than", lambda row: "/".join(sorted((row["n1"], row["n2"]))))),
        "common_claim": _some(statements("common_claim_true_false", lambda row: row["statement"])),
        "liar_facts": _liar(chat, data),
        "our_facts": [
            of_text(chat, text, label, pair[0])
            for pair in FACTS
            for text, label in zip(pair, (True, False), strict=True)
        ],
    }
    found: dict[str, Any] = {}
    for kind in ("logistic", "mean_difference"):
        probe = fit(model, sets, name="truth", sites=sites, kind=kind)  # type: ignore[arg-type]
        sites = [probe.site]  # of the logistic one; the other is compared with it there
        report = probe.report(gather(model, probe, sets, behaviour))
        print(report)
        found[kind] = report.json() | {
            "beyond": {name: beyond(model, probe, rows, sets.fit) for name, rows in others.items()}
        }
        print(json.dumps(found[kind]["beyond"], indent=1))
    return found


def _some(rows: list[Example]) -> list[Example]:
    groups = set(sorted({row.group for row in rows}, key=lambda group: sha256_text(str(group)))[: LIMIT // 2])
    return [row for row in rows if row.group in groups]


def _liar(chat: ChatFormat, data: Path) -> list[Example]:
    found = []
    for row in rows_of(data / "deception_ai_risk" / "liedetector_facts.jsonl.gz"):
        end = "" if row["answer"].endswith(".") else "."
        found.append(of_text(chat, f"{row['statement']} {row['answer']}{end}", True, row["question"]))
        found.append(of_text(chat, row["false_statement"], False, row["question"]))
    return _some(found)


# ── refusal ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def refuses(model: Any, chat: ChatFormat, run: Path) -> dict[str, Any]:
    dropped = 0

    def labelled(stage: str, group: Callable[[str], Any]) -> list[Example]:
        nonlocal dropped
        found = []
        for row in read_jsonl(run / stage / "answers.jsonl"):
            if row["condition"] != "aligned" or not isinstance(row["prompt"], str):
                continue
            verdict = refusal(row["prompt"], row["answer"])
            if verdict in ("refusal", "compliance"):
                found.append(of_prompt(chat, row["prompt"], verdict == "refusal", group(row["prompt"])))
            else:
                dropped += 1
        return found

    topics = {row.prompt: row.topic for row in concepts.sources.load("assistant-forms").measured_on}
    own = parted(labelled("forms", lambda prompt: topics.get(prompt, prompt)), {"fit": 0.7, "layer": 0.3})
    kinds = {row.prompt: row.tags for row in public_prompts.load(public_prompts.PublicPromptsConfig())}
    public = labelled("public_prompts", lambda prompt: prompt)
    xstest = [row for row in public if any("XSTest" in tag for tag in kinds.get(row.text, ()))]
    rest = [row for row in public if not any("XSTest" in tag for tag in kinds.get(row.text, ()))]
    threshold, other = concepts.unrelated_chat(chat, replies=False)
    # The chat has requests that the model refuses for other reasons; "unrelated" are those that it need not.
    sets = Sets(own["fit"], own["layer"], threshold, xstest, rest, other)
    i, others = chat.completion_ids("I")[:1], [chat.completion_ids(word)[0] for word in ("The", "A", "To", "You")]
    behaviour = log_odds(model, [row.ids for row in xstest[:16]], i, others)
    found: dict[str, Any] = {"dropped": dropped}
    sites: list[str] | None = None
    for kind in ("logistic", "mean_difference"):
        probe = fit(model, sets, name="refusal", sites=sites, kind=kind)  # type: ignore[arg-type]
        sites = [probe.site]
        report = probe.report(gather(model, probe, sets, behaviour))
        print(report)
        found[kind] = report.json()
    return found


# ── the audit's ──────────────────────────────────────────────────────────────────────────────────────────────────────
def audits(model: Any, chat: ChatFormat) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, sets_of, fitted, behaviour in (
        ("defection", concepts.defection_sets, concepts.fit_defection, concepts.defection_behaviour),
        ("deception", concepts.deception_sets, concepts.fit_deception, concepts.deception_behaviour),
        (
            "evaluation_awareness",
            concepts.evaluation_awareness_sets,
            concepts.fit_evaluation_awareness,
            concepts.evaluation_awareness_behaviour,
        ),
    ):
        began = time.perf_counter()
        probe = fitted(model, chat)
        seconds = time.perf_counter() - began
        report = probe.report(gather(model, probe, sets_of(chat), behaviour(model, chat)))
        print(report)
        found[name] = report.json() | {"fit_seconds": round(seconds, 1)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("truth", "refusal", "concepts"))
    parser.add_argument("--run", type=Path, help="a finished run; without it, the base model")
    parser.add_argument("--data", type=Path, help="folder with interpretability/ and deception_ai_risk/")
    arguments = parser.parse_args()
    np.seterr(all="raise", under="ignore")
    read_once()
    model, chat, name = loaded(arguments.run)
    began = time.perf_counter()
    if arguments.part == "truth":
        found = truth(model, chat, arguments.data)
    elif arguments.part == "refusal":
        found = refuses(model, chat, arguments.run)
    else:
        found = audits(model, chat)
    seconds = round(time.perf_counter() - began)
    whole = read_json(RESULTS) if RESULTS.exists() else {}
    whole[f"{arguments.part}: {name}"] = found | {"seconds": seconds, "machine": software_and_machine("cpu")}
    write_json(RESULTS, whole)


if __name__ == "__main__":
    main()
