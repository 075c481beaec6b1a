"""A rating round over a run: where its questions come from, who is invited, and what becomes of the votes.

    RUN/rating/  store.sqlite          questions, raters and votes
                 comparisons.jsonl     what the votes are weighed into, written by `steersman rate export`
                 demonstrations.jsonl  answers that raters made better
                 raters.json           agreement, how far each rater is believed, what choosing questions brought
                 duel-raw-aligned.json the blind test of two models, which the report shows

Questions that train are drawn from a run's prompts: its model answers each several times. Questions that measure put
two of a run's answers to the evaluation prompts side by side; nobody is told which is whose, and nothing is trained
on what is said of them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from steersman.data.formats import dump, read
from steersman.data.sources import spread
from steersman.errors import DataError, UserError, closest
from steersman.rating.accounts import People, named
from steersman.rating.app import RatingApp, new_token
from steersman.rating.round import Question, Round
from steersman.rating.server import Address, listen, serve
from steersman.rating.store import RatingStore
from steersman.rating.votes import arms, comparisons, demonstrations
from steersman.stats import Estimate
from steersman.store import Run, open_run, read_json, read_jsonl, sha256_file, write_json, write_jsonl, write_text
from steersman.types import Comparison, Demonstration, Prompt, Record
from steersman.yaml_lines import parse

FOLDER, STORE = "rating", "store.sqlite"
COMPARISONS, DEMONSTRATIONS, RATERS = "comparisons.jsonl", "demonstrations.jsonl", "raters.json"
ANSWER_STAGES = ("raw_answers", "aligned_answers")
Form = Literal["votes", "ranked", "trl", "demonstrations"]  # of `exchange.give_out`, which brings torch
REUSED = ("base", "data", "raw_answers", "raw_capability", "sft")  # by a run on the votes, where nothing changed


class Source(Record):
    """What the questions of a round are made of.

    ``compare`` names two conditions of the run's answers, such as raw and aligned. Without it the run's model answers
    ``prompts`` of its prompts, ``answers`` times each. ``raters`` different people see every question.
    """

    compare: tuple[str, str] | None = None
    answers: int = Field(default=4, ge=2, le=9)
    prompts: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=160, ge=1)
    raters: int = Field(default=1, ge=1)
    gold: str | None = None


# ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────────
def questions_of(where: Path, source: Source, seed: int) -> list[Question]:
    """The questions of a run's folder or of a JSON Lines file.

    Raises:
        UserError: there is nothing to ask, or the run has not got so far.
    """
    known = _gold(source)  # before minutes are spent on sampling
    if where.is_dir():
        run = open_run(where)
        found = _compared(run, source) if source.compare else _sampled(run, source, seed)
    elif source.compare:
        raise UserError("--compare puts the answers of a run side by side", where=str(where), expected="a run's folder")
    else:
        found = [_question(row) for row in _limited(read(where, Comparison, _judged), source)]
    found = [question.model_copy(update={"raters": source.raters}) for question in found]
    return [*found, *known]


def _limited(rows: Sequence[Any], source: Source) -> list[Any]:
    return spread(rows, source.prompts)


def _judged(row: Any) -> Any:
    """A row with options that nobody has judged yet reads as a comparison that says nothing of their order."""
    said = ("ranking", "choice", "both_bad", "soft_label", "per_principle")
    unsaid = isinstance(row, dict) and "options" in row and not any(row.get(name) for name in said)
    return {**row, "both_bad": True} if unsaid else row


def _question(row: Comparison) -> Question:
    """The question behind a comparison. What was said of it is known to be right only where it is gold."""
    known = row.ranking if row.gold else None
    return Question(prompt=row.prompt, options=row.options, gold=known, principles=row.principles, topic=row.topic)


def _gold(source: Source) -> list[Question]:
    """Questions with a known answer, one a row of a file of comparisons."""
    if source.gold is None:
        return []
    rows = read(Path(source.gold), Comparison)
    unordered = [row for row in rows if not row.pairs()]
    if unordered:
        raise DataError(
            f"{len(unordered)} row(s) do not say which answer is better, the first has the prompt "
            f"{str(unordered[0].prompt)[:60]!r}",
            where=source.gold,
            expected="comparisons whose order is known to be right",
        )
    return [
        Question(prompt=r.prompt, options=r.options, gold=r.ranks(), principles=r.principles, topic=r.topic)
        for r in rows
    ]


def _compared(run: Run, source: Source) -> list[Question]:
    """Two conditions' answers to each evaluation prompt; where they are the same text there is nothing to ask."""
    assert source.compare is not None
    rows = [row for stage in ANSWER_STAGES for row in read_jsonl(run.path / stage / "answers.jsonl")]
    known = sorted({row["condition"] for row in rows})
    if not known:
        raise UserError("this run has no answers yet", where=str(run.path), do="finish it with `steersman align`")
    for name in source.compare:
        if name not in known:
            raise UserError(f"no answers of {name!r}", where="--compare", do=closest(name, known))
    if source.compare[0] == source.compare[1]:
        raise UserError("a model cannot be compared with itself", where="--compare", expected=" and ".join(known))
    first, second = ({r["index"]: r for r in rows if r["condition"] == name} for name in source.compare)
    asked = read(run.path / "data" / "evaluation.jsonl", Prompt)
    found = [
        Question(
            prompt=asked[i].prompt,
            options=(first[i]["answer"], second[i]["answer"]),
            origins=source.compare,
            principles=asked[i].principles,
            topic=asked[i].topic,
        )
        for i in _limited(sorted(first.keys() & second.keys()), source)
        if _different([first[i]["answer"], second[i]["answer"]])
    ]
    _say_left_out(len(_limited(sorted(first.keys() & second.keys()), source)) - len(found))
    return found


