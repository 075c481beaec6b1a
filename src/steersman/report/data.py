"""Everything that the report shows, as plain JSON values: a pure function of the files in a run directory.

The page, the terminal table and `steersman show --json` all read this, so that they cannot disagree. Nothing here
imports torch. The examples are chosen by a rule fixed before any answer was seen (`RULE`), never by how they look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import yaml

from steersman.data.sources import spread
from steersman.errors import UserError
from steersman.evals.conditions import ALIGNED
from steersman.evals.detectors.behaviours import BEHAVIOURS
from steersman.report.wording import finite
from steersman.store import MANIFEST, Run, canonical, read_json, read_jsonl, sha256_text

RULE = "the first evaluation prompt of each principle in the order of the file, featured questions apart"
FAILURES_SHOWN = 12
CHAINS_SHOWN = 6  # answers with their critiques and revisions
CHANGES_SHOWN = 4  # watched prompts whose answers are shown at several points of reinforcement learning
NEEDED = {
    "data": ("counts.json",),
    "sft": (),
    "scores": ("summary.json", "scores.jsonl"),
}


class ReportSettings(Protocol):
    """What the recipe says about the report."""

    @property
    def title(self) -> str:
        """The page's title."""

    @property
    def featured(self) -> Sequence[str]:
        """Questions shown first."""


@dataclass(frozen=True)
class Evidence:
    """The files of a finished run, read."""

    path: Path
    recipe: Mapping[str, Any]
    about: Mapping[str, Any]  # run.json
    constitution: Mapping[str, Any]
    manifests: Mapping[str, Mapping[str, Any]]  # stage -> manifest, in the order in which they finished
    events: Sequence[Mapping[str, Any]]
    counts: Mapping[str, int]
    summary: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]  # scores.jsonl
    card: Mapping[str, Any] | None  # of the reward model, if there is one
    looks: Sequence[Mapping[str, Any]]  # answers to watched prompts during reinforcement learning
    judge: Mapping[str, Any] | None  # its card
    revisions: Sequence[Mapping[str, Any]]
    feedback: Mapping[str, Any] | None
    duels: Sequence[Mapping[str, Any]]  # blind tests by human raters


