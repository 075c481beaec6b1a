"""What the verbs `constitution judge`, `constitution tensions` and `constitution diff` do: ask a judge about pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text as RichText

from steersman.cli import model as talk
from steersman.constitution import document, judge_card
from steersman.constitution import tensions as outer
from steersman.constitution.document import Constitution
from steersman.constitution.judges import Judge, JudgeConfig, ScoringJudge, suspects
from steersman.constitution.tensions import Flip, Pair
from steersman.data.formats import sort_out
from steersman.data.sources import spread
from steersman.errors import DataError, UserError
from steersman.report.evidence import read_recipe
from steersman.report.format import difference, rate
from steersman.stages.judge import ENDPOINT, judge_of
from steersman.store import Run, open_run, read_json
from steersman.types import Comparison, plain_text

PAIRS = ("feedback/comparisons.jsonl", "data/held_out_comparisons.jsonl", "data/comparisons.jsonl")


def configured(folder: Path, kinds: Sequence[str] | None, settings: Mapping[str, Any]) -> JudgeConfig:
    """The judge of a run's recipe, or one of these kinds; ``settings`` that are None or False change nothing.

    Raises:
        UserError: an unknown kind.
    """
    return chosen(read_recipe(open_run(folder)).get("judge") or {}, kinds, settings)


def chosen(recipe: Mapping[str, Any], kinds: Sequence[str] | None, settings: Mapping[str, Any]) -> JudgeConfig:
    """The judge of a recipe's section; see `configured`."""
    values = {**recipe, **{key: value for key, value in settings.items() if value}}
    if kinds:
        values["kinds"] = list(kinds)
        if "remote" not in kinds:
            values["remote"] = None
    try:
        return JudgeConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(
            error.errors()[0]["msg"],
            where="--kind",
            expected="rules, reward, model, or remote if the run's recipe names an endpoint",
        ) from error


def constitution_of(run: Run) -> Constitution:
    """The constitution as the run read it."""
    return Constitution.model_validate(read_json(run.path / "constitution.json"))


def judge_in(run: Run, config: JudgeConfig) -> Judge:
    """A judge with the base model and the reward model of a run.

    Raises:
        UserError: the run has no reward model that reads principles, and ``kinds`` ask one.
    """
    reward = run.path / "reward_model"
    settings = (run.manifest("reward_model") or {}).get("config", {})
    if "reward" in config.kinds and not settings.get("by_principle"):
        raise UserError(
            "this run has no reward model that reads principles",
            where=str(reward),
            do="train one (reward_model.by_principle: true), or ask another judge: --kind rules, --kind model",
        )
    with talk.on_its_hardware(run.path):
        return judge_of(config, talk.base_of(run.path), reward, run.path / ENDPOINT)


def comparisons_of(run: Run, file: Path | None) -> list[Comparison]:
    """Comparisons of a file in any columns that are read, or the run's held-out ones.

    Raises:
        DataError: no row can be used.
    """
    path = file or run.path / "data" / "held_out_comparisons.jsonl"
    if not path.exists():
        raise DataError("there is no such file", where=str(path), do="give one with --comparisons")
    rows, faults = sort_out(path, Comparison)
    if not rows:
        raise DataError(f"none of {len(faults)} rows can be used", where=str(path), do=str(faults[0]) if faults else "")
    return rows


def measured(folder: Path, config: JudgeConfig, file: Path | None) -> dict[str, Any]:
    """A judge's card on comparisons of people, see `measure.card`."""
    run = open_run(folder)
    asked = judge_card.questions_of(comparisons_of(run, file), constitution_of(run), config.questions, config.seed)
    return judge_card.card(judge_in(run, config), asked)


def broken(folder: Path, prompt: str, answer: str) -> list[tuple[str, float]]:
    """The run's principles with the score that its reward model gives an answer under each, in nats, the lowest first:
    the one that it most likely breaks. How often that is right: benchmarks/judges.py.

    Raises:
        UserError: the run has no reward model that reads principles.
    """
    run = open_run(folder)
    judge = judge_in(run, JudgeConfig(kinds=("reward",)))
    assert isinstance(judge, ScoringJudge)
    return [(p.id, score) for p, score in suspects(judge.scores, prompt, answer, constitution_of(run).principles)]


def stored(folder: Path) -> dict[str, Any]:
    """The card that a run made of its judge.

    Raises:
        UserError: it has none.
    """
    path = folder / "judge_card" / judge_card.CARD
    if not path.exists():  # a card that was refused stays where the stage stopped
        path = folder / "judge_card.partial" / judge_card.CARD
    if not path.exists():
        raise UserError("this run has measured no judge", where=str(folder), do="add --measure, with --kind")
    found: dict[str, Any] = read_json(path)
    return found


