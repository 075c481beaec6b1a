"""`judge_card`, `revisions` and `feedback`: the preference judge, measured, and what it is used for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.constitution import ai_feedback, critique_revise, judge_card
from steersman.constitution.ai_feedback import FeedbackConfig
from steersman.constitution.critique_revise import RevisedAnswer, RevisionsConfig, critique_examples, critique_message
from steersman.constitution.judges import (
    CascadeJudge,
    Judge,
    JudgeConfig,
    JudgeQuestion,
    PromptedJudge,
    RuleJudge,
    ScoringJudge,
    judge_examples,
    question_text,
)
from steersman.cost.work import Counts, PeakSizes, Work, Workload, group_tokens, quick_sampling, total
from steersman.data.sources import spread
from steersman.errors import DataError
from steersman.evals.detectors import behaviours
from steersman.lm import pretrained
from steersman.lm.endpoint.client import RemoteModel
from steersman.lm.endpoint.replies import reasons_text
from steersman.lm.endpoint.settings import secret
from steersman.lm.language_model import LanguageModel, LocalModel
from steersman.lm.reward_model import RewardModel, tokenised
from steersman.recipe import Recipe
from steersman.report.blocks import Answer, Details, Exchange, Rate, Section, Table, paragraph
from steersman.report.cards import accuracy_table
from steersman.report.evidence import StageRecord
from steersman.report.format import number, percent, rate, signed
from steersman.stage import Inputs, Sources, Stage, optional
from steersman.stages.inputs import (
    BASE,
    HELD_OUT_COMPARISONS,
    JUDGE_CARD,
    JUDGE_INPUTS,
    JUDGE_REWARD_MODEL,
    JUDGED,
    PROMPTS,
    REVISED,
    SFT,
    TRAIN,
    TUNED,
)
from steersman.store import StageFolder, folder_digest
from steersman.types import Message, Prompt, Record, Text

ENDPOINT = "endpoint/answers.jsonl"  # in a run: replies that were paid for; it outlives the stages
READ_AT_ONCE = 16  # answers in one forward pass when a model judges
CARD = optional(JUDGE_CARD)  # of a recipe that revises without a judge, there is none


# ── the judge ────────────────────────────────────────────────────────────────────────────────────────────────────────
def judge_of(config: JudgeConfig, base: Path, reward: Path | None, cache: Path) -> Judge:
    """The judges of a configuration, tried in turn until one decides.

    Args:
        reward: the folder of a reward model that reads principles, for the kind ``reward``.
        cache: the file with the answers of an endpoint, for the kind ``remote``.
    """
    judges: list[Judge] = []
    for kind in config.kinds:
        if kind == "rules":
            judges.append(RuleJudge(behaviours.detect, config.rule_confidence))
        elif kind == "reward":
            judges.append(ScoringJudge(RewardModel.load(base, reward or Path("no reward model")).score))
        elif config.remote and kind == "remote":
            judges.append(PromptedJudge(RemoteModel(config.remote, cache), config.chain_of_thought))
        else:
            model = LocalModel.load(pretrained.resolve(config.model) if config.model else base)
            judges.append(PromptedJudge(model, config.chain_of_thought))
    return judges[0] if len(judges) == 1 else CascadeJudge(judges)


def _judge(config: JudgeConfig, given: Inputs, out: StageFolder) -> Judge:
    return judge_of(config, given[BASE], given[JUDGE_REWARD_MODEL], _cache(out))


def _cache(out: StageFolder) -> Path:
    return out.path.parent / ENDPOINT


def judging_work(config: JudgeConfig | None, workload: Workload, questions: Sequence[JudgeQuestion]) -> Work:
    """What the judges read; rules read nothing."""
    tokens: list[int] = []
    reward = workload.recipe.reward_model
    if config and "reward" in config.kinds and reward:
        groups = [tokenised(q.prompt, (q.first, q.second), workload.chat, reward.max_length) for q in questions]
        tokens += [n * reward.members for n in group_tokens(groups, 1)]
    if config and "model" in config.kinds:
        lengths = [len(workload.chat.prompt_ids(question_text(question))) for question in questions]
        tokens += [2 * READ_AT_ONCE * max(lengths[i : i + READ_AT_ONCE]) for i in range(0, len(lengths), READ_AT_ONCE)]
        tokens += [len(workload.chat.prompt_ids("", judge_examples(p))) for p in workload.constitution.principles]
    return Work(Counts(loads=1, read_tokens=sum(tokens)), PeakSizes(read_tokens=max(tokens, default=0)))


# ── judge_card ───────────────────────────────────────────────────────────────────────────────────────────────────────
def run_card(config: JudgeConfig, given: Inputs, out: StageFolder) -> None:
    """Measure the judge on held-out comparisons; a recipe whose judge is too weak stops here."""
    card = judge_card.run(config, _judge(config, given, out), given[HELD_OUT_COMPARISONS], given[JUDGED], out)
    judge_card.admit(config, card)


def check_card(config: JudgeConfig, sources: Sources) -> None:
    """Refuse a judge that cannot be measured, or lacks its model, its reward model or its endpoint's key."""
    recipe = sources.recipe
    if "reward" in config.kinds and not (recipe.reward_model and recipe.reward_model.by_principle):
        raise recipe.conflict(
            "judge.kinds: reward needs a reward model that reads principles",
            "judge.kinds",
            "reward_model.by_principle",
            do="set reward_model.by_principle: true",
        )
    if not config.skip_validation and not recipe.examples.held_out_comparisons:
        raise recipe.conflict(
            "a judge is measured on held-out comparisons",
            "judge",
            "examples.held_out_comparisons",
            do="set examples.held_out_comparisons: 0.2",
        )
    if config.remote:
        secret(config.remote)
    if config.model:
        pretrained.prepared(config.model)


