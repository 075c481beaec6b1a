"""What each stage does: a method, called with what the stages before it left. The order is `pipeline.py`'s."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersman.constitution import ai_feedback, critique_revise, judge_card
from steersman.constitution.critique_revise import RevisedAnswer, RevisionsConfig
from steersman.constitution.document import Constitution
from steersman.constitution.judges import CascadeJudge, Judge, JudgeConfig, PromptedJudge, RuleJudge, ScoringJudge
from steersman.data import sources
from steersman.data.by_principle import of_principles
from steersman.data.formats import read
from steersman.data.sources import DataSet
from steersman.errors import DataError
from steersman.evals import answers, reward_card, scores
from steersman.evals.conditions import ALIGNED, FEW_SHOT, RAW, Condition
from steersman.evals.detectors.behaviours import detect
from steersman.lm import pretrained
from steersman.lm.endpoint.client import RemoteModel, secret
from steersman.lm.language_model import LanguageModel, LocalModel
from steersman.recipe import Recipe
from steersman.store import Artifact, StageFolder
from steersman.train import distributed, dpo, reward_model, sft
from steersman.train.reward_model import CostConfig, RewardConfig, RewardModel
from steersman.train.rl import loop as rl
from steersman.train.rl.evaluation import People
from steersman.train.rl.grpo import Grpo, GrpoConfig
from steersman.train.rl.ppo import Ppo, PpoConfig
from steersman.train.rl.rloo import Rloo, RlooConfig
from steersman.train.sft import RevisedSftConfig
from steersman.types import Comparison, Demonstration, Prompt

# In a run, where they outlive the stages:
ENDPOINT = "endpoint/answers.jsonl"  # what a remote judge said
LABELS = "labels.jsonl"  # what people said of answers during reinforcement learning


@dataclass
class Context:
    """The sources of a run and the artefacts made so far."""

    recipe: Recipe
    constitution: Constitution
    data: DataSet
    base: Path
    done: dict[str, Artifact]
    cache: Path = Path(ENDPOINT)  # of an endpoint's answers; it outlives the stages

    @property
    def policy(self) -> Path:
        """The folder of the aligned model."""
        return self.done[policy_stage(self.recipe)].path

    @property
    def tuned(self) -> Path:
        """The folder of the model that learnt from demonstrations alone."""
        return self.done[tuned_stage(self.recipe)].path

    def rows(self, file: str, record: type[Any]) -> list[Any]:
        """Records of a file of the data stage."""
        return read(self.done["data"].file(file), record)

    def comparisons(self, file: str) -> list[Comparison]:
        """People's comparisons in a file of the data stage, and the judge's, as the recipe mixes them."""
        people: list[Comparison] = self.rows(file, Comparison)
        if self.recipe.feedback is None:
            return people
        judged = read(self.done["feedback"].file(ai_feedback.COMPARISONS), Comparison)
        return ai_feedback.mix(self.recipe.feedback, people, judged)


def policy_stage(recipe: Recipe) -> str:
    """The stage that leaves the aligned model."""
    return "rl" if recipe.rl else offline_stage(recipe)


def offline_stage(recipe: Recipe) -> str:
    """The stage that leaves the model which reinforcement learning starts from."""
    return "dpo" if recipe.dpo else tuned_stage(recipe)


def tuned_stage(recipe: Recipe) -> str:
    """The last stage that learns from demonstrations."""
    return "cai_sft" if recipe.cai_sft else "sft"


def preference_stage(recipe: Recipe) -> str:
    """The stage that leaves the model whose score reinforcement learning maximises."""
    return "preference_model" if recipe.preference_model else "reward_model"


def judges_by_principle(recipe: Recipe) -> bool:
    """Whether a reward model reads the principles' texts."""
    models = (recipe.reward_model, recipe.cost_model, recipe.preference_model)
    return any(config.by_principle for config in models if config)


def alone(recipe: Recipe) -> RewardConfig | None:
    """What the stage `second_judge` trains: one reward model like those that are optimised for."""
    single = {"members": 1, "combine": "mean"}
    return recipe.reward_model.model_copy(update=single) if recipe.rl and recipe.reward_model else None