def report_data(run: Run, config: ReportSettings | None = None) -> dict[str, Any]:
    """All contents of the report. Rates are fractions, differences fractions, losses nats per token.

    Args:
        run: a run that has reached the stage ``scores``.
        config: title and featured questions; those of the run's recipe unless given.

    Raises:
        UserError: a stage that the report needs is missing, or was made from an input that has changed since.
    """
    found = read_evidence(run)
    settings = found.recipe.get("report") or {}
    title = config.title if config else settings.get("title", run.path.name)
    featured = list(config.featured if config else settings.get("featured", ()))
    titles = {p["id"]: p["title"] for p in found.constitution["principles"]}
    pairs = side_by_side(found.rows, titles)
    asked = {_normal(pair["prompt"]): pair for pair in pairs}
    shown_first = [asked[_normal(q)] for q in featured if _normal(q) in asked]
    return {
        "title": title,
        "run": run.path.name,
        "started": _iso(found.about.get("started")),
        "model": {key: found.about["model"].get(key) for key in ("name", "digest")},
        "constitution": _constitution(found.constitution),
        "counts": dict(found.counts),
        "sampling": dict(found.recipe["answers"]["sampling"]),
        "featured": shown_first,
        "featured_not_asked": [q for q in featured if _normal(q) not in asked],
        "examples": {"rule": RULE, "pairs": _first_of_each([p for p in pairs if p not in shown_first], titles)},
        "failures": _failures(pairs),
        **_tables(found),
        "cost": {**found.summary["capability"], "mean_answer_tokens": found.summary["mean_answer_tokens"]},
        "training": _training(_Recorded(found, "sft")),
        "preferences": _preferences(_Recorded(found, "dpo")),
        "reward_card": found.card,
        "reinforcement": _reinforcement(found) if "rl" in found.manifests else None,
        "constitutional": {
            "judge": found.judge,
            "revisions": _revisions(found.revisions) if found.revisions else None,
            "feedback": found.feedback,
            "ablation": found.summary.get("ablation"),
        },
        "duels": [_duel(duel, found.manifests) for duel in found.duels],
        "stages": _stages(found),
        "provenance": {
            "steersman": found.about.get("steersman"),
            "git": found.about.get("git"),
            "packages": found.about.get("packages", {}),
            "machine": found.about.get("machine", {}),
            "seeds": _seeds(found.recipe),
            "command": f"steersman align {run.path / 'recipe.yaml'} --out {run.path}-again",
            "recipe": dict(found.recipe),
        },
    }


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def read_evidence(run: Run) -> Evidence:
    """Read a run and refuse one that is not finished or whose parts do not belong together."""
    again = f"run `steersman align {run.path / 'recipe.yaml'} --out {run.path}` to the end"
    manifests = finished_stages(run)
    files = ["recipe.yaml", "run.json", "constitution.json"]
    files += [f"{stage}/{name}" for stage, names in NEEDED.items() for name in (MANIFEST, *names)]
    missing = [name for name in files if not (run.path / name).exists()]
    if missing:
        raise UserError(
            f"this run has no scores to report yet: {', '.join(missing)} missing",
            where=str(run.path),
            expected=f"finished stages {', '.join(NEEDED)}; so far: {', '.join(manifests) or 'none'}",
            do=again,
        )
    about, constitution = read_json(run.path / "run.json"), read_json(run.path / "constitution.json")
    for stage, source in outdated(manifests, about["model"]["digest"], constitution["persona"]):
        raise UserError(
            f"{stage} was made from another {source} than this run now holds", where=str(run.path / stage), do=again
        )

    def of(stage: str, file: str) -> Any:
        return read_json(run.path / stage / file) if stage in manifests else None

    return Evidence(
        path=run.path,
        recipe=read_recipe(run),
        about=about,
        constitution=constitution,
        manifests=manifests,
        events=read_jsonl(run.path / "events.jsonl", torn_tail=True),
        counts=read_json(run.path / "data" / "counts.json"),
        summary=read_json(run.path / "scores" / "summary.json"),
        rows=read_jsonl(run.path / "scores" / "scores.jsonl"),
        card=of("reward_card", "card.json"),
        looks=read_jsonl(run.path / "rl" / "looks.jsonl") if "rl" in manifests else [],
        judge=of("judge_card", "judge_card.json"),
        revisions=read_jsonl(run.path / "revisions" / "revisions.jsonl") if "revisions" in manifests else [],
        feedback=of("feedback", "feedback.json"),
        duels=[read_json(path) for path in sorted(run.path.glob("rating/duel-*.json"))],
    )


def read_recipe(run: Run) -> dict[str, Any]:
    """The recipe that `align` left in the run."""
    recipe: dict[str, Any] = yaml.safe_load((run.path / "recipe.yaml").read_text(encoding="utf-8"))
    return recipe


def finished_stages(run: Run) -> dict[str, Any]:
    """Manifests by stage, in the order in which the stages last finished.

    A stage that a former recipe left in the folder, and that is none of this one's, does not count.
    """
    finish: dict[str, float] = {}
    for row in read_jsonl(run.path / "events.jsonl", torn_tail=True):
        if row.get("event") == "finish":
            finish[row["stage"]] = row["time"]
    file = run.path / "run.json"
    stages = read_json(file).get("stages") if file.exists() else None
    paths = [path for path in run.path.glob(f"*/{MANIFEST}") if "." not in path.parent.name]  # not STAGE.partial
    paths = [path for path in paths if stages is None or path.parent.name in (*stages, "base")]
    paths.sort(key=lambda path: (finish.get(path.parent.name, float("inf")), path))
    return {path.parent.name: read_json(path) for path in paths}


def outdated(manifests: Mapping[str, Any], model_digest: str, persona: str) -> Iterator[tuple[str, str]]:
    """Stages whose recorded input is not what the run now holds, as (stage, input)."""
    sources = {"base": model_digest, "persona": sha256_text(persona)}
    for stage, manifest in manifests.items():
        for source, recorded in manifest["inputs"].items():
            name, _, file = source.partition("/")
            now = sources.get(source)
            if now is None and name in manifests:
                outputs = manifests[name]["outputs"]
                now = outputs.get(file) if file else sha256_text(canonical(outputs))
            if now is not None and now != recorded:
                yield stage, source