def _sampled(run: Run, source: Source, seed: int) -> list[Question]:
    """The run's model answers its prompts; equal and empty answers are put together and left out."""
    from steersman.lm.sampling import Request, SamplingConfig  # brings torch, which a round over a file does without

    prompts = read(run.path / "data" / "prompts.jsonl", Prompt) if (run.path / "data").is_dir() else []
    if not prompts:
        raise UserError(
            "this run has no prompts to sample answers for",
            where=str(run.path / "data" / "prompts.jsonl"),
            do="add prompts.jsonl to the data set and align again, or give a file of comparisons",
        )
    chosen = spread(prompts, source.prompts)
    sampling = SamplingConfig(temperature=source.temperature, max_new_tokens=source.max_new_tokens, seed=seed)
    model = open_run(run.path).aligned()
    texts = [row.prompt for row in chosen for _ in range(source.answers)]
    answers: list[list[str]] = [[] for _ in chosen]
    for answer in model.answers(Request(texts, sampling)):
        text, mine = answer.text, answers[answer.index // source.answers]
        if text.strip() and text not in mine:
            mine.append(text)
    found = [
        Question(
            prompt=row.prompt,
            options=tuple(sorted(mine)),
            origins=("aligned",) * len(mine),
            principles=row.principles,
            topic=row.topic,
        )
        for row, mine in zip(chosen, answers, strict=True)
        if len(mine) > 1
    ]
    _say_left_out(len(chosen) - len(found))
    return found


def _different(answers: Sequence[str]) -> bool:
    return all(text.strip() for text in answers) and len(set(answers)) == len(answers)


def _say_left_out(count: int) -> None:
    if count:
        print(f"left out: {count} prompt(s) whose answers are empty or all the same", file=sys.stderr)


# ── a round ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def store_of(where: Path, store: str | None) -> RatingStore:
    """The store of a run's round (RUN/rating/store.sqlite), of a file's (beside it), or the one that is named.

    It asks what is expected to tell most, beside a random arm.
    """
    from steersman.rating.active import Informed  # brings torch, which wrong settings are refused without

    if not where.exists():
        raise UserError("no such run or file", where=str(where), expected="a run's folder, or a .jsonl file")
    if store is None:
        store = str(_own_store(where))
    return RatingStore(store, scorer=Informed())


def _own_store(where: Path) -> Path:
    return open_run(where).path / FOLDER / STORE if where.is_dir() else where.with_suffix(".rating.sqlite")


def begin(where: Path, given: Mapping[str, Any], store: str | None = None) -> RatingStore:
    """Begin a round with these settings, or go on with the one that is there.

    Args:
        given: what was said of `Source` and `Round`; the rest is the round's own, or else the default.

    Raises:
        UserError: a setting is wrong, differs from those of a round that has begun, or there is nothing to ask.
    """
    opened = store_of(where, store)
    told = {name: value for name, value in given.items() if value is not None}
    of_source = {name: told.pop(name) for name in list(told) if name in Source.model_fields}
    try:
        if opened.begun:
            old = opened.round
            source = Source.model_validate({**old.source, **of_source})
            opened.begin(old.model_copy(update={**told, "source": source.model_dump(mode="json")}), [])
            return opened
        source = Source.model_validate(of_source)
        principles = _principles(where)
        if source.compare:
            told = {"random_share": 1.0, **told}  # what tells most is no fair sample of what is measured
        settings = Round.model_validate({"principles": principles, "source": source.model_dump(mode="json"), **told})
    except ValidationError as error:
        detail = error.errors()[0]
        name = ".".join(str(part) for part in detail["loc"])
        raise UserError(detail["msg"].lower().removeprefix("value error, "), where=name) from error
    if settings.ask_principles and not principles:
        raise UserError(
            "there are no principles to ask about", where=str(where), expected="a run, with constitution.json"
        )
    opened.begin(settings, questions_of(where, source, settings.seed))
    return opened


def settings_of(words: Sequence[str]) -> dict[str, Any]:
    """What ``--set`` says of a `Round`: words such as ``gold_share=0.2`` or ``title=Which is kinder?``.

    Raises:
        UserError: no such setting, or not of the form key=value.
    """
    known = [name for name in Round.model_fields if name not in ("principles", "source")]
    found = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in known:
            raise UserError(
                f"no setting {name!r}" if equals else "not of the form key=value",
                where=f"--set {word}",
                do=closest(name, known),
            )
        found[name] = text if Round.model_fields[name].annotation is str else parse(text)
    return found


def _principles(where: Path) -> dict[str, str]:
    """What a run's constitution says, by principle."""
    if not (where / "constitution.json").exists():
        return {}
    return {p["id"]: p["statement"] for p in read_json(where / "constitution.json")["principles"]}


def invitations(people: People, names: Sequence[str]) -> list[tuple[str, str]]:
    """The name and the link's token of everyone who is new; ``name:group`` is both. You, if nobody was ever invited.

    Who was invited before is passed over: a new link would end the one that was sent.
    """
    known = {rater.name for rater in people.all()}
    told = named(names) or [("me", "")][: not known]
    return [(name, people.invite(name, group)) for name, group in told if name not in known]


def rate(where: Path, given: Mapping[str, Any], names: Sequence[str], address: Address, store: str | None) -> None:
    """Begin or go on with a round, print the new raters' links, and serve until interrupted."""
    import torch

    address.names()  # before minutes are spent on sampling
    named(names)
    opened = begin(where, given, store)
    bound = listen(address)
    base, token = address.link(bound.getsockname()[1]), new_token()
    torch.set_num_threads(1)  # believing raters is quick, and many threads for it would keep people waiting
    if opened.scoring and opened.round.random_share < 1:
        opened.scoring.move_apart()
    app = RatingApp(opened, token, address.origin)
    before = len(app.people.all())
    print(f"{len(opened.questions())} questions in {opened.where.split('@')[-1]}\n")
    for name, invitation in invitations(app.people, names):
        print(f"  {name}: {base}/join#{invitation}")
    if before:
        print(f"  invited before: {before}; their links and browsers go on (a new link: administration)")
    print(f"\n  administration: {base}/admin#{token}\n\nCtrl-C ends; the same command goes on.", flush=True)
    serve(app, address, bound)


# ── votes ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def export(where: Path, out: Path | None = None, store: str | None = None, form: Form | None = None) -> list[str]:
    """Write what was said, and say what it comes to.

    Args:
        out: a folder, RUN/rating or FILE.rating unless given; with ``form`` a new .jsonl file.
        form: of `exchange.give_out`: votes, ranked, trl or demonstrations.

    Raises:
        UserError: no round has begun here, nobody has voted, what would be written replaces another round's files or
            the questions' own file, or the run's answers are no longer those compared.
    """
    from steersman.rating.exchange import give_out

    opened = store_of(where, store)
    rows, edits = _said(opened)
    if form is not None:
        if out is None:
            raise UserError("a file to write is missing", where="--out", expected="the name of a new .jsonl file")
        return give_out(rows, form, out, edits)
    if out is not None and out.suffix == ".jsonl":
        raise UserError("this is a file, and several are written", where="--out", expected="a folder, or --to with it")
    target = _target(where, out, store)
    told = [f"wrote {name} ({count} rows)" for name, count in _write_rows(rows, edits, target).items()]
    told += _write_raters(rows, target / RATERS)
    pair = opened.round.source.get("compare")
    return told + (_write_duel(opened, open_run(where), (pair[0], pair[1])) if pair else [])


def _target(where: Path, out: Path | None, store: str | None) -> Path:
    """The folder of an export; never one in which it would replace what another round or the user wrote."""
    own = where / FOLDER if where.is_dir() else where.with_suffix(".rating")
    if out is None and store is not None and Path(store).resolve() != _own_store(where).resolve():
        raise UserError(
            f"{own} is for the round that has no store of its own",
            where=f"--store {store.split('@')[-1]}",  # without the password
            expected="a folder for what this round exports",
            do="name it with --out",
        )
    target = out or own
    if where.resolve() in ((target / name).resolve() for name in (COMPARISONS, DEMONSTRATIONS)):
        raise UserError(
            "the export would replace the file that the questions come from",
            where=str(where),
            do="choose another folder for --out",
        )
    return target


def _said(opened: RatingStore) -> tuple[list[Comparison], list[Demonstration]]:
    _ = opened.round  # one has begun
    votes = opened.votes()
    rows = comparisons(votes)
    if not rows:
        raise UserError("nobody has voted yet", where=opened.where.split("@")[-1], do="steersman rate RUN")
    return rows, demonstrations(votes)


def _write_rows(
    rows: Sequence[Comparison], edits: Sequence[Demonstration], target: Path, *, weighed: bool = True
) -> dict[str, int]:
    """The rows to train on, and how many each file has."""
    from steersman.rating.raters import weigh

    target.mkdir(parents=True, exist_ok=True)
    files: dict[str, Sequence[Record]] = {
        COMPARISONS: weigh(rows) if weighed else rows,
        DEMONSTRATIONS: edits,
    }
    for name, records in files.items():
        write_jsonl(target / name, dump(records))
    return {str(target / name): len(records) for name, records in files.items()}


def _write_raters(rows: Sequence[Comparison], file: Path) -> list[str]:
    """What is known of the raters, and what choosing their questions has brought."""
    from steersman.rating.active import gain
    from steersman.rating.raters import card

    about, found = card(rows), gain(rows, arms(rows))
    values = {name: v._asdict() if isinstance(v, Estimate) else v for name, v in found._asdict().items()}
    write_json(file, {**about, "gain": values if found.known else None})
    alpha = about["alpha"]
    agreed = f"alpha {Estimate(**alpha).plain()}" if alpha else about["why_no_alpha"]
    return [f"wrote {file}", f"raters agree: {agreed}", f"informed questions: {found.told()}"]


def _write_duel(opened: RatingStore, run: Run, models: tuple[str, str]) -> list[str]:
    """The figures of a blind test, for the report; gold questions and repeated ones measure raters and no model."""
    from steersman.rating.blind_test import duel

    asked = [question for _, question in opened.questions() if question.origins]
    held = {question.key for question in _compared(run, Source.model_validate(opened.round.source))}
    if gone := sum(question.key not in held for question in asked):
        raise UserError(
            f"{gone} of the {len(asked)} questions compare answers that this run no longer holds",
            where=str(run.path),
            do="begin another round, with --store of its own",
        )
    plain = [vote for vote in opened.votes() if vote.question.origins and vote.arm != "repeat"]
    votes = [(row, vote.question.origins) for vote in plain if (row := vote.comparison()) is not None]
    found = duel([row for row, _ in votes], [origins for _, origins in votes], models)
    inputs = {f"{stage}/answers.jsonl": run.path / stage / "answers.jsonl" for stage in ANSWER_STAGES}
    file = run.path / FOLDER / f"duel-{'-'.join(models)}.json"
    file.parent.mkdir(exist_ok=True)
    write_json(file, {**found, "inputs": {name: sha256_file(path) for name, path in inputs.items()}})
    return [*_duel_told(found), f"wrote {file}; `steersman report {run.path}` shows it"]


def _duel_told(found: Mapping[str, Any]) -> list[str]:
    first, second = found["models"]
    if found["win_rate"] is None:
        return [f"{first} against {second}: no vote orders their answers yet"]
    needed = found["votes_needed"]
    decide = "no number" if needed["to_decide"] is None else needed["to_decide"]
    rate = Estimate(**found["win_rate"]).percent()
    return [
        f"{first} wins against {second}: {rate} votes (wins {found['wins']}, ties {found['ties']}, "
        f"losses {found['losses']}); {found['prompts']} prompts, {found['raters']} raters",
        f"better: {found['decided'] or 'not decided'}; votes still needed: {decide} to decide if the rate stays, "
        f"{needed['for_margin']} for +-{100 * needed['margin']:.0f} points",
    ]


def train(
    where: Path,
    settings: Sequence[str] = (),
    out: Path | None = None,
    store: str | None = None,
    until: Literal["reward_model", "reward_card"] = "reward_card",
    votes: Path | None = None,
) -> Run:
    """Train the reward model of a run's recipe on its own comparisons and the votes, and write its card.

    A new run, ``RUN-votes``; what the votes do not change is taken over from the old one. Votes are weighed before,
    unless the reward model learns by itself how far to believe each rater (``rater_reliability``).

    Args:
        votes: a file of another tool's, instead of those of the run's round.

    Raises:
        UserError: there are no votes, or the round put evaluation prompts to the raters.
    """
    from steersman import pipeline
    from steersman.recipe import load_recipe

    run = open_run(where)
    rows, edits = (_taken_in(votes), []) if votes else _of_round(run, store)
    target = out or run.path.with_name(f"{run.path.name}-votes")
    target.mkdir(parents=True, exist_ok=True)
    recipe = yaml.safe_load((run.path / "recipe.yaml").read_text(encoding="utf-8"))
    recipe |= {"name": f"{recipe['name']}-votes", "votes": str((target / COMPARISONS).absolute())}
    recipe["reward_model"] = recipe["reward_model"] or {}
    recipe["examples"]["held_out_comparisons"] = recipe["examples"]["held_out_comparisons"] or 0.15
    # Neither changes a reward model, and both would be trained again on the votes before it.
    recipe |= {"dpo": None, "rl": None, "cost_model": None}
    write_text(target / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False))
    chosen = load_recipe(target / "recipe.yaml", settings)
    trusting = chosen.reward_model is not None and chosen.reward_model.rater_reliability
    _write_rows(rows, edits, target, weighed=not trusting)
    for stage in REUSED:
        if (run.path / stage).is_dir() and not (target / stage).exists():
            shutil.copytree(run.path / stage, target / stage)
    return pipeline.align(chosen, target, until=until)


def _of_round(run: Run, store: str | None) -> tuple[list[Comparison], list[Demonstration]]:
    """What was said in a run's round, if it may be trained on."""
    opened = store_of(run.path, store)
    if opened.round.source.get("compare"):
        raise UserError(
            "this round measured two models on the evaluation prompts, and nothing may be trained on those",
            where=str(run.path / FOLDER),
            do="begin another round without --compare, with --store of its own",
        )
    return _said(opened)


def _taken_in(file: Path) -> list[Comparison]:
    """Another tool's votes; what became of its rows is said on stderr."""
    from steersman.rating.exchange import take_in

    found = take_in(file)
    for line in found.said:
        print(line, file=sys.stderr)
    return found.votes
