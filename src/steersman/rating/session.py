"""A rating round over a run or a file: its questions, its settings, its server, and the export of its votes.

    RUN/rating/  store.sqlite                 questions, raters and votes
                 comparisons.jsonl            training rows aggregated from the votes, by `steersman rate export`
                 demonstrations.jsonl         answers that raters edited
                 raters.json                  agreement, parameters of the raters, gain of active sampling
                 participants.csv             who came by the shared link, for the payment
                 blind-test-raw-aligned.json  the blind test of two models, which the report shows

Questions for training are drawn from a run's prompts: its model answers each several times. Questions of a blind test
put two of a run's answers to the evaluation prompts side by side, without their authors; nothing is trained on them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import Field, ValidationError

from steersman.data.formats import dump, read
from steersman.data.sources import spread
from steersman.errors import DataError, UserError, closest
from steersman.http_server import Address, listen
from steersman.rating.accounts import RaterAccounts, parse_names
from steersman.rating.app import RatingApp, new_token, serve
from steersman.rating.participants import SharedLink, participants_table
from steersman.rating.round import Question, Round, unshowable, unshowable_row
from steersman.rating.store import RatingStore
from steersman.rating.votes import arms, comparisons, demonstrations
from steersman.stats import Estimate
from steersman.store import Run, find_run, read_json, read_jsonl, sha256_file, write_json, write_jsonl, write_text
from steersman.types import Comparison, Demonstration, Prompt, Record
from steersman.yaml_lines import parse

if TYPE_CHECKING:
    from steersman.lm.language_model import LanguageModel
    from steersman.rating.exchange import Form

FOLDER, STORE = "rating", "store.sqlite"
COMPARISONS, DEMONSTRATIONS, RATERS = "comparisons.jsonl", "demonstrations.jsonl", "raters.json"
PARTICIPANTS = "participants.csv"
ANSWER_STAGES = ("raw_answers", "aligned_answers")
# As Prolific fills it in.
PROLIFIC = "&".join(f"{name}={{{{%{name}%}}}}" for name in ("PROLIFIC_PID", "STUDY_ID", "SESSION_ID"))
LoadModel = Callable[[Path], "LanguageModel"]  # the policy of a run


class Source(Record):
    """The origin of a round's questions."""

    compare: tuple[str, str] | None = Field(
        default=None,
        description="Two models of the run for a blind test, such as raw and aligned; null: samples.",
    )
    answers: int = Field(default=4, ge=2, le=9, description="Sampled answers per prompt.")
    prompts: int | None = Field(default=None, ge=1, description="Prompts, evenly over the file; null: all.")
    temperature: float = Field(default=1.0, gt=0, description="Sampling temperature of the answers.")
    max_new_tokens: int = Field(default=160, ge=1, description="Longest sampled answer in tokens.")
    raters: int = Field(default=1, ge=1, description="Different raters per question.")
    gold: str | None = Field(default=None, description="File of comparisons whose order is known; null: none.")


# ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────────
def make_questions(where: Path, source: Source, seed: int, load_model: LoadModel) -> list[Question]:
    """The questions of a run's folder or of a JSON Lines file.

    Raises:
        UserError: there are no questions, or the run has not reached the stage that they need.
    """
    gold = _gold_questions(source)  # before minutes are spent on sampling
    if where.is_dir():
        run = find_run(where)
        questions = _compare(run, source) if source.compare else _sample(run, source, seed, load_model)
    elif source.compare:
        raise UserError("--compare puts the answers of a run side by side", where=str(where), expected="a run's folder")
    else:
        rows = read(where, Comparison, _allow_unordered)
        if alone := sum(len(row.options) == 1 for row in rows):
            raise DataError(
                f"{alone} row(s) have one answer alone", where=str(where), expected="two answers to compare"
            )
        rows = spread(rows, source.prompts)
        questions = [_question(where, row, row.options, gold=row.ranking if row.gold else None) for row in rows]
    return [*(question.model_copy(update={"raters": source.raters}) for question in questions), *gold]