def asked_cost_model(recipe: Recipe) -> CostConfig | None:
    """What the stage `cost_model` trains; nothing unless a constraint asks it."""
    constraint = recipe.rl.constraint if recipe.rl else None
    return recipe.cost_model if constraint and constraint.costs_below is not None else None


def check(recipe: Recipe, constitution: Constitution, data: DataSet) -> None:
    """Find what only a late stage would stumble over, before an hour of training.

    Raises:
        UserError: names the setting, the row, or the variable.
    """
    sft.times_opened(recipe.sft.opening, data.demonstrations)
    if recipe.dpo and not recipe.feedback:
        dpo.repeated(data.comparisons, recipe.dpo.passes)
    elif recipe.dpo and recipe.feedback:  # what the judge will compare has its names from prompts and constitution
        people = [] if recipe.feedback.people == "none" else data.comparisons
        names = [dpo.names(row) for row in people]
        names += [{*row.tags, *row.principles} for row in data.prompts] + [set(constitution.texts)]
        dpo.times_read(names, recipe.dpo.passes)
    if cost := asked_cost_model(recipe):
        of_principles(data.comparisons, cost.principles)
    if (recipe.revisions or recipe.feedback) and not data.prompts:
        raise DataError(
            "there are no prompts to answer", where=str(data.folder / "prompts.jsonl"), do="add rows to prompts.jsonl"
        )
    if recipe.revisions:
        for number, row in enumerate(data.prompts):
            critique_revise.draw_principles(recipe.revisions, constitution, row, number)
    if recipe.feedback:
        ai_feedback.select_prompts(recipe.feedback, constitution, data.prompts)
    for section in (recipe.judge, recipe.revisions):
        if section and section.remote:
            secret(section.remote)
    if recipe.judge and recipe.judge.model:
        pretrained.prepared(recipe.judge.model)


def write_data(c: Context, out: StageFolder) -> None:
    """The rows of the data set, divided."""
    sources.run(c.recipe.examples, c.data, out)


def answer_raw(c: Context, out: StageFolder) -> None:
    """The raw model's answers, bare and after a few-shot prompt."""
    preamble = answers.few_shot_preamble(
        c.constitution.persona, c.rows("train.jsonl", Demonstration), c.recipe.answers.few_shot_examples
    )
    conditions = [Condition(RAW, None), Condition(FEW_SHOT, preamble)]
    answers.run(c.recipe.answers, LocalModel.load(c.base), c.rows("evaluation.jsonl", Prompt), conditions, out)


def _train(stage: str, out: StageFolder, *arguments: Any) -> None:
    """Train in all processes: the followers are told, and this one takes part."""
    distributed.call(stage, out.path, *arguments)
    TRAINING[stage](*arguments, out)


def train_sft(c: Context, out: StageFolder) -> None:
    """Supervised fine-tuning."""
    train, validation = c.rows("train.jsonl", Demonstration), c.rows("validation.jsonl", Demonstration)
    _train("sft", out, c.recipe.sft, c.base, c.recipe.model, train, validation)


def train_dpo(c: Context, out: StageFolder) -> None:
    """DPO on comparisons, of people and of the judge."""
    _train("dpo", out, c.recipe.dpo, c.base, c.tuned, c.comparisons("comparisons.jsonl"))


def train_ranking(c: Context, out: StageFolder, choose: Callable[[Recipe], RewardConfig | None], file: str) -> None:
    """A reward model on a file of comparisons."""
    config = choose(c.recipe)
    assert config is not None
    rows = config.rows(c.rows(file, Comparison), c.constitution.texts)
    _train("reward_model", out, config, c.base, c.done["sft"].path, rows, c.rows("train.jsonl", Demonstration))


def train_rl(c: Context, out: StageFolder) -> None:
    """Reinforcement learning."""
    prompts, watched = c.rows("prompts.jsonl", Prompt), c.rows("held_out_prompts.jsonl", Prompt)
    rows = rl.Rows(prompts, [row for row in watched if row.expect] or watched, c.rows("train.jsonl", Demonstration))
    start, reward = c.done[offline_stage(c.recipe)].path, c.done[preference_stage(c.recipe)].path
    second, cost = c.done["second_judge"].path, c.done["cost_model"].path if "cost_model" in c.done else None
    _train("rl", out, c.recipe.rl, c.base, start, reward, rows, second, cost)