def estimate_card(config: JudgeConfig, workload: Workload) -> Work:
    """The judge reads held-out pairs."""
    questions = judge_card.questions_of(workload.held_out, workload.constitution, config.questions, config.seed)
    return judging_work(config, workload, [question for _, question, _ in questions])


# ── revisions ────────────────────────────────────────────────────────────────────────────────────────────────────────
class JudgedRevisionsConfig(Record):
    """Critiques and revisions, and the judge that chooses among them."""

    revisions: RevisionsConfig
    judge: JudgeConfig | None


def run_revisions(config: JudgedRevisionsConfig, given: Inputs, out: StageFolder) -> None:
    """Answers, critiques, revisions; then the judge's choice."""
    prompts = spread(given[PROMPTS], config.revisions.prompts)
    rows = _write_revisions(config.revisions, prompts, given, out)  # frees the writer models before the judge is loaded
    judge = _judge(config.judge, given, out) if config.judge else None
    critique_revise.choose(config.revisions, rows, prompts, given[REVISED], judge, out)


def _write_revisions(
    config: RevisionsConfig, prompts: Sequence[Prompt], given: Inputs, out: StageFolder
) -> list[RevisedAnswer]:
    base, examples = given[BASE], given[TRAIN]
    policy = LocalModel.load_fast(base, given[SFT], examples)
    reviser: LanguageModel = policy
    answerer = name = folder_digest(given[SFT])
    if config.remote:
        reviser, name = RemoteModel(config.remote, _cache(out)), config.remote.model
    elif config.reviser == "base":
        reviser, name = LocalModel.load_fast(base, None, examples), pretrained.digest(base)
    return critique_revise.write(config, policy, reviser, (answerer, name), prompts, given[REVISED], out)


def check_revisions(config: JudgedRevisionsConfig, sources: Sources) -> None:
    """Refuse a data set without prompts, principles that cannot be revised by, and an endpoint without its key."""
    _need_prompts(sources)
    for i, row in enumerate(sources.data.prompts):
        critique_revise.draw_principles(config.revisions, sources.constitution, row, i)
    if config.revisions.remote:
        secret(config.revisions.remote)


def _need_prompts(sources: Sources) -> None:
    if not sources.data.prompts:
        where = str(sources.data.folder / "prompts.jsonl")
        raise DataError("there are no prompts to answer", where=where, do="add rows to prompts.jsonl")