def _allow_unordered(row: Any) -> Any:
    """A row of options without a judgement reads as a comparison without an order."""
    if reason := unshowable_row(row):
        raise DataError(reason)  # with the row's line, which a question has no more
    judgements = ("ranking", "choice", "both_bad", "soft_label", "per_principle")
    unordered = isinstance(row, dict) and "options" in row and not any(row.get(name) for name in judgements)
    return {**row, "both_bad": True} if unordered else row


def _question(where: str | Path, row: Prompt | Comparison, options: Sequence[str], **more: Any) -> Question:
    """A question from a row.

    Raises:
        DataError: it is none that a page can show.
    """
    about = {name: getattr(row, name) for name in ("principles", "topic", "id")}
    try:
        return Question(prompt=row.prompt, options=tuple(options), **about, **more)
    except ValidationError as error:
        raise DataError(
            f"the question {str(row.prompt)[:60]!r} cannot be put to raters: "
            f"{error.errors()[0]['msg'].removeprefix('Value error, ')}",
            where=str(where),
            do="change the row, or leave it out",
        ) from error


def _gold_questions(source: Source) -> list[Question]:
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
    return [_question(source.gold, row, row.options, gold=row.ranks()) for row in rows]


def _answer_files(run: Run) -> list[str]:
    """The files of answers that the run's recipe has; a former recipe may have left others."""
    stages = read_json(run.path / "run.json").get("stages", ANSWER_STAGES)
    files = [f"{stage}/answers.jsonl" for stage in ANSWER_STAGES if stage in stages]
    return [file for file in files if (run.path / file).exists()]


def _compare(run: Run, source: Source) -> list[Question]:
    """Two models' answers to each evaluation prompt, without equal ones and those that no page can show."""
    assert source.compare is not None
    rows = [row for file in _answer_files(run) for row in read_jsonl(run.path / file)]
    known = sorted({row["condition"] for row in rows})
    if not known:
        do = "finish it with `steersman align`; a recipe with answers: null gives none"
        raise UserError("this run has no answers yet", where=str(run.path), do=do)
    for name in source.compare:
        if name not in known:
            raise UserError(f"no answers of {name!r}", where="--compare", do=closest(name, known))
    if source.compare[0] == source.compare[1]:
        raise UserError("a model cannot be compared with itself", where="--compare", expected=" and ".join(known))
    first, second = ({r["index"]: r for r in rows if r["condition"] == name} for name in source.compare)
    prompts = read(run.path / "data" / "evaluation.jsonl", Prompt)
    chosen = spread(sorted(first.keys() & second.keys()), source.prompts)
    both = [(prompts[i], (first[i]["answer"], second[i]["answer"])) for i in chosen]
    questions = [
        _question(run.path, prompt, answers, origins=source.compare)
        for prompt, answers in both
        if answers[0] != answers[1] and not any(unshowable({"answer": text}) for text in answers)
    ]
    _report_left_out(len(chosen) - len(questions))
    return questions