def pairs_of(run: Run, limit: int) -> list[Pair]:
    """Pairs of answers that a run holds, the policy's own first, spread evenly over each file."""
    found: dict[Pair, None] = {}
    for name in PAIRS:
        if (run.path / name).exists() and len(found) < limit:
            rows, _ = sort_out(run.path / name, Comparison)
            pairs = [Pair(row.prompt, *row.options[:2]) for row in spread(rows, limit - len(found))]
            found |= dict.fromkeys(pairs)
    if not found:
        raise DataError("this run holds no pairs of answers", where=str(run.path), do="align with comparisons")
    return list(found)


def tensions(folder: Path, config: JudgeConfig, limit: int) -> dict[str, Any]:
    """How the principles of a run's constitution get on with each other, see `outer.tensions`."""
    run = open_run(folder)
    return outer.tensions(judge_in(run, config), pairs_of(run, limit), constitution_of(run))


def difference_of(old: str, new: str, folder: Path, config: JudgeConfig, limit: int) -> dict[str, Any]:
    """What a change of the constitution changes on a run's pairs, see `outer.changed`."""
    run = open_run(folder)
    return outer.changed(judge_in(run, config), pairs_of(run, limit), document.load(old), document.load(new))


# ── what people read ─────────────────────────────────────────────────────────────────────────────────────────────────
def _table(*heads: str) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(heads):
        grid.add_column(name, justify="left" if place == 0 else "right", overflow="fold")
    return grid


def card_table(card: Mapping[str, Any]) -> RenderableType:
    """A judge's card for a terminal."""
    grid = _table("held-out pairs", "in people's order", "n")
    grid.add_row("all", rate(card["accuracy"]), str(card["accuracy"]["n"]))
    for kind in ("principle", "source"):
        for key, found in card["by"][kind].items():
            grid.add_row(f"  {kind}: {key}", rate(found), str(found["n"]))
    error = card["calibration"]["expected_error"]
    notes = [
        f"Place bias: {difference(card['place_bias'])} points for the answer shown first.",
        "Calibration: "
        + ("nothing was decided." if error is None else f"its probabilities are off by {100 * error:.0f} points."),
        f"Undecided: {card['undecided']}; no answer: {card['unanswered']}.",
    ]
    return Group(grid, RichText(), RichText("\n".join(notes)))


def broken_table(found: Sequence[tuple[str, float]]) -> RenderableType:
    """An answer's scores by principle."""
    grid = _table("principle, the most likely broken first", "score, nats")
    for id, score in found:
        grid.add_row(id, f"{score:+.2f}")
    return grid


def tensions_table(found: Mapping[str, Any]) -> RenderableType:
    """Which principles decide, which disagree, which look redundant."""
    decided = _table("principle", f"decides, of {found['pairs']} pairs")
    for id, share in found["decided"].items():
        decided.add_row(id, rate(share) + ("  (never)" if id in found["idle"] else ""))
    against = _table("disagree most", "pairs", "agree", "who wins")
    for row in found["between"][:12]:
        if row["pairs_in_opposite_order"]:
            names = " / ".join(row["principles"])
            against.add_row(
                names, str(len(row["pairs_in_opposite_order"])), rate(row["agree"]), row["settled"] or "nobody"
            )
    redundant = [" / ".join(row["principles"]) for row in found["between"] if row["redundant"]]
    said = "Redundant to this judge: " + (", ".join(redundant) or "none") + "."
    return Group(decided, RichText(), against, RichText(), RichText(said))


def difference_json(found: Mapping[str, Any]) -> dict[str, Any]:
    """What `difference_of` found, as JSON values."""
    flips = [
        {**pair._asdict(), "principle": principle, "before": before, "after": after}
        for pair, principle, before, after in found["flips"]
    ]
    return {**found, "flips": flips}


def difference_text(found: Mapping[str, Any]) -> str:
    """The principles that differ, and the pairs whose order flips."""
    what = found["differences"]
    lines = [f"{name}: {', '.join(ids) or 'none'}" for name, ids in what.items()]
    flips: Sequence[Flip] = found["flips"]
    lines.append(f"{len(flips)} of {found['pairs']} pairs change their order, by a principle or by all together.")
    for flip in flips:
        better, worse = (flip.pair.second, flip.pair.first) if flip.after < 0 else (flip.pair.first, flip.pair.second)
        lines += [
            "",
            f"{flip.principle or 'all together'}: {plain_text(flip.pair.prompt)}",
            f"  now better:  {better}",
            f"  was better:  {worse}",
        ]
    return "\n".join(lines)