def estimate_revisions(config: JudgedRevisionsConfig, workload: Workload) -> Work:
    """Answers, then a critique and a revision for each round; the examples of a principle are read once."""
    own, chat, principles = config.revisions, workload.chat, workload.constitution.principles
    rows = spread(workload.prompts, own.prompts)
    limit = own.sampling.max_new_tokens
    mean = workload.like_demonstrations(limit)
    answer = "word " * round(mean)
    parts, prefixes = [quick_sampling(workload, [row.prompt for row in rows], 1, mean, limit)], 0
    for principle in principles:
        about = [row for row in rows if principle.id in row.principles[:1]]
        if not about:
            continue
        prefixes += len(chat.prompt_ids("", examples)) if (examples := critique_examples(principle)) else 0
        critique: list[Text] = [(critique_message(row.prompt, answer, principle),) for row in about]
        then = (Message(role="assistant", content=answer), Message(role="user", content=principle.revision_request))
        revision: list[Text] = [(*text, *then) for text in critique]
        for texts in (critique, revision):
            parts += [quick_sampling(workload, texts, 1, mean, limit)] * own.rounds
    counts = total(*parts)
    counts = counts._replace(loads=1, read_tokens=counts.read_tokens + prefixes)
    if config.judge:
        questions = [JudgeQuestion(row.prompt, answer, "words", None) for row in rows]
        counts = total(counts, judging_work(config.judge, workload, questions).counts)
    widest = max(len(chat.prompt_ids(row.prompt)) for row in rows) + 4 * limit
    batch = min(own.sampling.batch_size, len(rows))
    cached = batch * (widest + max(len(chat.prompt_ids("", critique_examples(p))) for p in principles))
    return Work(counts, PeakSizes(read_tokens=batch * widest, scored=batch, cached_tokens=cached))


# ── feedback ─────────────────────────────────────────────────────────────────────────────────────────────────────────
class JudgedFeedbackConfig(Record):
    """The policy's answers, and the judge that compares them."""

    feedback: FeedbackConfig
    judge: JudgeConfig


def feedback_config(recipe: Recipe) -> JudgedFeedbackConfig | None:
    """Without ``judge``, the required card says what is missing."""
    return (
        JudgedFeedbackConfig(feedback=recipe.feedback, judge=recipe.judge or JudgeConfig()) if recipe.feedback else None
    )


def run_feedback(config: JudgedFeedbackConfig, given: Inputs, out: StageFolder) -> None:
    """Several answers to each prompt, compared by the judge."""
    own, constitution = config.feedback, given[JUDGED]
    prompts = ai_feedback.select_prompts(own, constitution, given[PROMPTS])
    policy = LocalModel.load_fast(given[BASE], given[TUNED], given[TRAIN])
    answers = ai_feedback.sample(own, policy, prompts, out)
    del policy  # before the judge's models are loaded
    name = "+".join(config.judge.kinds)
    ai_feedback.compare(own, answers, _judge(config.judge, given, out), name, prompts, constitution, out)


def check_feedback(config: JudgedFeedbackConfig, sources: Sources) -> None:
    """Refuse a data set without prompts, or principles that no prompt is about."""
    _need_prompts(sources)
    ai_feedback.select_prompts(config.feedback, sources.constitution, sources.data.prompts)