def train_preference_model(c: Context, out: StageFolder) -> None:
    """A reward model on people's comparisons and the judge's."""
    config = c.recipe.preference_model
    assert config is not None
    rows = config.rows(c.comparisons("comparisons.jsonl"), c.constitution.texts)
    _train("reward_model", out, config, c.base, c.done["sft"].path, rows, c.rows("train.jsonl", Demonstration))


def _train_rl(
    config: RlooConfig | GrpoConfig | PpoConfig,
    base: Path,
    start: Path,
    reward: Path,
    rows: rl.Rows,
    second: Path,
    cost_model: Path | None,
    out: StageFolder,
) -> None:
    algorithm: rl.Algorithm
    match config:
        case RlooConfig():
            algorithm = Rloo(config)
        case GrpoConfig():
            algorithm = Grpo(config)
        case PpoConfig():
            algorithm = Ppo(config)
    ruled = config.constraint.behaviours if config.constraint else ()
    # Whether an answer shows what its prompt expects is never optimised; it chooses the checkpoint.
    behaviours = scores.passes if any(row.expect for row in rows.watched) else None
    judges = rl.Judges(
        gold=People(out.path.parent / LABELS) if config.watch.gold == "people" else behaviours,
        cost=functools.partial(scores.violates, ruled) if ruled else None,
        seen_by={"refused": scores.refused},
        second=second,
        cost_model=cost_model,
    )
    rl.run(config, algorithm, base, start, reward, rows, out, judges)


def write_reward_card(c: Context, out: StageFolder) -> None:
    """What the reward model is worth."""
    judge = RewardModel.load(c.base, c.done["reward_model"].path).judge
    held_out = c.rows("held_out_comparisons.jsonl", Comparison)
    reward_card.run(judge, held_out, c.rows("train.jsonl", Demonstration), out)


# ── constitutional AI ────────────────────────────────────────────────────────────────────────────────────────────────
def judge_of(config: JudgeConfig, base: Path, reward: Path, cache: Path) -> Judge:
    """The judges of a configuration, asked in turn.

    Args:
        reward: the folder of a reward model that reads principles, if the configuration asks one.
        cache: the file with the answers of an endpoint, if it asks one; what is there is not asked and paid again.
    """
    found: list[Judge] = []
    for kind in config.kinds:
        if kind == "rules":
            found.append(RuleJudge(detect, config.rule_confidence))
        elif kind == "reward":
            found.append(ScoringJudge(RewardModel.load(base, reward).judge))
        elif config.remote and kind == "remote":
            found.append(PromptedJudge(RemoteModel(config.remote, cache), config.chain_of_thought))
        else:
            model = LocalModel.load(pretrained.resolve(config.model) if config.model else base)
            found.append(PromptedJudge(model, config.chain_of_thought))
    return found[0] if len(found) == 1 else CascadeJudge(found)


def _judge(c: Context) -> Judge:
    assert c.recipe.judge is not None
    reward = c.done["reward_model"].path if "reward_model" in c.done else Path()
    return judge_of(c.recipe.judge, c.base, reward, c.cache)


def measure_judge(c: Context, out: StageFolder) -> None:
    """What the judge is worth; a recipe whose judge does not pass ends here."""
    assert c.recipe.judge is not None
    held_out = c.rows("held_out_comparisons.jsonl", Comparison)
    card = judge_card.run(c.recipe.judge, _judge(c), held_out, c.constitution, out)
    judge_card.admit(c.recipe.judge, card)


def revise(c: Context, out: StageFolder) -> None:
    """Answers, critiques and revisions."""
    config = c.recipe.revisions
    assert config is not None
    prompts = sources.spread(c.rows("prompts.jsonl", Prompt), config.prompts)
    rows = _written(c, config, prompts, out)  # the models that wrote leave the memory before the judge comes
    judge = _judge(c) if c.recipe.judge else None
    critique_revise.choose(config, rows, prompts, c.constitution, judge, out)


