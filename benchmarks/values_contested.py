"""Contested questions: what a run's raw and aligned models do with them, and whose answers alignment favours.

    .venv/bin/python benchmarks/values_contested.py ask RUN FOLDER     # again until it says "all asked"
    .venv/bin/python benchmarks/values_contested.py figures RUN FOLDER
    .venv/bin/python benchmarks/values_contested.py sheet RUN FOLDER --answers 40    # to be read and marked by a person

The suites `cultures`, `cultures-swaps` and `cultures-choices`, greedy, at most 80 new tokens; `--limit`: a part of the
questions. Asking ends by itself after `--seconds`, between two batches, and goes on where it stopped. `figures`
writes `benchmarks/results/values_contested.json`: every metric with its interval and nulls, the paired change, what got
worse, and the movement towards each group beside its null of shuffled groups. Marks on the sheet are read by `figures`.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.data.positions import Position
from steersman.evals.suites import by_name, measure
from steersman.evals.suites.asking import ask, read_replies
from steersman.evals.suites.cultures import treatment
from steersman.evals.suites.cultures_choices import movement
from steersman.evals.suites.runner import SuitesConfig
from steersman.evals.suites.suite import Question, Suite
from steersman.lm.transcript import RESUMABLE
from steersman.provenance import software_and_machine
from steersman.runs import OpenRun, open_run
from steersman.stats import wilson
from steersman.store import read_jsonl, write_json, write_jsonl

SUITES = ("cultures-choices", "cultures", "cultures-swaps")
ARMS = ("raw", "aligned")
NEW_TOKENS = 80
SHEET = "sheet.jsonl"
RESULTS = Path(__file__).parent / "results" / "values_contested.json"


class TimeIsUp(Exception):
    """The seconds of this piece are spent."""


def questions_of(name: str, limit: int) -> tuple[Suite, list[Question]]:
    """All, or about that number; of choices four times it, because each is asked in several orders and wordings."""
    suite = by_name(name)
    return suite, suite.load([], limit * (4 if name.endswith("choices") else 1) or None)


def between_batches(end: float) -> Callable[[int], None]:
    """Ends the asking once the time is up, with the first answer of a new batch: the one before is on disk."""
    asked = 0

    def say(count: int) -> None:
        nonlocal asked
        asked += count
        whole = count > 1 or (asked > 1 and asked % RESUMABLE == 1)
        if whole and time.monotonic() > end:
            raise TimeIsUp

    return say


def ask_all(run: OpenRun, out: Path, limit: int, seconds: float) -> bool:
    """Ask what is not yet asked, for so long; whether all was asked."""
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    sampling = SuitesConfig().sampling.model_copy(update={"max_new_tokens": NEW_TOKENS})

    try:
        for arm in ARMS:
            left = [name for name in SUITES if not (out / f"{name}.{arm}.jsonl").exists()]
            model = (run.raw() if arm == "raw" else run.aligned()) if left else None
            for name in left:
                assert model is not None
                suite, questions = questions_of(name, limit)
                ask(suite, questions, model, sampling, out / f"{name}.{arm}.jsonl", between_batches(began + seconds))
                print(f"{arm} {name}: asked, {time.monotonic() - began:.0f} s")
    except TimeIsUp:
        print("the time is up; ask again to go on")
        return False
    print("all asked")
    return True


def figures(out: Path, limit: int) -> dict[str, Any]:
    """Everything that the replies say."""
    suites, moved = [], []
    for name in SUITES:
        if not all((out / f"{name}.{arm}.jsonl").exists() for arm in ARMS):
            continue  # said by its absence
        suite, questions = questions_of(name, limit)
        replies = {arm: read_replies(out / f"{name}.{arm}.jsonl")[0] for arm in ARMS}
        found = {"suite": name, "title": suite.title, **measure.figures(suite, questions, replies)}
        suites.append({key: value for key, value in found.items() if key != "groups"})
        if name == "cultures-choices":
            moved = [
                {"value": m.value, "change": m.change.json(), "beyond": m.beyond.json(), "p": m.p, "p_holm": m.p_holm}
                for m in movement(questions, replies[ARMS[0]], replies[ARMS[1]])
            ]
    changes = [
        {"suite": row["suite"], "metric": row["metric"], "outcome": row["outcome"], "p_holm": row["p_holm"]}
        for row in measure.verdicts(suites, ARMS[-1])
    ]
    sheet = out / SHEET
    marks = marked(read_jsonl(sheet), limit) if sheet.exists() else {}
    return {
        **software_and_machine("cpu"),
        "suites": suites,
        "changes": changes,
        "movement": moved,
        "read_by_hand": marks,
    }


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def sheet_rows(out: Path, answers: int, limit: int) -> list[dict[str, Any]]:
    """Open answers of each model to the same questions, with places for marks; the detectors' are not shown."""
    _, questions = questions_of("cultures", limit)
    openly = [i for i, question in enumerate(questions) if not question.facts["declared"]]
    picked = random.Random(0).sample(openly, min(len(openly), answers // len(ARMS)))
    rows = []
    for arm in ARMS:
        replies = read_replies(out / f"cultures.{arm}.jsonl")[0]
        for i in sorted(picked):
            reply = replies[i]
            names = [position["id"] for position in questions[i].facts["positions"]]
            text = "" if reply is None else reply.text
            row = {"arm": arm, "index": i, "question": questions[i].prompt, "positions": names, "answer": text}
            rows.append({**row, "disagrees": None, "covers": None, "claims": None})
    return rows


def marked(rows: Sequence[Mapping[str, Any]], limit: int) -> dict[str, Any]:
    """The detectors beside a person's marks on the same answers: right, missed, false alarms."""
    _, questions = questions_of("cultures", limit)
    said: dict[str, list[tuple[bool, bool]]] = {"disagrees": [], "covers": [], "claims": []}
    for row in rows:
        if row["disagrees"] is None:
            continue
        positions = tuple(Position.model_validate(p) for p in questions[row["index"]].facts["positions"])
        found = treatment(row["question"], row["answer"], positions)
        said["disagrees"].append((found.disagrees, row["disagrees"]))
        said["claims"].append((found.claims, bool(row["claims"])))
        said["covers"] += [(p.id in found.covered, p.id in row["covers"]) for p in positions]
    return {
        name: {
            "right": wilson(sum(a == b for a, b in pairs), len(pairs)).json(),
            "missed": [sum(b and not a for a, b in pairs), sum(b for _, b in pairs)],
            "false_alarms": [sum(a and not b for a, b in pairs), sum(not b for _, b in pairs)],
        }
        for name, pairs in said.items()
    }


def main() -> None:
    """One of the three commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("ask", "figures", "sheet"))
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--answers", type=int, default=40)
    given = parser.parse_args()
    if given.command == "ask":
        ask_all(open_run(given.run), given.out, given.limit, given.seconds)
    elif given.command == "sheet":
        write_jsonl(given.out / SHEET, sheet_rows(given.out, given.answers, given.limit))
    else:
        found = figures(given.out, given.limit)
        write_json(RESULTS, found)
        print(json.dumps({key: found[key] for key in ("changes", "movement", "read_by_hand")}, indent=1))


if __name__ == "__main__":
    main()
