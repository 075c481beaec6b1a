"""The files of a finished run, read: the run's evaluation, and a `StageRecord` for the section of each stage.

The page, the terminal table and `steersman show --json` all read this, so that they cannot disagree. Nothing here
imports torch. The examples are chosen by a rule fixed before any answer was seen (`RULE`), not by their content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import yaml

from steersman.errors import UserError
from steersman.evals.conditions import ALIGNED, CONDITIONS, FEW_SHOT, RAW, baselines, conditions_of, subject
from steersman.evals.detectors.behaviours import BEHAVIOURS
from steersman.report import verdict
from steersman.report.format import FEW, finite, phrase
from steersman.stats import mcnemar_exact, paired_difference, wilson
from steersman.store import MANIFEST, Run, canonical, read_json, read_jsonl, sha256_text

RULE = "the first evaluation prompt of each principle in the order of the file, featured questions apart"
FAILURES_SHOWN = 12
UNUSABLE = ("refuses-everything",)  # a null among the targets of attacks
NEEDED = {
    "data": ("counts.json",),
    "sft": (),
    "scores": ("summary.json", "scores.jsonl"),
}


Points = tuple[tuple[float, float], ...]


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
    duels: Sequence[Mapping[str, Any]]  # blind tests by human raters

    @property
    def titles(self) -> dict[str, str]:
        """Titles of the principles by id, in the constitution's order."""
        return {p["id"]: p["title"] for p in self.constitution["principles"]}

    def record(self, stage: str) -> StageRecord | None:
        """What a finished stage left; null if the run has no such stage."""
        if stage not in self.manifests:
            return None
        manifest = self.manifests[stage]
        events = current_events(self.events, stage, manifest.get("key"))
        return StageRecord(stage, self.path / stage, manifest, events, self.titles, self.recipe)


@dataclass(frozen=True)
class StageRecord:
    """What a stage's section of the report is made from."""

    name: str
    folder: Path  # of the finished stage
    manifest: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]  # of the stage under its current key; a repeated step replaces the earlier one
    titles: Mapping[str, str]  # of the principles, by id
    recipe: Mapping[str, Any]

    def read(self, file: str) -> Any:
        """The content of a JSON or JSON Lines file of the stage."""
        path = self.folder / file
        return read_jsonl(path) if path.suffix == ".jsonl" else read_json(path)

    def rows(self, event: str) -> list[Mapping[str, Any]]:
        """The events of one kind by step."""
        return sorted((row for row in self.events if row["event"] == event), key=lambda row: row.get("step", 0))

    def curve(self, event: str, column: str) -> Points:
        """``(step, value)`` by step, without values that are not finite."""
        pairs = ((row["step"], finite(row.get(column))) for row in self.rows(event))
        return tuple((step, value) for step, value in pairs if value is not None)

    def setup(self, name: str) -> Any:
        """A value that was known before the first step; null if none was recorded."""
        return next((row.get(name) for row in self.rows("setup")), None)

    def title(self, principle: str) -> str:
        """A principle's title; any other identifier as a phrase."""
        return self.titles.get(principle, phrase(principle))


def current_events(events: Sequence[Mapping[str, Any]], stage: str, key: Any) -> list[Mapping[str, Any]]:
    """The events of a stage under one key; those of other settings are left out."""
    current, latest = None, {}
    for row in events:
        if row.get("stage") != stage:
            continue
        if row["event"] == "start":
            current = row["key"]
        elif current == key:
            latest[row["event"], row.get("step")] = row  # steps repeated after a kill replace the first ones
    return list(latest.values())


def smoothed(points: Points, window: int) -> Points:
    """Running mean over ``window`` points, centred; narrower at the ends."""
    half, values = window // 2, [y for _, y in points]
    near = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return tuple((x, sum(ys) / len(ys)) for (x, _), ys in zip(points, near, strict=True))


def overview_data(found: Evidence, config: ReportSettings | None = None) -> dict[str, Any]:
    """The evaluation and provenance of a run as JSON values. Rates and differences of rates are fractions.

    Args:
        found: from `read_evidence`.
        config: title and featured questions; those of the run's recipe unless given.
    """
    settings, conditions = found.recipe.get("report") or {}, conditions_of(found.rows)
    model = {key: found.about["model"].get(key) for key in ("name", "digest")}
    compared = RAW in conditions and ALIGNED in conditions
    title = config.title if config else settings.get("title", found.path.name)
    title = title or ("Raw and aligned" if compared else str(model["name"]))
    featured = list(config.featured if config else settings.get("featured", ()))
    pairs = side_by_side(found.rows, found.titles)
    by_prompt = {_normal(pair["prompt"]): pair for pair in pairs}
    shown_first = [by_prompt[_normal(q)] for q in featured if _normal(q) in by_prompt]
    data = {
        "title": title,
        "run": found.path.name,
        "started": _iso(found.about.get("started")),
        "model": model,
        "subject": subject(_measured(found)),
        "left_out": _left_out(found),
        "constitution": _constitution(found.constitution),
        "counts": dict(found.counts),
        "sampling": dict((found.recipe["answers"] or {}).get("sampling", {})),
        "featured": shown_first,
        "featured_not_asked": [q for q in featured if _normal(q) not in by_prompt],
        "examples": {"rule": RULE, "pairs": _first_of_each([p for p in pairs if p not in shown_first], found.titles)},
        "failures": _failures(pairs, subject(conditions)),
        **_tables(found),
        "cost": {**found.summary["capability"], "mean_answer_tokens": found.summary["mean_answer_tokens"]},
        "sense": _sense(found),
        "attacks": _attacks(found),
        "duels": [_duel(duel, found.manifests) for duel in found.duels],
        "stages": _stages(found),
        "provenance": {
            "steersman": found.about.get("steersman"),
            "git": found.about.get("git"),
            "packages": found.about.get("packages", {}),
            "machine": found.about.get("machine", {}),
            "seeds": _seeds(found.recipe),
            "command": f"steersman align {found.path / 'recipe.yaml'} --out {found.path}-again",
            "recipe": dict(found.recipe),
        },
    }
    return data | {"verdict": verdict.judged(data)}