def _written(c: Context, config: RevisionsConfig, prompts: Sequence[Prompt], out: StageFolder) -> list[RevisedAnswer]:
    examples = c.rows("train.jsonl", Demonstration)
    policy = LocalModel.quick(c.base, c.done["sft"].path, examples)
    reviser: LanguageModel = policy
    digests = [c.done["sft"].digest, c.done["sft"].digest]
    if config.remote:
        reviser, digests[1] = RemoteModel(config.remote, c.cache), config.remote.model
    elif config.reviser == "base":
        reviser, digests[1] = LocalModel.quick(c.base, None, examples), pretrained.digest(c.base)
    return critique_revise.write(config, policy, reviser, (digests[0], digests[1]), prompts, c.constitution, out)


def train_on_revisions(c: Context, out: StageFolder) -> None:
    """Supervised learning from revisions."""
    config = c.recipe.cai_sft
    assert config is not None
    revisions = read(c.done["revisions"].file(critique_revise.DEMONSTRATIONS), Demonstration)
    rows = config.rows(revisions, c.rows("train.jsonl", Demonstration))
    start = None if config.from_base else c.done["sft"].path
    _train("cai_sft", out, config, c.base, c.recipe.model, rows, c.rows("validation.jsonl", Demonstration), start)


def _train_from(
    config: RevisedSftConfig,
    base: Path,
    base_name: str,
    rows: Sequence[Demonstration],
    validation: Sequence[Demonstration],
    start: Path | None,
    out: StageFolder,
) -> None:
    sft.run(config, base, base_name, rows, validation, out, start=start)


def give_feedback(c: Context, out: StageFolder) -> None:
    """The judge's comparisons of the policy's answers."""
    config = c.recipe.feedback
    assert config is not None
    assert c.recipe.judge is not None
    prompts = ai_feedback.select_prompts(config, c.constitution, c.rows("prompts.jsonl", Prompt))
    examples = c.rows("train.jsonl", Demonstration)
    found = ai_feedback.sample(config, LocalModel.quick(c.base, c.tuned, examples), prompts, out)
    name = "+".join(c.recipe.judge.kinds)
    ai_feedback.compare(config, found, _judge(c), name, prompts, c.constitution, out)


def ablate(c: Context, out: StageFolder) -> None:
    """The answers of the policies before the last one."""
    prompts = c.rows("evaluation.jsonl", Prompt)
    for stage in earlier_policies(c.recipe):
        model = LocalModel.load(c.base, c.done[stage].path)
        folder = StageFolder(out.path / stage, f"{out.stage} {stage}", out.emit)
        folder.path.mkdir(exist_ok=True)
        if not folder.file(answers.ANSWERS).exists():  # finished before a kill
            answers.run(c.recipe.answers, model, prompts, [Condition(stage, None)], folder)


def earlier_policies(recipe: Recipe) -> list[str]:
    """The stages that leave a policy, but for the last."""
    found = ["sft", *(name for name in ("cai_sft", "dpo", "rl") if getattr(recipe, name))]
    return found[:-1]


def answer_aligned(c: Context, out: StageFolder) -> None:
    """The last policy's answers."""
    prompts, aligned = c.rows("evaluation.jsonl", Prompt), LocalModel.load(c.base, c.policy)
    answers.run(c.recipe.answers, aligned, prompts, [Condition(ALIGNED, None)], out)


def score(c: Context, out: StageFolder) -> None:
    """Behaviours, rates, differences."""
    asked = earlier_policies(c.recipe) if "ablation" in c.done else []
    scores.run(
        c.rows("evaluation.jsonl", Prompt),
        raw_answers=c.done["raw_answers"].path,
        aligned_answers=c.done["aligned_answers"].path,
        raw_capability=c.done["raw_capability"].path,
        aligned_capability=c.done["aligned_capability"].path,
        out=out,
        earlier={stage: c.done["ablation"].path / stage for stage in asked},
        last=policy_stage(c.recipe),
    )


TRAINING: Mapping[str, Callable[..., None]] = {
    "sft": sft.run,
    "dpo": dpo.run,
    "reward_model": reward_model.run,
    "rl": _train_rl,
    "cai_sft": _train_from,
}
