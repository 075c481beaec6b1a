"""The sections of the page, each a function of `report_data`'s value. All text that is not ours goes through `html`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from steersman.evals.conditions import ALIGNED, CONDITIONS, FEW_SHOT, RAW
from steersman.report import charts, human, learning, pieces
from steersman.report.pieces import TRUE_MINUS
from steersman.report.wording import (
    NO_DATA,
    bounds,
    html,
    minutes,
    number,
    p_value,
    percent,
    phrase,
    points,
    rate,
    ratio,
    short,
)

Data = Mapping[str, Any]
NAMES = {RAW: "Raw", FEW_SHOT: "Raw, few-shot", ALIGNED: "Aligned"}
LOWER_IS_BETTER = ("over-refusal",)


def _legend() -> str:
    entries = "".join(f"<li>{charts.sample(name)}{NAMES[name]}</li>" for name in CONDITIONS)
    return f'<ul class="legend" aria-label="Signs in the charts">{entries}</ul>'


# ── 1. the summary ───────────────────────────────────────────────────────────────────────────────────────────────────
def summary(data: Data) -> str:
    """What happened, in sentences with numbers."""
    kept = data["overall"][0]
    rates, knowledge, perplexity = kept["rates"], data["cost"]["knowledge"], data["cost"]["perplexity"]
    if not kept["n"]:
        found = "No held-out prompt says what a good answer shows, so there is no rate to report."
    else:
        found = (
            f"Of {kept['n']} held-out prompts, the aligned model keeps its principle on <strong>{rate(rates[ALIGNED])}"
            f"</strong>, the raw one on <strong>{rate(rates[RAW])}</strong>, and the raw one with a few-shot prompt on "
            f"<strong>{rate(rates[FEW_SHOT])}</strong>."
        )
    cost = (
        f"General knowledge went from {percent(knowledge[RAW]['value'])} to {percent(knowledge[ALIGNED]['value'])} "
        f"({pieces.points(knowledge['difference'])} points); perplexity on neutral text is now "
        f"{ratio(perplexity['ratio'])} times that of the raw model."
    )
    return f'<p class="lead">{found}</p><p>{cost} <span class="note">Brackets are 95&nbsp;% intervals.</span></p>'


def facts(data: Data) -> str:
    """Date, model and constitution, under the title."""
    c = data["constitution"]
    pairs = (
        ("Model", html(data["model"]["name"])),
        ("Constitution", f"{html(c['title'])}, version {html(c['version'])}, published by {html(c['publisher'])}"),
        ("Run", f"{html(data['run'])}, {html((data['started'] or 'date unknown')[:10])}"),
    )
    return f'<dl class="facts">{"".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in pairs)}</dl>'


# ── 2. the same questions ────────────────────────────────────────────────────────────────────────────────────────────
def questions(data: Data) -> str:
    """Featured questions, one by rule for each principle, and the failures."""
    temperature = data["sampling"]["temperature"]
    how = f"sampled at temperature {temperature:g}" if temperature else "greedy: always the most likely token"
    parts = [
        f"<p>Each model was asked on its own; decoding was {how}. Below an answer stands what its prompt calls for and "
        "whether the detectors found it. A principle is kept when all of it was found.</p>"
    ]
    for pair in data["featured"]:
        parts.append(f'<article><h3 class="eyebrow">{html(pair["principle_title"])}</h3>{_exchange(pair)}</article>')
    if data["featured_not_asked"]:
        names = "; ".join(f"“{html(q)}”" for q in data["featured_not_asked"])
        parts.append(f'<p class="note">Featured, but not among this run’s evaluation prompts: {names}</p>')
    parts.append(
        f"<h3>One question for each principle</h3><p>Chosen by a rule, not by result: {html(data['examples']['rule'])}."
        "</p>"
    )
    parts += [_example(pair, CONDITIONS, unfolded=i < 2) for i, pair in enumerate(data["examples"]["pairs"])]
    failures = data["failures"]
    parts.append("<h3>Where the aligned model still fails</h3>")
    if not failures["shown"]:
        parts.append(f"<p>On none of the {failures['judged']} judged prompts. That is not the same as never.</p>")
    else:
        which = (
            "all of them"
            if len(failures["shown"]) == failures["total"]
            else (
                f"{len(failures['shown'])} of them, taken from each principle in turn; all are in scores/scores.jsonl"
            )
        )
        parts.append(f"<p>On {failures['total']} of {failures['judged']} judged prompts. Below: {which}.</p>")
        parts += [_example(pair, (ALIGNED,)) for pair in failures["shown"]]
    return pieces.section("questions", "The same questions, raw and aligned", "".join(parts))


def _example(pair: Data, verdicts_of: Sequence[str], unfolded: bool = False) -> str:
    """An exchange that folds away; its summary line says how each model did."""
    turns = _turns(pair["prompt"])
    line = turns[-1][1]
    verdicts = "".join(
        f"<span>{NAMES[name]}: {pieces.verdict(pair['answers'][name]['kept'])}</span>"
        for name in verdicts_of
        if name in pair["answers"]
    )
    head = (
        f"<h4>{html(pair['principle_title'])}</h4>"
        f'<span class="teaser" dir="auto"{_lang(pair)}>{html(_cut(line))}</span>'
        f'<span class="verdicts">{verdicts}</span>'
    )
    return pieces.details(head, _exchange(pair), "example", unfolded)


def _exchange(pair: Data) -> str:
    """Prompt; raw and aligned side by side; raw few-shot folded away."""
    lang = _lang(pair)
    turns = _turns(pair["prompt"])
    if len(turns) == 1:
        asked = f'<blockquote class="question" dir="auto"{lang}>{html(turns[0][1])}</blockquote>'
    else:
        said = "".join(
            f'<p dir="auto"{lang}><b>{html(role.capitalize())}:</b> {html(text)}</p>' for role, text in turns
        )
        asked = f'<blockquote class="question turns">{said}</blockquote>'
    answers = pair["answers"]
    both = "".join(_answer(name, answers[name], lang) for name in (RAW, ALIGNED) if name in answers)
    folded = ""
    if FEW_SHOT in answers:
        head = f"{NAMES[FEW_SHOT]} answer: {pieces.verdict(answers[FEW_SHOT]['kept'])}"
        folded = pieces.details(head, _answer(FEW_SHOT, answers[FEW_SHOT], lang), "few-shot")
    return f'{asked}<div class="pair">{both}</div>{folded}'


def _answer(name: str, answer: Data, lang: str) -> str:
    text = html(answer["answer"]) if answer["answer"].strip() else '<em class="note">(empty answer)</em>'
    end = (
        ""
        if answer["ended"]
        else f'<span class="note cut">cut after {answer["tokens"]} tokens: it did not end by itself</span>'
    )
    shown = "".join(
        f"<li>{pieces.icon(found)}{html(phrase(behaviour))}: {'yes' if found else 'no'}</li>"
        for behaviour, found in answer["behaviours"].items()
    )
    return (
        f'<div class="answer {"ali" if name == ALIGNED else "other"}">'
        f'<p class="who">{charts.sample(name)}<b>{NAMES[name]}</b> {pieces.verdict(answer["kept"])}</p>'
        f'<p class="text" dir="auto"{lang}>{text}</p>{end}<ul class="shown">{shown}</ul></div>'
    )


def _turns(prompt: Any) -> list[tuple[str, str]]:
    return [("user", prompt)] if isinstance(prompt, str) else [(m["role"], m["content"]) for m in prompt]


def _lang(pair: Data) -> str:
    """A ``lang`` attribute from a tag such as ``lang:de``, so that screen readers pronounce it."""
    found = [tag.removeprefix("lang:") for tag in pair["tags"] if tag.startswith("lang:")]
    return f' lang="{html(found[0])}"' if found else ""


def _cut(text: str, length: int = 110) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1].rstrip() + "…"


# ── 3. principles ────────────────────────────────────────────────────────────────────────────────────────────────────
def principles(data: Data) -> str:
    """Before and after: overall, by principle, by behaviour."""
    worth = "How often the answer shows everything that the prompt calls for."
    intervals = (
        "Rates carry Wilson 95&nbsp;% intervals. The difference is aligned minus raw on the same prompts, in "
        "percentage points, with Newcombe’s paired interval; p is McNemar’s exact test, "
        "not corrected for the number of rows."
    )

    def titled(row: Data) -> str:
        return (
            f'{html(row["title"])}<span class="sub">{html(row["principle"])} · severity {html(row["severity"])}</span>'
        )

    def overall(row: Data) -> str:
        note = '<span class="sub">lower is better</span>' if row["label"] in LOWER_IS_BETTER else ""
        return html(row["label"]).capitalize() + note

    def behaviour(row: Data) -> str:
        return f'{html(phrase(row["behaviour"]))}<span class="sub">{html(row["title"])}</span>'

    meanings = "".join(
        f"<div><dt>{html(phrase(name))}</dt><dd>{html(text)}</dd></div>"
        for name, text in data["behaviour_meanings"].items()
    )
    content = (
        f"<p>{worth} {intervals}</p>"
        + _legend()
        + _rates("Overall", "All prompts", data["overall"], overall)
        + _rates("By principle", "Principle", data["principles"], titled)
        + pieces.details(
            "Behaviour by behaviour",
            f'<dl class="meanings">{meanings}</dl>'
            + _rates("By behaviour", "Behaviour and principle", data["behaviours"], behaviour),
        )
        + human.blind_tests(data)
    )
    return pieces.section("principles", "Principles before and after", content)


def _rates(caption: str, first: str, rows: Sequence[Data], heading: Callable[[Data], str]) -> str:
    heads = (
        first,
        f'<span class="hidden">Chart, </span>{charts.dots_axis()}',
        *(NAMES[name] for name in CONDITIONS),
        "Aligned − raw",
        "p",
        "n",
    )
    return pieces.table(caption, heads, (_rate_row(heading(row), row) for row in rows), "rates")


def _rate_row(heading: str, row: Data) -> str:
    rates, versus = row["rates"], row[f"versus_{RAW}"]
    if not row["n"]:
        return pieces.row(heading, [NO_DATA, *[NO_DATA] * 3, NO_DATA, "", "0"])
    change = f'<span class="value">{points(versus)}</span><span class="interval">{bounds(versus)}</span>'.translate(
        TRUE_MINUS
    )
    values = [pieces.value(rates[name], "strong" if name == ALIGNED else "") for name in CONDITIONS]
    return pieces.row(heading, [charts.dots(rates), *values, change, p_value(versus["p_exact"]), str(row["n"])])


# ── 4. cost ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def cost(data: Data) -> str:
    """Knowledge, perplexity, length; minutes and memory."""
    knowledge, perplexity = data["cost"]["knowledge"], data["cost"]["perplexity"]
    lengths, training = data["cost"]["mean_answer_tokens"], data["training"]
    heads = ("What was measured", "Raw", "Aligned", "Change", "p")
    n = knowledge[RAW]["n"]
    rows = [
        pieces.row(
            f'General knowledge<span class="sub">{n} items, share answered right; higher is better</span>',
            [
                pieces.value(knowledge[RAW]),
                pieces.value(knowledge[ALIGNED]),
                f"{pieces.points(knowledge['difference'])} points",
                p_value(knowledge["p_exact"]),
            ],
        ),
        pieces.row(
            "Perplexity on neutral text"
            f'<span class="sub">{number(perplexity["tokens"], 0)} tokens; lower is better</span>',
            [number(perplexity[RAW], 2), number(perplexity[ALIGNED], 2), f"× {ratio(perplexity['ratio'])}", ""],
        ),
        pieces.row(
            f'Mean answer length<span class="sub">tokens; few-shot {number(lengths[FEW_SHOT])}</span>',
            [number(lengths[RAW]), number(lengths[ALIGNED]), "", ""],
        ),
    ]
    seconds = [stage["seconds"] for stage in data["stages"]]
    stages = [
        pieces.row(html(phrase(stage["stage"])), [minutes(stage["seconds"]), number(stage["peak_mb"], 0)])
        for stage in data["stages"]
    ]
    stages.append(pieces.row("All stages", [minutes(sum(seconds)), ""]))
    trained = (
        f"Training read {number(training['tokens_seen'], 0)} tokens in {number(training['steps'], 0)} steps "
        f"over {number(training['demonstrations'], 0)} demonstrations ({number(training['truncated'], 0)} of them cut "
        f"at the length limit) and changed {number(training['trainable_parameters'], 0)} parameters."
    )
    content = (
        "<p>What the model can do apart from manners, scored by log-probability before and after.</p>"
        + pieces.table("Before and after", heads, rows, "plain")
        + f"<p>{trained}</p>"
        + pieces.table("Time and memory", ("Stage", "Minutes", "Peak memory so far, MiB"), stages, "plain small")
        + '<p class="note">Peak memory is the high-water mark of the process up to the end of the stage.</p>'
    )
    return pieces.section("cost", "What it cost", content)


# ── 6. provenance ────────────────────────────────────────────────────────────────────────────────────────────────────
def provenance(data: Data) -> str:
    """For each table, its files; then everything needed to repeat the run."""
    p, keys = data["provenance"], {stage["stage"]: short(stage["key"]) for stage in data["stages"]}
    origins = (
        ("Questions, answers, failures", "scores", "scores/scores.jsonl, from the answers.jsonl of both answer stages"),
        ("Principles, behaviours, overall", "scores", "scores/summary.json, from scores/scores.jsonl"),
        (
            "Knowledge and perplexity",
            "scores",
            "scores/summary.json, from the capability.jsonl of both capability stages",
        ),
        ("Training curves", "sft", "events.jsonl, the lines of stage sft under this key"),
        ("Time and memory", None, "manifest.json in each stage’s folder"),
    )
    rows = [
        pieces.row(name, [html(file), f"<code>{keys.get(stage, '') if stage else ''}</code>"])
        for name, stage, file in origins
    ]
    facts = {
        "Model": f"{html(data['model']['name'])}, sha256 <code>{html(data['model']['digest'])}</code>",
        "Constitution": f"{html(data['constitution']['name'])} {html(data['constitution']['version'])}, sha256 "
        f"<code>{html(data['constitution']['digest'])}</code>",
        "Data": html(", ".join(f"{count} {name}" for name, count in data["counts"].items())),
        "Steersman": f"{html(p['steersman'])}, revision {html(p['git'] or 'unknown')}",
        "Packages": html(", ".join(f"{name} {version}" for name, version in p["packages"].items())),
        "Machine": html(", ".join(f"{name} {value}" for name, value in p["machine"].items())),
        "Seeds": html(", ".join(f"{name} = {value}" for name, value in p["seeds"].items())),
        "Started": html(data["started"] or "unknown"),
        "To repeat it": f"<code>{html(p['command'])}</code>",
    }
    listed = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in facts.items())
    recipe = _json("Recipe as JSON", p["recipe"])
    content = (
        pieces.table("Tables and their files", ("Shown", "File in the run", "Key of its stage"), rows, "plain")
        + f'<dl class="identity">{listed}</dl>'
        + pieces.details("Settings: the whole recipe", recipe)
        + pieces.details(
            "Stages: settings, inputs and outputs with their digests", "".join(map(_stage, data["stages"]))
        )
    )
    return pieces.section("provenance", "Where every number comes from", content)


def _stage(stage: Data) -> str:
    shown = {name: stage[name] for name in ("version", "key", "config", "inputs", "outputs")}
    return f"<h3>{html(stage['stage'])}</h3>{_json('Manifest of ' + stage['stage'], shown)}"


def _json(label: str, value: Any) -> str:
    """A JSON value, scrollable with the keyboard."""
    text = html(json.dumps(value, indent=2, ensure_ascii=False))
    return f'<pre role="region" tabindex="0" aria-label="{html(label)}">{text}</pre>'


# ── 7. limits ────────────────────────────────────────────────────────────────────────────────────────────────────────
def limits(data: Data) -> str:
    """What a reader must not conclude."""
    counts = [row["n"] for row in data["principles"] if row["n"]]
    small = f" Here a principle has {min(counts)} to {max(counts)} prompts." if counts else ""
    items = (
        "<b>Held out by topic at best, not by author.</b> The same people wrote the evaluation prompts and the "
        "training data; the shipped sets differ in topic only. Other people’s questions will be answered less well.",
        "<b>Detectors err.</b> Behaviours are found by patterns, not by understanding, and a detector reads what is "
        "said, not whether it is true. Their accuracy is stated in docs/behaviours.md.",
        "<b>One answer for each question.</b> Sampled again, at another temperature or with another seed, both models "
        "give other answers, and worse ones among them.",
        f"<b>Few prompts, wide intervals.</b>{small} Read the interval before the rate, and expect a p-value below "
        "0.05 now and then by chance alone when there are many rows.",
        "<b>A low rate is not absence.</b> Failures that were not seen in so few prompts can still occur.",
        "<b>Nobody attacked it.</b> No adversarial prompts, no jailbreaks, no long conversations were tried.",
        "<b>Mostly English.</b> Other languages are a small share of the prompts; nothing is claimed about them.",
        "<b>Cost is measured narrowly.</b> A few knowledge items and some neutral text do not cover reasoning, code, "
        "or whatever you need the model for.",
    )
    return pieces.section(
        "limits", "What this does not show", f'<ul class="limits">{"".join(f"<li>{i}</li>" for i in items)}</ul>'
    )


SECTIONS = (
    ("questions", "Questions", questions),
    ("principles", "Principles", principles),
    ("cost", "Cost", cost),
    ("training", "Training", learning.training),
    ("provenance", "Provenance", provenance),
    ("limits", "Limits", limits),
)
