"""The work of the stages of constitutional AI; who kept what, and which pairs, nobody knows before."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from steersman.constitution.ai_feedback import select_prompts
from steersman.constitution.critique_revise import critique_examples, critique_message
from steersman.constitution.judge_card import questions_of
from steersman.constitution.judges import JudgeQuestion, judge_examples, question_text
from steersman.cost.work import Amounts, Largest, Subject, Work, added, answered, ranking, schedule, spread, trees
from steersman.data import sources
from steersman.lm.shared_prefix import Group
from steersman.stages import earlier_policies
from steersman.train.reward_model import tokenised
from steersman.types import Message, Text

KEPT_SHARE = 0.3  # of revisions, and of prompts with a pair that is kept
READ_AT_ONCE = 16  # answers in one forward pass of sampling's reader


def judge_card(s: Subject) -> Work:
    """The judge reads held-out pairs."""
    config = s.recipe.judge
    assert config is not None
    found = questions_of(s.held_out, s.constitution, config.questions, config.seed)
    return _judged(s, [question for _, question, _ in found])


def revisions(s: Subject) -> Work:
    """Answers, then a critique and a revision for each round; after a prefix that is read once for each principle."""
    config = s.recipe.revisions
    assert config is not None
    rows = sources.spread(s.prompts, config.prompts)
    limit = config.sampling.max_new_tokens
    mean = s.like_demonstrations(limit)
    total = _sampled(s, [row.prompt for row in rows], 1, mean, limit)
    prefixes = 0
    for principle in s.constitution.principles:
        own = [row for row in rows if principle.id in row.principles[:1]]
        shown = critique_examples(principle)
        prefixes += len(s.chat.prompt_ids("", shown)) if own and shown else 0
        critique: list[Text] = [(critique_message(row.prompt, "word " * round(mean), principle),) for row in own]
        then = (Message(role="assistant", content="word " * round(mean)),)
        revision: list[Text] = [
            (*text, *then, Message(role="user", content=principle.revision_request)) for text in critique
        ]
        for texts in (critique, revision) if own else ():
            total = added(*[total, *[_sampled(s, texts, 1, mean, limit)] * config.rounds])
    amounts = total._replace(loads=1, read_tokens=total.read_tokens + prefixes)
    judge = _judged(s, [JudgeQuestion(row.prompt, "word " * round(mean), "words", None) for row in rows])
    widest = max(len(s.chat.prompt_ids(row.prompt)) for row in rows) + 4 * limit
    batch = min(config.sampling.batch_size, len(rows))
    cached = batch * (widest + max(len(s.chat.prompt_ids("", critique_examples(p))) for p in s.constitution.principles))
    both = added(amounts, judge.amounts) if s.recipe.judge else amounts
    return Work(both, Largest(read_tokens=batch * widest, scored=batch, cached_tokens=cached))


def cai_sft(s: Subject) -> Work:
    """Rows of the mean length of demonstrations."""
    config, written = s.recipe.cai_sft, s.recipe.revisions
    assert config is not None
    assert written is not None
    kept = KEPT_SHARE * len(sources.spread(s.prompts, written.prompts))
    rows = max(1.0, kept * (1 + config.demonstrations)) * config.epochs
    mean = sum(len(e.token_ids) for e in s.train_examples) / len(s.train_examples)
    own = sum(len(e.token_ids) - e.completion_start for e in s.train_examples) / len(s.train_examples)
    steps = math.ceil(rows / config.batch_size)
    validated = sum(len(e.token_ids) for e in s.validation_examples)
    amounts = Amounts(
        loads=1,
        train_tokens=rows * mean,
        lower_tokens=rows * mean,
        train_scored=rows * own,
        checkpoints=(steps - 1) // config.checkpoint_every_steps,
        read_tokens=(math.ceil(steps / config.eval_every_steps) + 1) * validated,
    )
    widest = config.micro_batch_size * max(len(e.token_ids) for e in s.train_examples)
    return Work(amounts, Largest(widest, round(config.micro_batch_size * own), widest))


def feedback(s: Subject) -> Work:
    """Several answers to each prompt, and the judge reads them."""
    config = s.recipe.feedback
    assert config is not None
    rows = select_prompts(config, s.constitution, s.prompts)
    limit = config.sampling.max_new_tokens
    mean = s.like_demonstrations(limit)
    sampled = _sampled(s, [row.prompt for row in rows], config.answers, mean, limit)
    words = ["word " * (round(mean) + place) for place in range(config.answers)]
    pairs = min(config.pairs, config.answers * (config.answers - 1) // 2)
    questions = [
        JudgeQuestion(row.prompt, words[0], words[1 + i % (config.answers - 1)], None)
        for row in rows
        for i in range(pairs)
    ]
    judge = _judged(s, questions)
    batch = min(config.sampling.batch_size, config.answers * len(rows))
    widest = max(len(s.chat.prompt_ids(row.prompt)) for row in rows)
    most = Largest(read_tokens=batch * widest, scored=batch, cached_tokens=batch * (widest + limit))
    return Work(added(sampled._replace(loads=1), judge.amounts), most)


def preference_model(s: Subject) -> Work:
    """People's comparisons, and about as many of the judge's as prompts have a pair that is kept."""
    config, given = s.recipe.preference_model, s.recipe.feedback
    assert config is not None
    assert given is not None
    count = round(KEPT_SHARE * len(select_prompts(given, s.constitution, s.prompts)) * given.keep)
    people = [] if given.people == "none" else s.comparisons
    some = [s.comparisons[i % len(s.comparisons)] for i in range(count)] if s.comparisons else []
    return ranking(s, config, [*people, *some])


def ablation(s: Subject) -> Work:
    """The answers of the policies before the last one."""
    each = answered(s, "aligned_answers", {"aligned": None})
    count = len(earlier_policies(s.recipe))
    return Work(added(*[each.amounts] * count), each.largest)


def _sampled(s: Subject, prompts: Sequence[Text], each: int, mean: float, limit: int) -> Amounts:
    """Quick sampling: int8 weights, a compact vocabulary."""
    lengths = spread(mean, limit, len(prompts) * each)
    starts = sorted(len(s.chat.prompt_ids(prompt)) for prompt in prompts for _ in range(each))
    found, _ = schedule(starts, lengths, 0, 64)
    return found._replace(
        read_tokens=found.read_tokens / each,
        decode_steps=0,
        decode_rows=0,
        rollout_steps=found.decode_steps,
        rollout_rows=found.decode_rows,
    )


def _judged(s: Subject, questions: Sequence[JudgeQuestion]) -> Work:
    """What the recipe's judges read; rules read nothing."""
    config = s.recipe.judge
    tokens: list[int] = []
    if config and "reward" in config.kinds and s.recipe.reward_model:
        longest = s.recipe.reward_model.max_length
        groups: list[Group] = [
            tokenised(question.prompt, (question.first, question.second), s.chat, longest) for question in questions
        ]
        tokens += [n * s.recipe.reward_model.members for n in trees(groups, 1)]
    if config and "model" in config.kinds:
        lengths = [len(s.chat.prompt_ids(question_text(question))) for question in questions]
        tokens += [2 * READ_AT_ONCE * max(lengths[i : i + READ_AT_ONCE]) for i in range(0, len(lengths), READ_AT_ONCE)]
        tokens += [len(s.chat.prompt_ids("", judge_examples(p))) for p in s.constitution.principles]
    return Work(Amounts(loads=1, read_tokens=sum(tokens)), Largest(read_tokens=max(tokens, default=0)))


CONSTITUTIONAL: Mapping[str, Callable[[Subject], Work]] = {
    "judge_card": judge_card,
    "revisions": revisions,
    "cai_sft": cai_sft,
    "feedback": feedback,
    "preference_model": preference_model,
    "ablation": ablation,
}