# ── questions and answers ────────────────────────────────────────────────────────────────────────────────────────────
def side_by_side(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """One entry per evaluation prompt with the answers under every condition, in the order of the file."""
    pairs: dict[int, dict[str, Any]] = {}
    for row in rows:
        principle = row["principles"][0] if row["principles"] else ""
        pair = pairs.setdefault(
            row["index"],
            {
                "index": row["index"],
                "prompt": row["prompt"],
                "principle": principle,
                "principle_title": titles.get(principle, principle),
                "tags": row["tags"],
                "answers": {},
            },
        )
        kept = ("answer", "behaviours", "kept", "ended", "tokens")
        pair["answers"][row["condition"]] = {key: row[key] for key in kept}
    return [pairs[index] for index in sorted(pairs)]


def _first_of_each(pairs: Sequence[dict[str, Any]], titles: Mapping[str, str]) -> list[dict[str, Any]]:
    first: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        first.setdefault(pair["principle"], pair)
    order = list(titles)
    return sorted(first.values(), key=lambda p: order.index(p["principle"]) if p["principle"] in titles else len(order))


def _failures(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The aligned model's failures: how many, and at most `FAILURES_SHOWN` taken from each principle in turn."""
    judged = [pair for pair in pairs if pair["answers"][ALIGNED]["kept"] is not None]
    failed = [pair for pair in judged if not pair["answers"][ALIGNED]["kept"]]
    seen: Counter[str] = Counter()
    turn = {}
    for pair in failed:
        turn[pair["index"]] = seen[pair["principle"]]
        seen[pair["principle"]] += 1
    shown = sorted(failed, key=lambda pair: (turn[pair["index"]], pair["index"]))[:FAILURES_SHOWN]
    return {"total": len(failed), "judged": len(judged), "shown": shown}


def _normal(prompt: Any) -> str:
    """A prompt for looking up: spaces and capitals do not count."""
    return " ".join(prompt.split()).casefold() if isinstance(prompt, str) else canonical(prompt)


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _tables(found: Evidence) -> dict[str, Any]:
    known = {p["id"]: p for p in found.constitution["principles"]}
    order = list(known)

    def described(row: Mapping[str, Any]) -> dict[str, Any]:
        principle = known.get(row["principle"], {"title": row["principle"], "severity": "unknown"})
        return {**row, "title": principle["title"], "severity": principle["severity"]}

    def place(row: Mapping[str, Any]) -> int:
        return order.index(row["principle"]) if row["principle"] in known else len(order)

    used = {name for row in found.summary["behaviours"] for name in [row["behaviour"]]}
    return {
        "principles": [described(row) for row in sorted(found.summary["principles"], key=place)],
        "behaviours": [described(row) for row in sorted(found.summary["behaviours"], key=place)],
        "behaviour_meanings": {name: text for name, text in BEHAVIOURS.items() if name in used},
        "overall": list(found.summary["overall"]),
    }


def _constitution(document: Mapping[str, Any]) -> dict[str, Any]:
    """The same digest as `Constitution.digest`: sha256 of the content."""
    shown = {key: document[key] for key in ("name", "title", "publisher", "version")}
    return {**shown, "principles": len(document["principles"]), "digest": sha256_text(canonical(document))}


class _Recorded:
    """The events of a training stage under the key that this run holds; those of other settings are left out."""

    def __init__(self, found: Evidence, stage: str) -> None:
        current, key = None, found.manifests.get(stage, {}).get("key")
        self.latest: dict[tuple[str, Any], Mapping[str, Any]] = {}
        for row in found.events:
            if row.get("stage") != stage:
                continue
            if row["event"] == "start":
                current = row["key"]
            elif current == key:
                self.latest[row["event"], row.get("step")] = row  # steps repeated after a kill replace the first ones

    def curve(self, event: str, column: str) -> list[list[float | None]]:
        """[step, value] in the order of the steps."""
        rows = sorted((row for (name, _), row in self.latest.items() if name == event), key=lambda row: row["step"])
        return [[row["step"], finite(row[column])] for row in rows if column in row]

    def setup(self, *names: str) -> dict[str, Any]:
        """What was known before the first step."""
        row = self.latest.get(("setup", None), {})
        return {name: row.get(name) for name in names}


def _training(recorded: _Recorded) -> dict[str, Any]:
    tokens = recorded.curve("train", "tokens_seen")
    return {
        "loss": recorded.curve("train", "loss_nats_per_token"),
        "validation_loss": recorded.curve("validation", "loss_nats_per_token"),
        "mass_outside_exact_rows": recorded.curve("validation", "mass_outside_exact_rows"),
        "tokens_seen": tokens[-1][1] if tokens else None,
        **recorded.setup("demonstrations", "validation", "truncated", "steps", "trainable_parameters"),
    }


def _preferences(recorded: _Recorded) -> dict[str, Any]:
    """Learning from comparisons; curves are empty where there was none."""
    return {
        "chosen": recorded.curve("train", "chosen_log_ratio_nats"),
        "rejected": recorded.curve("train", "rejected_log_ratio_nats"),
        "accuracy": recorded.curve("train", "accuracy"),
        **recorded.setup("comparisons", "pairs_per_epoch", "truncated", "steps"),
    }


LOOKED_AT = (
    *("score", "second_score", "gold", "gold_worse", "refused", "ended", "repeated_trigrams"),
    *("mean_answer_tokens", "kl_nats_per_token", "entropy_nats_per_token"),
)


def _reinforcement(found: Evidence) -> dict[str, Any]:
    """What was seen at every look, which policy was taken, and how a few answers changed."""
    recorded = _Recorded(found, "rl")
    rows = sorted((row for (name, _), row in recorded.latest.items() if name == "watch"), key=lambda row: row["step"])
    looks = [
        {"step": row["step"], "kl": row["kl_nats_per_answer"], **{key: finite(row.get(key)) for key in LOOKED_AT}}
        for row in rows
    ]
    taken = next((dict(row) for (name, _), row in recorded.latest.items() if name == "taken"), {})
    steps = [look["step"] for look in looks]
    shown = sorted({0, taken.get("step", 0), steps[len(steps) // 2] if steps else 0, steps[-1] if steps else 0})
    count = 1 + max((row["index"] for row in found.looks), default=-1)
    examples = []
    for index in range(0, count, max(1, count // CHANGES_SHOWN)):
        answers = [row for row in found.looks if row["index"] == index and row["step"] in shown]
        keys = ("step", "answer", "score", "gold")
        examples.append(
            {"prompt": answers[0]["prompt"], "answers": [{key: row[key] for key in keys} for row in answers]}
        )
    return {
        "algorithm": found.recipe["rl"]["algorithm"],
        "looks": looks,
        "taken": {key: taken.get(key) for key in ("step", "gold", "gold_worse")},
        "examples": examples[:CHANGES_SHOWN],
        **recorded.setup("prompts", "watched", "steps"),
    }


def _revisions(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts, and chains from all over, half of them learnt from and half dropped."""
    kept = [row for row in rows if row["kept"]]
    dropped = Counter(row["dropped"] for row in rows if row["dropped"])
    some = [spread(part, CHAINS_SHOWN // 2) for part in (kept, [row for row in rows if row["dropped"]])]
    shown = ("prompt", "answer", "rounds", "kept", "dropped")
    examples = [{key: row[key] for key in shown} for part in some for row in part]
    return {"rows": len(rows), "kept": len(kept), "dropped": dict(dropped.most_common()), "examples": examples}


def _duel(duel: Mapping[str, Any], manifests: Mapping[str, Any]) -> dict[str, Any]:
    """A blind test, and whether the answers that it compared are still those of the run."""
    held = {f"{stage}/{file}": digest for stage, m in manifests.items() for file, digest in m["outputs"].items()}
    shown = {name: value for name, value in duel.items() if name != "inputs"}
    return {**shown, "current": all(held.get(name) == digest for name, digest in duel["inputs"].items())}


def _stages(found: Evidence) -> list[dict[str, Any]]:
    wanted = ("version", "key", "config", "inputs", "outputs", "seconds", "peak_mb")
    return [{"stage": name, **{key: made.get(key) for key in wanted}} for name, made in found.manifests.items()]


def _seeds(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting named ``seed``, by its key in the recipe."""
    return {key: value for key, value in flatten(recipe).items() if key.split(".")[-1] == "seed"}


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``{"sft.lora.rank": 16}``."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat |= flatten(item, f"{prefix}.{name}" if prefix else str(name))
    return flat


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