def estimate_feedback(config: JudgedFeedbackConfig, workload: Workload) -> Work:
    """Several answers to each prompt, and the judge reads their pairs."""
    own = config.feedback
    rows = ai_feedback.select_prompts(own, workload.constitution, workload.prompts)
    limit = own.sampling.max_new_tokens
    mean = workload.like_demonstrations(limit)
    sampled = quick_sampling(workload, [row.prompt for row in rows], own.answers, mean, limit)
    answers = ["word " * (round(mean) + place) for place in range(own.answers)]
    pairs = min(own.pairs, own.answers * (own.answers - 1) // 2)
    questions = [
        JudgeQuestion(row.prompt, answers[0], answers[1 + i % (own.answers - 1)], None)
        for row in rows
        for i in range(pairs)
    ]
    judged = judging_work(config.judge, workload, questions)
    batch = min(own.sampling.batch_size, own.answers * len(rows))
    widest = max(len(workload.chat.prompt_ids(row.prompt)) for row in rows)
    peak = PeakSizes(read_tokens=batch * widest, scored=batch, cached_tokens=batch * (widest + limit))
    return Work(total(sampled._replace(loads=1), judged.counts), peak)


# ── report ───────────────────────────────────────────────────────────────────────────────────────────────────────────
KINDS = {"principle": "principle", "source": "source of the comparison"}
CHAINS_SHOWN = 6  # answers with their critiques and revisions
LIMIT = (
    "The judge’s agreement with people is measured on one data set. Where the policy writes unlike the answers in it, "
    "the judge may be less accurate than its card says."
)


def card_section(record: StageRecord) -> Section:
    """How often the judge agrees with people on comparisons that nobody trained on."""
    card = record.read(judge_card.CARD)
    error, bias = card["calibration"]["expected_error"], card["place_bias"]
    notes = [
        f"Kinds of judge, in order of precedence: {', '.join(card['judge']['kinds'])}.",
        f"Expected calibration error: {percent(error)}." if error is not None else "",
        f"Position bias: {_points(bias)} points for the answer shown first." if bias["value"] else "No position bias.",
        f"Undecided: {card['undecided']} of {card['accuracy']['n']}; unanswered: {_unanswered(card)}.",
    ]
    table = accuracy_table("Held-out accuracy of the judge", card, KINDS, record)
    blocks = (table, paragraph(" ".join(filter(None, notes))))
    return Section(id=record.name, title="Judge", blocks=blocks, limits=(LIMIT,))


def _unanswered(measured: Mapping[str, Any]) -> str:
    """How many questions got no answer, and why; runs of earlier versions did not say why."""
    why = reasons_text(measured.get("unanswered_by_reason", {}))
    return f"{measured['unanswered']} ({why})" if why else str(measured["unanswered"])


def _points(figure: Mapping[str, Any]) -> str:
    value, low, high = (signed(100 * figure[key], 1) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def revisions_section(record: StageRecord) -> Section | None:
    """How many revisions were kept, and some with their critiques; null where there were none."""
    rows = record.read(critique_revise.REVISIONS)
    if not rows:
        return None
    kept, dropped = [row for row in rows if row["kept"]], [row for row in rows if row["dropped"]]
    reasons = Counter(row["dropped"] for row in dropped).most_common()
    why = ", ".join(f"{count} {reason}" for reason, count in reasons) or "none"
    sampled = [row for part in (kept, dropped) for row in spread(part, CHAINS_SHOWN // 2)]
    blocks = (
        paragraph(f"{len(kept)} of {len(rows)} revisions were kept for training; dropped: {why}."),
        Details(title="A sample of them", blocks=tuple(_chain(row, record) for row in sampled)),
    )
    return Section(id=record.name, title="Critiques and revisions", blocks=blocks)


def _chain(row: Mapping[str, Any], record: StageRecord) -> Exchange:
    steps = [("Answer", "", row["answer"])]
    for step in row["rounds"]:
        title = record.title(step["principle"])
        steps += [("Critique", title, step["critique"]), ("Revision", title, step["revision"])]
    answers = (Answer(name=name, note=note, text=text, strong=text == row["kept"]) for name, note, text in steps)
    outcome = "kept for training" if row["kept"] else f"dropped: {row['dropped']}"
    return Exchange(prompt=row["prompt"], answers=tuple(answers), note=outcome, stacked=True)


def feedback_section(record: StageRecord) -> Section:
    """The judge's labels on the policy's own answers."""
    feedback = record.read(ai_feedback.SUMMARY)
    left_out = ", ".join(f"{count} {reason}" for reason, count in feedback["left_out"].items()) or "none"
    agree = feedback["principles_agree"]
    text = (
        f"{number(feedback['kept'], 0)} pairs of the policy’s answers to {number(feedback['prompts'], 0)} prompts were "
        f"kept for training; left out: {left_out}."
    )
    if feedback.get("unanswered"):
        text += f" Questions without an answer: {_unanswered(feedback)}."
    if agree["n"]:
        text += f" Two principles order the same pair alike in {rate(agree)}."
    rows = tuple((record.title(key), Rate.of(figure), figure["n"]) for key, figure in feedback["decided"].items())
    table = Table(caption="How often each principle decided", columns=("Principle", "Decided", "n"), rows=rows)
    return Section(id=record.name, title="AI feedback", blocks=(paragraph(text), table))


JUDGE = Stage(
    "judge_card",
    (judge_card, behaviours),
    lambda r: r.judge,
    (*JUDGE_INPUTS, HELD_OUT_COMPARISONS),
    run_card,
    recipe_key="judge",
    check=check_card,
    estimate=estimate_card,
    section=card_section,
)
REVISIONS = Stage(
    "revisions",
    (critique_revise, behaviours),
    lambda r: JudgedRevisionsConfig(revisions=r.revisions, judge=r.judge) if r.revisions else None,
    (*JUDGE_INPUTS, REVISED, SFT, CARD, PROMPTS, TRAIN),
    run_revisions,
    check=check_revisions,
    estimate=estimate_revisions,
    section=revisions_section,
)
FEEDBACK = Stage(
    "feedback",
    (ai_feedback, behaviours),
    feedback_config,
    (*JUDGE_INPUTS, TUNED, JUDGE_CARD, PROMPTS, TRAIN),
    run_feedback,
    check=check_feedback,
    estimate=estimate_feedback,
    section=feedback_section,
)
