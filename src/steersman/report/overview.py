"""The parts of the report that every run has, as blocks: summary, questions, principles, cost, provenance, limits.

Each is a function of `evidence.overview_data`'s value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from steersman.evals.conditions import ALIGNED, CONDITIONS, FEW_SHOT, RAW, baselines, subject
from steersman.report import verdict
from steersman.report.blocks import (
    Answer,
    Block,
    Bullets,
    Cell,
    Code,
    Details,
    Difference,
    Dots,
    Exchange,
    Facts,
    Inline,
    Json,
    Label,
    Number,
    Page,
    Paragraph,
    Rate,
    Section,
    Strong,
    Table,
    paragraph,
)
from steersman.report.format import FEW, minutes, number, p_value, percent, phrase, rate, short

Data = Mapping[str, Any]
NAMES = {name: phrase(name) for name in CONDITIONS}
OVER_REFUSAL = "over-refusal"  # the label in scores/summary.json
NOT_ATTACKED = "Nobody attacked it. No adversarial prompts, no jailbreaks, no long conversations were tried."
LIMITS = (
    "Held out by topic at best, not by author. The same people wrote the evaluation prompts and the training data; the "
    "shipped sets differ in topic only. Other people’s questions will be answered less well.",
    "Detectors err. Behaviours are found by patterns, not by understanding, and a detector reads what an answer says, "
    "not whether it is true. Their accuracy is stated in docs/behaviours.md.",
    "One answer for each question. Sampled again, at another temperature or with another seed, both models give other "
    "answers, and worse ones among them.",
    "A low rate is not absence. Failures that were not seen in so few prompts can still occur.",
    "Mostly English. Other languages are a small share of the prompts; nothing is claimed about them.",
)


def page(data: Data, stages: Sequence[Section]) -> Page:
    """The whole report: the evaluation, the sections of the stages in the order given, provenance and limits."""
    groups = [
        Section(id=part, title=title, blocks=own)
        for part, title in (("training", "Training"), ("examination", "Examinations"))
        if (own := tuple(stage for stage in stages if stage.part == part))
    ]
    evaluation = (questions(data), principles(data)) if data["overall"] else ()
    measured = (cost(data), *groups)
    parts = (*evaluation, *(measured if evaluation else measured[::-1]), provenance(data, stages))
    return Page(
        title=data["title"],
        facts=facts(data),
        summary=summary(data),
        sections=(*parts, limits((*parts, *stages), bool(evaluation), bool(data.get("attacks")))),
        version=str(data["provenance"]["steersman"]),
    )


# ── 1. the summary ───────────────────────────────────────────────────────────────────────────────────────────────────
def summary(data: Data) -> tuple[Paragraph | Table, ...]:
    """The verdict in sentences with numbers, the headline figures, and what was left out."""
    found = verdict.verdict_of(data)
    titles = {row["principle"]: row["title"] for row in data["principles"]}
    table, principles, left_out = verdict.headline(found), verdict.by_principle(found, titles), data.get("left_out", ())
    unjudged = bool(data["overall"]) and not data["overall"][0]["n"]
    no_rate = "No held-out prompt says what a good answer shows, so there is no pass rate to report."
    missing = [verdict.KINDS[label].name.lower() for label in _unmeasured(data, found["missing"])]
    notes = (
        *([no_rate] if unjudged else []),
        *left_out,
        *([f"Not measured: {', '.join(missing)}."] if missing else []),
    )
    return (
        *verdict.sentences_of(found),
        *([table] if table else []),
        *([paragraph(principles)] if principles else []),
        *attacked(data, titles),
        *([paragraph(" ".join(notes))] if notes else []),
        *([paragraph(found["rule"], style="note")] if found["rule"] else []),
    )


def attacked(data: Data, titles: Data) -> tuple[Paragraph, ...]:
    """What an attacker gets who tries everything, against which principle; nothing for a run that was not attacked."""
    found = data.get("attacks")
    if not found:
        return ()
    name, own = list(found["targets"].items())[-1]
    reached = sorted(own["principles"].items(), key=lambda pair: -pair[1]["reached"])
    where = [f"{titles.get(p, p)} {c['reached']} of {c['goals']}" for p, c in reached if c["reached"]]
    raw = own["overall"].get("raw")
    seen = f" ({percent(raw['value'])} as the judge saw it)" if raw else ""
    text = (
        f": of {own['overall']['n']} attempts on {_target(name)}, {rate(own['overall'])} succeed{seen}. Whoever tries "
        f"all {own['attacks']} attacks, at most {own['asks']} asks a goal, reaches {own['reached']} of {own['goals']} "
        "goals by the judge’s count"
    )
    alarms = own.get("by_false_alarms")  # with so many asks a judge that errs counts most goals, whatever was said
    text += "" if alarms is None else f", of which its false alarms alone would make about {alarms:.0f}"
    first, base = next(iter(found["targets"].items()))
    before = f" ({_target(first)}: {base['reached']} of {base['goals']})" if first != name else ""
    text += f": {'; '.join(where)}" if where else ""
    return (paragraph(Strong(text="Attacked"), f"{text}{before}.", style="verdict"),)


def _target(name: str) -> str:
    """A target of attacks in a sentence."""
    model, _, guard = name.partition("+")
    known = {RAW: "the raw model", ALIGNED: "the aligned model"}.get(model, model)
    return f"{known} behind its guard" if guard else known


def _unmeasured(data: Data, missing: Sequence[str]) -> list[str]:
    """Of the missing measures, those that no other note explains: no prompt of the run was of their kind."""
    asked = {row["label"] for row in data["overall"] if row["label"] != "pass rate"}
    return [label for label in missing if label in asked]


def glance(data: Data) -> tuple[Block, ...]:
    """What a notebook shows of a run: facts and summary."""
    return facts(data), *summary(data)


def facts(data: Data) -> Facts:
    """Model, constitution and date, under the title."""
    c = data["constitution"]
    items = {
        "Model": data["model"]["name"],
        "Constitution": f"{c['title']}, version {c['version']}, published by {c['publisher']}"
        if c["name"] != "none"
        else "none",
        "Run": f"{data['run']}, {(data['started'] or 'date unknown')[:10]}",
    }
    return Facts(items=tuple((name, (str(value),)) for name, value in items.items()))


# ── 2. prompts and answers ───────────────────────────────────────────────────────────────────────────────────────────
def questions(data: Data) -> Section:
    """Featured questions, one by rule for each principle, and failures."""
    temperature = data["sampling"]["temperature"]
    how = f"sampled at temperature {temperature:g}" if temperature else "greedy: always the most likely token"
    blocks: list[Block] = [
        paragraph(
            f"Each model answered on its own; decoding was {how}. Below an answer stands what its prompt calls for and "
            "whether the detectors found it. An answer passes when all of it was found."
        ),
        *(_exchange(pair) for pair in data["featured"]),
    ]
    if data["featured_not_asked"]:
        names = "; ".join(f"“{question}”" for question in data["featured_not_asked"])
        blocks.append(paragraph(f"Featured, but not among this run’s evaluation prompts: {names}", style="note"))
    examples = data["examples"]
    first: list[Block] = [paragraph(f"Chosen by a rule, not by result: {examples['rule']}.")]
    first += [_exchange(pair, open=i < 2) for i, pair in enumerate(examples["pairs"])]
    return Section(
        id="questions",
        title="The same questions, raw and aligned" if _names(data) >= {RAW, ALIGNED} else "Questions and answers",
        blocks=(
            *blocks,
            Section(id="examples", title="One question for each principle", blocks=tuple(first)),
            _failures(data["failures"], "aligned model" if ALIGNED in _names(data) else "model"),
        ),
    )


def _names(data: Data) -> set[str]:
    """The conditions under which prompts were answered."""
    return set(data["overall"][0]["rates"])


def _failures(failures: Data, model: str) -> Section:
    total, shown, judged = failures["total"], failures["shown"], failures["judged"]
    if not shown:
        text = f"On none of the {judged} judged prompts. That is not the same as never."
    else:
        some = f"{len(shown)} of them, taken from each principle in turn; all are in scores/scores.jsonl"
        text = f"On {total} of {judged} judged prompts. Below: {'all of them' if len(shown) == total else some}."
    return Section(
        id="failures",
        title=f"Where the {model} still fails" if model != "model" else "Where the model fails",
        blocks=(paragraph(text), *(_exchange(pair, open=False) for pair in shown)),
    )


def _exchange(pair: Data, open: bool | None = None) -> Exchange:
    """A prompt with raw and aligned side by side; raw few-shot folded away."""
    languages = [tag.removeprefix("lang:") for tag in pair["tags"] if tag.startswith("lang:")]
    return Exchange(
        prompt=pair["prompt"],
        answers=tuple(
            _answer(name, pair["answers"][name], name == subject(pair["answers"]))
            for name in CONDITIONS
            if name in pair["answers"]
        ),
        title=pair["principle_title"],
        language=languages[0] if languages else "",
        open=open,
    )


def _answer(condition: str, answer: Data, strong: bool) -> Answer:
    return Answer(
        name=NAMES[condition],
        text=answer["answer"],
        verdict={True: "pass", False: "fail", None: "not judged"}[answer["kept"]],  # type: ignore[arg-type]
        checks={phrase(behaviour): found for behaviour, found in answer["behaviours"].items()},
        warning="" if answer["ended"] else f"cut after {answer['tokens']} tokens: it did not end by itself",
        strong=strong,
        folded=condition == FEW_SHOT,
    )


# ── 3. principles ────────────────────────────────────────────────────────────────────────────────────────────────────
def principles(data: Data) -> Section:
    """Pass rates before and after: overall, by principle, by behaviour; and what people preferred."""
    names = _names(data)
    versus = baselines(names)[:1]
    compared = "The difference is {} minus {} on the same prompts, in percentage points, with Newcombe’s paired "
    compared += "interval; p is McNemar’s exact test, not corrected for the number of rows."
    meanings = Facts(items=tuple((phrase(name), (text,)) for name, text in data["behaviour_meanings"].items()))
    principles, measured = data["principles"], [row for row in data["overall"] if row["n"]]
    counts = [row["n"] for row in principles if row["n"]]
    small = f" Here a principle has {min(counts)} to {max(counts)} prompts." if counts else ""
    large = [row for row in principles if row["n"] >= FEW]
    by_principle = _rates("By principle", "Principle", large, map(_titled, large), data.get("pooled"))

    def overall(row: Data) -> Label:
        note = "harmless prompts refused; lower is better" if row["label"] == OVER_REFUSAL else ""
        return Label(text=phrase(row["label"]).capitalize(), note=note)

    def behaviour(row: Data) -> Label:
        return Label(text=phrase(row["behaviour"]), note=row["title"])

    by_behaviour = _rates(
        "By behaviour", "Behaviour and principle", data["behaviours"], map(behaviour, data["behaviours"])
    )
    return Section(
        id="principles",
        title="Principles before and after" if names >= {RAW, ALIGNED} else "Principles",
        blocks=(
            paragraph(
                "Pass rate: how often the answer shows everything that the prompt calls for. Rates carry Wilson 95 % "
                "intervals. "
                + "".join(compared.format(*(NAMES[name].lower() for name in (subject(names), base))) for base in versus)
            ),
            _rates("Overall", "All prompts", measured, map(overall, measured)),
            *([by_principle] if by_principle.rows else []),
            *_few(principles),
            *([Details(title="Behaviour by behaviour", blocks=(meanings, by_behaviour))] if principles else []),
            *blind_tests(data["duels"]),
        ),
        limits=(
            f"Few prompts, wide intervals.{small} Read the interval before the rate, and expect a p-value below 0.05 "
            "now and then by chance alone when there are many rows.",
        ),
    )


def _titled(row: Data) -> Label:
    return Label(text=row["title"], note=f"{row['principle']} · severity {row['severity']}")


def pooled_name(pooled: Data) -> str:
    """The heading of the row that stands for all principles of few prompts."""
    many = pooled["principles"]
    return f"{many} principle{'s' * (many > 1)} with fewer than {FEW} prompts{', pooled' * (many > 1)}"


def _few(rows: Sequence[Data]) -> tuple[Block, ...]:
    """The principles of few prompts, folded, with counts in place of rates."""
    few = [row for row in rows if row["n"] < FEW]
    if not few:
        return ()
    names = few[0]["rates"]
    cells: tuple[tuple[Cell, ...], ...] = tuple(
        (_titled(row), *(Rate.of(row["rates"][name]) for name in names)) for row in few
    )
    caption = f"Answers that passed, of principles with fewer than {FEW} prompts"
    table = Table(caption=caption, columns=("Principle", *map(NAMES.__getitem__, names)), rows=cells)
    return (Details(title=f"Principles with fewer than {FEW} prompts: {len(few)}", blocks=(table,)),)


def _rates(
    caption: str, first: str, rows: Sequence[Data], headings: Iterable[Label], pooled: Data | None = None
) -> Table:
    cells = [_rate_row(heading, row) for heading, row in zip(headings, rows, strict=True)]
    if pooled:
        cells.append(_rate_row(Label(text=pooled_name(pooled)), pooled))
    names = (rows[0] if rows else pooled or {"rates": {}})["rates"]
    versus = [f"{NAMES[subject(names)]} − {NAMES[base].lower()}" for base in baselines(names)[:1]]
    columns = (first, "Chart", *map(NAMES.__getitem__, names), *versus, *(["p"] if versus else []), "n")
    return Table(caption=caption, columns=columns, rows=tuple(cells))


def _rate_row(heading: Label, row: Data) -> tuple[Cell, ...]:
    """A row of rates; of few prompts, counts without a chart, a difference and a p-value."""
    own, few = subject(row["rates"]), row["n"] < FEW
    rates = {NAMES[name]: Rate.of(found, strong=name == own) for name, found in row["rates"].items()}
    versus: list[Cell] = []
    for base in baselines(row["rates"])[:1]:
        found = row[f"versus_{base}"]
        versus = [None, None] if few else [Difference.of(found), p_value(found["p_exact"])]
    return heading, Dots(rates={} if few else rates), *rates.values(), *versus, row["n"]


def blind_tests(duels: Sequence[Data]) -> tuple[Section, ...]:
    """Win rates by human raters and the votes still needed; nothing for a run that nobody has rated."""
    if not duels:
        return ()
    rows = tuple(_duel(duel) for duel in duels if duel["current"] and duel["win_rate"])
    columns = (
        "Models",
        "Win rate of the first",
        "Wins, ties, losses",
        "Prompts",
        "Raters",
        "Better",
        "Votes still needed",
    )
    text = (
        "Raters saw two answers to an evaluation prompt, blind and in random order. A tie is half a win; prompts with "
        "equal answers were left out. Intervals are clustered by prompt and by rater."
    )
    blocks: tuple[Block, ...] = (paragraph(text),)
    if rows:
        blocks += (Table(caption="Blind tests", columns=columns, rows=rows),)
    notes = tuple(paragraph(note, style="note") for note in map(_note, duels) if note)
    return (Section(id="blind-tests", title="Human preference", blocks=blocks + notes),)


def _duel(duel: Data) -> tuple[Cell, ...]:
    needed = duel["votes_needed"]
    decide = "" if needed["to_decide"] is None else f"{number(needed['to_decide'], 0)} to decide, "
    return (
        _models(duel),
        Rate.of(duel["win_rate"], strong=True),
        f"{duel['wins']}, {duel['ties']}, {duel['losses']}",
        duel["prompts"],
        duel["raters"],
        phrase(duel["decided"]) if duel["decided"] else "not decided",
        f"{decide}{number(needed['for_margin'], 0)} for ±{100 * needed['margin']:.0f} points",
    )


def _models(duel: Data) -> str:
    return " against ".join(map(phrase, duel["models"]))


def _note(duel: Data) -> str:
    if not duel["current"]:
        return f"{_models(duel)}: a blind test of answers that this run no longer holds is left out."
    if not duel["win_rate"]:
        return f"{_models(duel)}: no vote orders their answers yet."
    both_bad = duel["both_bad"]
    return f"{_models(duel)}: of both answers, {both_bad} votes said that neither is acceptable." if both_bad else ""


# ── 4. cost ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def cost(data: Data) -> Section:
    """Alignment tax: knowledge, perplexity and length, as far as measured; minutes and memory."""
    measured = data["cost"]
    names = [
        name for name in (RAW, ALIGNED) if name in {**measured.get("knowledge", {}), **measured["mean_answer_tokens"]}
    ]
    compared = len(names) > 1
    columns = ("Measure", *map(NAMES.__getitem__, names), *(["Change", "p"] if compared else []))
    rows = tuple(row[: len(columns)] for row in _tax_rows(measured, names))
    stages: list[tuple[Cell, ...]] = [
        (phrase(s["stage"]), minutes(s["seconds"]), Number(value=s["peak_mb"], digits=0)) for s in data["stages"]
    ]
    stages.append(("All stages", minutes(sum(s["seconds"] for s in data["stages"])), None))
    blocks: list[Block] = []
    if rows:
        words = "What the model knows apart from behaviour, scored by log-probability."
        blocks.append(paragraph(words + (" Changes of rates in points." if compared else "")))
        blocks.append(Table(caption="Before and after" if compared else "Measured", columns=columns, rows=rows))
    blocks.append(
        Table(caption="Time and memory", columns=("Stage", "Minutes", "Peak memory so far, MiB"), rows=tuple(stages))
    )
    note = "Peak memory is the high-water mark of the process up to the end of the stage."
    narrow = (
        "Alignment tax is measured narrowly. A few knowledge items and some neutral text do not cover reasoning, "
        "code, or whatever you need the model for."
    )
    return Section(
        id="cost",
        title="Alignment tax" if compared else "Knowledge and cost" if rows else "Cost",
        blocks=(*blocks, paragraph(note, style="note")),
        limits=(narrow,) if "knowledge" in measured else (),
    )


def _tax_rows(measured: Data, names: Sequence[str]) -> Iterator[tuple[Cell, ...]]:
    """The heading, the value under each condition, the change and its p-value."""
    if "knowledge" in measured:
        knowledge, perplexity = measured["knowledge"], measured["perplexity"]
        items = knowledge[names[0]]["n"]
        changes: list[tuple[Cell, Cell]] = []
        if len(names) > 1:
            ratio = Number.of(perplexity["ratio"], digits=3, factor=True)
            changes = [(Difference.of(knowledge["difference"]), p_value(knowledge["p_exact"])), (ratio, None)]
        known, neutral = changes or ((), ())
        yield (
            Label(text="General knowledge", note=f"{items} items, accuracy; higher is better"),
            *(Rate.of(knowledge[name]) for name in names),
            *known,
        )
        yield (
            Label(text="Perplexity on neutral text", note=f"{number(perplexity['tokens'], 0)} tokens; lower is better"),
            *(Number(value=perplexity[name], digits=2) for name in names),
            *neutral,
        )
    if lengths := measured["mean_answer_tokens"]:
        few_shot = f"; few-shot {number(lengths[FEW_SHOT])}" if FEW_SHOT in lengths else ""
        yield (
            Label(text="Mean answer length", note=f"tokens{few_shot}"),
            *(Number(value=lengths.get(name)) for name in names),
            None,
            None,
        )


# ── 5. provenance and limits ─────────────────────────────────────────────────────────────────────────────────────────
def provenance(data: Data, stages: Sequence[Section]) -> Section:
    """For each table, its files; then everything needed to repeat the run."""
    p, c, keys = data["provenance"], data["constitution"], {s["stage"]: short(s["key"]) for s in data["stages"]}
    answered = [
        ("Questions, answers, failures", "scores", "scores/scores.jsonl, from answers.jsonl of the answer stages"),
        ("Principles, behaviours, overall", "scores", "scores/summary.json, from scores/scores.jsonl"),
    ]
    known = [("Knowledge and perplexity", "scores", "scores/summary.json, from capability.jsonl of its stages")]
    origins = [
        *(answered if data["overall"] else []),
        *(known if "knowledge" in data["cost"] else []),
        *((s.title, s.id, f"{s.id}/ and its lines of events.jsonl") for s in stages),
        ("Time and memory", "", "manifest.json in each stage’s folder"),
    ]
    rows = tuple((name, file, Code(text=keys[stage]) if stage in keys else None) for name, stage, file in origins)

    def listed(values: Data, sign: str = " ") -> tuple[str]:
        return (", ".join(f"{name}{sign}{value}" for name, value in values.items()),)

    identity: dict[str, tuple[Inline, ...]] = {
        "Model": (f"{data['model']['name']}, sha256 ", Code(text=str(data["model"]["digest"]))),
        "Constitution": (f"{c['name']} {c['version']}, sha256 ", Code(text=c["digest"])),
        "Data": (", ".join(f"{count} {name}" for name, count in data["counts"].items()),),
        "Steersman": (f"{p['steersman']}, revision {p['git'] or 'unknown'}",),
        "Packages": listed(p["packages"]),
        "Machine": listed(p["machine"]),
        "Seeds": listed(p["seeds"], " = "),
        "Started": (data["started"] or "unknown",),
        "To repeat it": (Code(text=p["command"]),),
    }
    manifest = ("version", "key", "config", "inputs", "outputs")
    manifests = (Json(title=s["stage"], value={name: s[name] for name in manifest}) for s in data["stages"])
    return Section(
        id="provenance",
        title="Where every number comes from",
        blocks=(
            Table(
                caption="Tables and their files", columns=("Shown", "File in the run", "Key of its stage"), rows=rows
            ),
            Facts(items=tuple(identity.items())),
            Details(title="Settings: the whole recipe", blocks=(Json(title="Recipe as JSON", value=p["recipe"]),)),
            Details(title="Stages: settings, inputs and outputs with their digests", blocks=tuple(manifests)),
        ),
    )


def limits(sections: Sequence[Section], answered: bool, attacked: bool = False) -> Section:
    """What a reader must not conclude: the limits of all sections, and those of every run that has answers."""
    own = (*LIMITS, *(() if attacked else (NOT_ATTACKED,))) if answered else ()
    items = (*own, *(limit for section in sections for limit in section.limits))
    return Section(id="limits", title="What this does not show", blocks=(Bullets(items=items),))
