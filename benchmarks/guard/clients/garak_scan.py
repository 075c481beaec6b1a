"""garak against the gateway, the bare upstream and the one that refuses everything; and garak's own null control.

    GARAK-PYTHON benchmarks/guard/clients/garak_scan.py [--cap 6] [--arms guarded bare refuse null] [--work DIR]

Needs `stand.py`, except for `null`. The numbers are garak's, printed as its report has them: per probe and detector,
attempts that passed and all. garak has no harmless prompts: an upstream that refuses everything scores best.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

# Active probes that are left out: they attack with a model of their own, or their detector is one, or a data set that
# garak downloads.
LEFT_OUT = {
    "adaptive_attacks.AdaptiveAttacks": "attacks with a model",
    "atkgen.Tox": "attacks with a model",
    "latentinjection.LatentJailbreak": "detector is a model",
    "lmrc.Bullying": "detector is a model",
    "misleading.FalseAssertion": "detector is a model",
    "realtoxicityprompts.RTPBlank": "detector is a model",
    "sysprompt_extraction.SystemPromptExtraction": "downloads its prompts",
    "topic.WordnetControversial": "downloads a WordNet",
}
DOWNLOADS = "packagehallucination."  # their detectors download lists of packages


def active_probes() -> list[str]:
    """garak's active probes but those that are left out."""
    from garak._plugins import enumerate_plugins

    names = [name.removeprefix("probes.") for name, active in enumerate_plugins("probes") if active]
    return [name for name in names if name not in LEFT_OUT and not name.startswith(DOWNLOADS)]


ARMS = {"guarded": 4000, "guarded-400": 4001, "bare": 8811, "refuse": 8812}
CONFIG = """
system: {{parallel_attempts: 4, max_workers: 4, lite: true}}
run:
  generations: 1
  soft_probe_prompt_cap: {cap}
  seed: 24
  spec: {{include: [{probes}]}}
plugins:
  target_type: {type}
  target_name: {name}
  extended_detectors: false
  generators:
    openai: {{OpenAICompatible: {{uri: "http://127.0.0.1:{port}/v1/", stop: [], max_tokens: 128, temperature: 0.0}}}}
"""


def scan(arm: str, cap: int, probes: list[str], work: Path, seconds: float) -> dict[str, tuple[int, int]]:
    """Passed and all attempts by probe and detector."""
    work.mkdir(parents=True, exist_ok=True)
    config, prefix = work / f"{arm}.yaml", f"{arm}-{time.time_ns()}"
    target = ("test.Repeat", "Repeat") if arm == "null" else ("openai.OpenAICompatible", "oracle")
    names = ", ".join(f"probes.{name}" for name in probes)
    text = CONFIG.format(cap=cap, probes=names, type=target[0], name=target[1], port=ARMS.get(arm, 0))
    config.write_text(text, encoding="utf-8")
    home = {"XDG_DATA_HOME": str(work / "data"), "XDG_CACHE_HOME": str(work / "cache")}
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
    environment = {**os.environ, **home, **offline, "OPENAICOMPATIBLE_API_KEY": "none"}
    command = [sys.executable, "-m", "garak", "--config", str(config), "--report_prefix", prefix]
    with (work / f"{arm}.log").open("w") as log:
        try:
            subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=seconds)
        except subprocess.TimeoutExpired:
            print(f"{arm}: garak was not done after {seconds:.0f} s; what it had evaluated counts", file=sys.stderr)
    report = next((work / "data").rglob(f"{prefix}.report.jsonl"))
    return evaluations(report)


def evaluations(report: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for row in map(json.loads, report.read_text(encoding="utf-8").splitlines()):
        if row["entry_type"] == "eval":
            total = row.get("total_evaluated", row.get("total", 0))
            found[f"{row['probe']} {row['detector']}"] = (row["passed"], total)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cap", type=int, default=6, help="prompts of each probe")
    parser.add_argument("--arms", nargs="+", default=["null", "bare", "guarded", "refuse"])
    parser.add_argument("--probes", nargs="+", help="default: all active ones that need no model")
    parser.add_argument("--seconds", type=float, default=600, help="for each arm")
    parser.add_argument("--work", type=Path, default=Path("runs/guard-garak"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    probes = given.probes or active_probes()
    table: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for arm in given.arms:
        began = time.monotonic()
        for name, counts in scan(arm, given.cap, probes, given.work.resolve(), given.seconds).items():
            table[name][arm] = counts
        print(f"{arm}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(f"{'probe and detector: attempts that passed, of all':72}", *(f"{arm:>12}" for arm in given.arms))
    for name, arms in sorted(table.items()):
        cells = ["{}/{}".format(*arms[arm]) if arm in arms else "-" for arm in given.arms]
        print(f"{re.sub(r'^garak.', '', name)[:72]:72}", *(f"{cell:>12}" for cell in cells))
    sums = {
        arm: [sum(c[i] for c in (row.get(arm, (0, 0)) for row in table.values())) for i in (0, 1)] for arm in given.arms
    }
    print(f"{'all':72}", *(f"{passed}/{total:}".rjust(12) for passed, total in sums.values()))
    if given.json:
        given.json.write_text(
            json.dumps({"cap": given.cap, "probes": probes, "passed_of": table}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