def _measured(found: Evidence) -> list[str]:
    """The conditions of which there is an answer, or what the model knows."""
    known = found.summary["capability"].get("knowledge", {})
    return [name for name in CONDITIONS if name in conditions_of(found.rows) or name in known]


def _left_out(found: Evidence) -> list[str]:
    """What this run does not show although others do, each as a sentence."""
    conditions = conditions_of(found.rows)
    few_shot = found.record("raw_answers")
    examples = next((row["examples"] for row in few_shot.rows("few_shot")), None) if few_shot else None
    compared = ALIGNED in conditions
    notes = (
        (not conditions, "No evaluation prompts were answered (answers: null): no pass rate, no examples of answers."),
        (
            bool(conditions) and not compared,
            "The recipe trains no policy, so there is one model and nothing to compare it with before and after.",
        ),
        (compared and RAW not in conditions, "The raw model’s own answers were left out (answers.baselines)."),
        (
            bool(conditions) and FEW_SHOT not in conditions,
            "The raw model’s few-shot answers were left out (answers.baselines).",
        ),
        (
            examples == 0,
            "The few-shot prompt holds the persona and no examples: no demonstration names a principle.",
        ),
        (not found.summary["capability"], "Knowledge and perplexity were not measured (capability: null)."),
    )
    return [note for missing, note in notes if missing]


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def read_evidence(run: Run) -> Evidence:
    """Read a run.

    Raises:
        UserError: a stage that the report needs is missing, or was made from an input that has changed since.
    """
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
        duels=[read_json(path) for path in sorted(run.path.glob("rating/blind-test-*.json"))],
    )


def read_stage(run: Run, stage: str) -> StageRecord | None:
    """What a finished stage left, in a run that may not have reached its scores; None if it has no such stage."""
    manifest = finished_stages(run).get(stage)
    if manifest is None:
        return None
    events = current_events(read_jsonl(run.path / "events.jsonl", torn_tail=True), stage, manifest["key"])
    titles = {p["id"]: p["title"] for p in read_json(run.path / "constitution.json")["principles"]}
    return StageRecord(stage, run.path / stage, manifest, events, titles, read_recipe(run))


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


def _failures(pairs: Sequence[dict[str, Any]], model: str) -> dict[str, Any]:
    """A model's failures: how many, and at most `FAILURES_SHOWN` taken from each principle in turn."""
    judged = [pair for pair in pairs if pair["answers"][model]["kept"] is not None]
    failed = [pair for pair in judged if not pair["answers"][model]["kept"]]
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
        "pooled": _pooled(found),
        "behaviour_meanings": {name: text for name, text in BEHAVIOURS.items() if name in used},
        "overall": list(found.summary["overall"]),
    }


def _pooled(found: Evidence) -> dict[str, Any] | None:
    """The pass rate over all principles of fewer than `FEW` prompts, as a row of the table; null without such."""
    small = {row["principle"] for row in found.summary["principles"] if 0 < row["n"] < FEW}
    kept: dict[str, list[bool]] = {name: [] for name in conditions_of(found.rows)}
    for row in found.rows:
        if row["kept"] is not None and row["principles"] and row["principles"][0] in small:
            kept[row["condition"]].append(row["kept"])
    if not small:
        return None
    own = kept[subject(kept)]
    versus = {
        f"versus_{base}": paired_difference(kept[base], own).json() | {"p_exact": mcnemar_exact(kept[base], own)}
        for base in baselines(kept)
    }
    rates = {name: wilson(sum(values), len(values)).json() for name, values in kept.items()}
    return {"principles": len(small), "n": len(own), "rates": rates, **versus}


def _sense(found: Evidence) -> Mapping[str, Any] | None:
    """How many answers made sense, if the run has measured it."""
    record = found.record("sense")
    measures = record.read("summary.json")["measures"] if record else ()
    return next((row for row in measures if row["label"] == "makes sense"), None)


def _attacks(found: Evidence) -> dict[str, Any] | None:
    """What attackers got from each target, if the run was attacked: of attempts, and of goals by principle."""
    record = found.record("redteam")
    if record is None:
        return None
    summary = record.read("summary.json")
    targets = {
        name: {"overall": own["overall"], **own["everything"]}
        for name, own in summary["targets"].items()
        if own["overall"]["n"] and name not in UNUSABLE
    }
    return {"targets": targets, "judge": summary["judge"]} if targets else None


def _constitution(document: Mapping[str, Any]) -> dict[str, Any]:
    """The same digest as `Constitution.digest`: sha256 of the content."""
    shown = {key: document[key] for key in ("name", "title", "publisher", "version")}
    return {**shown, "principles": len(document["principles"]), "digest": sha256_text(canonical(document))}


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