def _sample(run: Run, source: Source, seed: int, load_model: LoadModel) -> list[Question]:
    """The run's model answers its prompts; duplicates and answers that no page can show are left out."""
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
    texts = [row.prompt for row in chosen for _ in range(source.answers)]
    answers: list[list[str]] = [[] for _ in chosen]
    for answer in load_model(run.path).answers(Request(texts, sampling)):
        own = answers[answer.index // source.answers]
        if answer.text not in own and not unshowable({"answer": answer.text}):
            own.append(answer.text)
    questions = [
        _question(run.path, row, sorted(own), origins=("aligned",) * len(own))
        for row, own in zip(chosen, answers, strict=True)
        if len(own) > 1
    ]
    _report_left_out(len(chosen) - len(questions))
    return questions


def _report_left_out(count: int) -> None:
    if count:
        print(f"left out: {count} prompt(s) whose answers are empty, equal or cannot be shown", file=sys.stderr)


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────
R = TypeVar("R", bound=Record)


def given(record: type[R], **options: Any) -> R:
    """A record of the options that are not None; the other fields stay unset, which `begin` respects.

    Raises:
        UserError: an option has a wrong value.
    """
    try:
        return record.model_validate({name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        detail = error.errors()[0]
        name = ".".join(str(part) for part in detail["loc"])
        raise UserError(detail["msg"].lower().removeprefix("value error, "), where=name) from error


def parse_settings(assignments: Sequence[str], record: type[Record] = Round) -> dict[str, Any]:
    """Settings of a round from ``--set``, such as ``gold_share=0.2`` or ``title=Which is kinder?``.

    Raises:
        UserError: no such setting, or not of the form key=value.
    """
    known = [name for name in record.model_fields if name not in ("principles", "source")]
    settings = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in known:
            raise UserError(
                f"no setting {name!r}" if equals else "not of the form key=value",
                where=f"--set {assignment}",
                do=closest(name, known),
            )
        settings[name] = text if record.model_fields[name].annotation is str else parse(text)
    return settings


# ── a round ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def open_store(where: Path, store: str | None, *, new: bool = False) -> RatingStore:
    """The store of a run's round (RUN/rating/store.sqlite), of a file's (beside it), or the one that is named.

    Args:
        new: make it if there is none.

    Raises:
        UserError: there is no such run, file or store.
    """
    from steersman.rating.active import ActiveSampler  # brings torch, which is not needed to refuse wrong settings

    if not where.exists():
        raise UserError("no such run or file", where=str(where), expected="a run's folder, or a .jsonl file")
    place = store or str(_default_store(where))
    if not new and "://" not in place and not Path(place).exists():
        raise UserError("no rating round has begun here", where=place, do=f"steersman rate {where}")
    return RatingStore(place, scorer=ActiveSampler())


def _default_store(where: Path) -> Path:
    return find_run(where).path / FOLDER / STORE if where.is_dir() else where.with_suffix(".rating.sqlite")


def begin(where: Path, source: Source, settings: Round, load_model: LoadModel, store: str | None = None) -> RatingStore:
    """Begin a round, or continue the one that is there. A round that cannot begin leaves no store behind.

    Args:
        source, settings: fields that are unset are the begun round's, or else the defaults.

    Raises:
        UserError: a setting differs from those of a round that has begun, or there are no questions.
    """
    file = None if store and "://" in store else Path(store) if store else _default_store(where)
    made = [path for path in (file, file.parent) if not path.exists()] if file else []
    opened = open_store(where, store, new=True)
    try:
        _begin(opened, where, source, settings, load_model)
    except BaseException:
        opened.database.engine.dispose()
        if file in made:
            for suffix in ("", "-wal", "-shm"):
                file.with_name(file.name + suffix).unlink(missing_ok=True)
        if file and file.parent in made and not any(file.parent.iterdir()):
            file.parent.rmdir()
        raise
    return opened


def _begin(opened: RatingStore, where: Path, source: Source, settings: Round, load_model: LoadModel) -> None:
    changed = settings.model_dump(exclude_unset=True)
    if opened.begun:
        old = opened.round
        source = Source.model_validate({**old.source, **source.model_dump(exclude_unset=True)})
        opened.begin(old.model_copy(update={**changed, "source": source.model_dump(mode="json")}), [])
        return
    principles = _read_principles(where)
    if settings.ask_principles and not principles:
        raise UserError(
            "there are no principles to ask about", where=str(where), expected="a run, with constitution.json"
        )
    if source.compare:
        changed = {"random_share": 1.0, **changed}  # a biased sample of prompts would bias the win rate
    settings = Round.model_validate({"principles": principles, "source": source.model_dump(mode="json"), **changed})
    opened.begin(settings, make_questions(where, source, settings.seed, load_model))


def _read_principles(where: Path) -> dict[str, str]:
    """The statements of a run's constitution, by principle."""
    if not (where / "constitution.json").exists():
        return {}
    return {p["id"]: p["statement"] for p in read_json(where / "constitution.json")["principles"]}


def invitations(accounts: RaterAccounts, names: Sequence[str], *, default: bool = True) -> list[tuple[str, str]]:
    """Invite the new ones of ``NAME`` or ``NAME:GROUP``; returns their names and links' tokens.

    Raters who were invited before are skipped: a new link would invalidate the one that was sent.

    Args:
        default: invite "me" if nobody is named and nobody was before.
    """
    known = {rater.name for rater in accounts.all()}
    parsed = parse_names(names) or [("me", "")][: default and not known]
    return [(name, accounts.invite(name, group)) for name, group in parsed if name not in known]


def serve_round(
    where: Path,
    source: Source,
    settings: Round,
    names: Sequence[str],
    address: Address,
    load_model: LoadModel,
    store: str | None = None,
    shared: SharedLink | None = None,
) -> None:
    """Begin or continue a round, print the new raters' links, and serve until interrupted."""
    import torch

    address.names()  # before minutes are spent on sampling
    parse_names(names)
    shared = shared or SharedLink()
    shared.parsed()
    if not where.exists():
        raise UserError("no such run or file", where=str(where), expected="a run's folder, or a .jsonl file")
    with listen(address) as bound:
        opened = begin(where, source, settings, load_model, store)
        base, token = address.link(bound.getsockname()[1]), new_token()
        torch.set_num_threads(1)  # the fits are small, and threads would take the cores from the requests
        app = RatingApp(opened, token, address.origin, address.prefix, shared)
        invited_before = len(app.accounts.all())
        print(f"{len(opened.questions())} questions in {opened.where.split('@')[-1]}\n")
        for name, invitation in invitations(app.accounts, names, default=not shared.participants):
            print(f"  {name}: {base}/join#{invitation}")
        if invited_before:
            print(f"  joined or invited before: {invited_before}; their links and browsers go on")
        if shared.participants:
            link = f"{base}/study?key={app.participants.key()}"
            print(f"\n  at most {shared.participants} participants: {link}&{PROLIFIC}")
            print(f"  from elsewhere, each under an id of its own: {link}&participant=ID")
        print(f"\n  administration: {base}/admin#{token}\n\nCtrl-C ends; the same command goes on.", flush=True)
        serve(app, address, bound)


# ── votes ────────────────────────────────────────────────────────────────────────────────────────────────────────────
class Votes(NamedTuple):
    """The rows of a round: raw votes with the keys of gold questions, and answers that raters edited."""

    comparisons: list[Comparison]
    demonstrations: list[Demonstration]


def read_round(opened: RatingStore) -> Votes:
    """The votes of a round.

    Raises:
        UserError: no round has begun, or there are no votes.
    """
    _ = opened.round  # raises if none has begun
    votes = opened.votes()
    rows = comparisons(votes)
    if not rows:
        raise UserError("nobody has voted yet", where=opened.where.split("@")[-1], do="steersman rate RUN")
    return Votes(rows, demonstrations(votes))


def training_votes(run: Run, store: str | None) -> Votes:
    """The votes of a run's round, if they may be used for training.

    Raises:
        UserError: there are none, or the round put evaluation prompts to the raters.
    """
    opened = open_store(run.path, store)
    if opened.round.source.get("compare"):
        raise UserError(
            "this round measured two models on the evaluation prompts, and nothing may be trained on those",
            where=str(run.path / FOLDER),
            do="begin another round without --compare, with --store of its own",
        )
    return read_round(opened)


def export(where: Path, out: Path | None = None, store: str | None = None, form: Form | None = None) -> list[str]:
    """Write the votes of a round; returns messages about the files and figures.

    Args:
        out: a folder, RUN/rating or FILE.rating by default; with ``form`` a new .jsonl file.
        form: of `exchange.export_votes`; None writes training rows, demonstrations and the raters' card.

    Raises:
        UserError: no round has begun here, there are no votes, the export would replace another round's files or the
            questions' own file, or the run's answers are no longer those compared.
    """
    from steersman.rating.exchange import export_votes, verdicts

    opened = open_store(where, store)
    votes = read_round(opened)
    if form is not None:
        if out is None:
            raise UserError("a file to write is missing", where="--out", expected="the name of a new .jsonl file")
        return export_votes(votes.comparisons, form, out, votes.demonstrations)
    if out is not None and out.suffix == ".jsonl":
        raise UserError(
            "--out is a file, but this export writes several", where="--out", expected="a folder, or --to with it"
        )
    folder = _export_folder(where, out, store)
    messages = [f"wrote {name} ({count} rows)" for name, count in write_rows(votes, folder).items()]
    messages += [verdicts(read(folder / COMPARISONS, Comparison)), *_write_raters(votes.comparisons, folder / RATERS)]
    if table := participants_table(opened.database):
        write_text(folder / PARTICIPANTS, table)
        (folder / PARTICIPANTS).chmod(0o600)
        messages.append(f"wrote {folder / PARTICIPANTS}: the ids, for the payment; keep it apart from the votes")
    models = opened.round.source.get("compare")
    return messages + (_write_blind_test(opened, find_run(where), (models[0], models[1])) if models else [])


def _export_folder(where: Path, out: Path | None, store: str | None) -> Path:
    """The folder of an export; never one where it would replace another round's or the user's files."""
    default = where / FOLDER if where.is_dir() else where.with_suffix(".rating")
    if out is None and store is not None and Path(store).resolve() != _default_store(where).resolve():
        raise UserError(
            f"{default} is for the round that has no store of its own",
            where=f"--store {store.split('@')[-1]}",  # without the password
            expected="a folder for what this round exports",
            do="name it with --out",
        )
    folder = out or default
    if where.resolve() in ((folder / name).resolve() for name in (COMPARISONS, DEMONSTRATIONS)):
        raise UserError(
            "the export would replace the file that the questions come from",
            where=str(where),
            do="choose another folder for --out",
        )
    return folder


def write_rows(votes: Votes, folder: Path, *, aggregated: bool = True) -> dict[str, int]:
    """Write the training rows; returns the number of rows by file."""
    from steersman.rating.aggregation import aggregate

    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Sequence[Record]] = {
        COMPARISONS: aggregate(votes.comparisons) if aggregated else votes.comparisons,
        DEMONSTRATIONS: votes.demonstrations,
    }
    for name, records in files.items():
        write_jsonl(folder / name, dump(records))
    return {str(folder / name): len(records) for name, records in files.items()}


def _write_raters(rows: Sequence[Comparison], file: Path) -> list[str]:
    """Write the raters' card with the gain of active sampling."""
    from steersman.rating.active import gain
    from steersman.rating.raters import card

    figures, gained = card(rows), gain(rows, arms(rows))
    values = {name: v.json() if isinstance(v, Estimate) else v for name, v in gained._asdict().items()}
    write_json(file, {**figures, "gain": values if gained.known else None})
    alpha = figures["alpha"]
    agreed = f"alpha {Estimate(**alpha).plain()}" if alpha else figures["why_no_alpha"]
    return [f"wrote {file}", f"raters agree: {agreed}", f"informed questions: {gained.text()}"]


def _write_blind_test(opened: RatingStore, run: Run, models: tuple[str, str]) -> list[str]:
    """Write the figures of a blind test for the report; gold and repeated questions measure raters and are left out."""
    from steersman.rating.blind_test import blind_test, in_words

    questions = [question for _, question in opened.questions() if question.origins]
    current = {question.key for question in _compare(run, Source.model_validate(opened.round.source))}
    if gone := sum(question.key not in current for question in questions):
        raise UserError(
            f"{gone} of the {len(questions)} questions compare answers that this run no longer holds",
            where=str(run.path),
            do="begin another round, with --store of its own",
        )
    votes = [vote for vote in opened.votes() if vote.question.origins and vote.arm != "repeat"]
    rows = [(row, vote.question.origins) for vote in votes if (row := vote.comparison()) is not None]
    figures = blind_test([row for row, _ in rows], [origins for _, origins in rows], models)
    inputs = {file: run.path / file for file in _answer_files(run)}
    file = run.path / FOLDER / f"blind-test-{'-'.join(models)}.json"
    file.parent.mkdir(exist_ok=True)
    write_json(file, {**figures, "inputs": {name: sha256_file(path) for name, path in inputs.items()}})
    return [*in_words(figures), f"wrote {file}; `steersman report {run.path}` shows it"]
