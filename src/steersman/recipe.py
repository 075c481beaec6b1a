"""What decides a run: the recipe, and how it is read from a file and from ``--set key=value``.

A recipe is checked here for its shape: keys, types, ranges. How its sections depend on each other is checked by the
stages (`pipeline.prepare`), which report a conflict with `Recipe.conflict` at the line where the key was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args

from pydantic import Field, PrivateAttr, ValidationError, field_validator

from steersman.constitution.ai_feedback import FeedbackConfig
from steersman.constitution.critique_revise import RevisionsConfig
from steersman.constitution.judges import JudgeConfig
from steersman.data.sources import DataConfig
from steersman.errors import RecipeError, closest
from steersman.evals.answers import AnswersConfig
from steersman.evals.capability import CapabilityConfig
from steersman.evals.forms import FormsConfig
from steersman.evals.public_prompts import PublicPromptsConfig
from steersman.evals.sense import SenseConfig
from steersman.evals.suites.runner import SuitesConfig
from steersman.guard.config import GuardConfig
from steersman.interp.audit.settings import AuditConfig
from steersman.lm.chat_settings import ChatConfig
from steersman.lm.device import Hardware
from steersman.redteam.plan import CampaignConfig
from steersman.train.dpo import DpoConfig
from steersman.train.reward_model import CostConfig, RewardConfig
from steersman.train.rl.grpo import GrpoConfig
from steersman.train.rl.ppo import PpoConfig
from steersman.train.rl.rloo import RlooConfig
from steersman.train.sft import RevisedSftConfig, SftConfig
from steersman.types import Record, Slug
from steersman.yaml_lines import LineOf, describe, load_yaml, parse, validate

# In a source checkout the recipes lie beside src/; a wheel carries them inside the package.
_CHECKOUT = Path(__file__).parents[2] / "recipes"
RECIPES = _CHECKOUT if _CHECKOUT.is_dir() else Path(__file__).parent / "recipes"

# Former keys, and what they are called now.
_PREFIX = {"": "", ".tokens": ".tokens", ".weight": ".weight", ".passes": ".upsample"}
_EVALUATION = ("", ".every_steps", ".gold", ".labels", ".prompts", ".stop_at")
_REWARD = {
    "centre_weight": "center_rewards_coefficient",
    "trust_raters": "rater_reliability",
    "without_style": "style_control",
}
RENAMED: Mapping[str, str] = {
    **{f"{stage}.opening{old}": f"{stage}.prefix{new}" for stage in ("sft", "cai_sft") for old, new in _PREFIX.items()},
    "cai_sft.demonstrations": "cai_sft.demonstrations_per_revision",
    "dpo.tokens": "dpo.first_n_tokens",
    "dpo.passes": "dpo.upsample",
    **{
        f"{model}.{old}": f"{model}.{new}"
        for model in ("reward_model", "cost_model", "preference_model")
        for old, new in _REWARD.items()
    },
    "judge.sure": "judge.rule_confidence",
    "judge.at_least": "judge.min_accuracy",
    "judge.believe_anyway": "judge.skip_validation",
    **{f"rl.watch{key}": f"rl.evaluation{key}" for key in _EVALUATION},
    "rl.kl_coefficient": "rl.kl_coef",
    "rl.value_weight": "rl.vf_coef",
    "rl.demonstration_weight": "rl.ptx_coef",
    "rl.most_varied": "rl.top_prompts_by_reward_std",
    "rl.rollouts.unended_penalty": "rl.rollouts.missing_eos_penalty",
}

RlRecipe = Annotated[RlooConfig | GrpoConfig | PpoConfig, Field(discriminator="algorithm")]


class ReportConfig(Record):
    """The report's page."""

    title: str = Field(default="", description="The page's title; empty: what was compared, or the model's name.")
    featured: tuple[str, ...] = Field(
        default=(), description="Questions shown first; those that are not evaluation prompts are listed as not asked."
    )


@dataclass
class Origin:
    """Where the values of a recipe were written. All origins are equal: they are not part of what a recipe says."""

    file: Path | None = None
    line_of: LineOf | None = None
    settings: Sequence[str] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin)

    def where(self, *keys: str) -> str:
        """The last setting, else the line of the file, that wrote one of these keys; else the first key itself."""
        for setting in reversed(self.settings):
            name = setting.partition("=")[0]
            if any(f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.") for key in keys):
                return f"--set {setting}"
        lines = [self.line_of(tuple(key.split("."))) for key in keys] if self.line_of else []
        return f"{self.file}:{max(lines)}" if any(line is not None for line in lines) else keys[0]


class Recipe(Record):
    """Everything that decides what a run produces. Paths are relative to the recipe's file.

    Sections that are null are skipped.
    """

    name: Slug = Field(description="The run's name: it works in runs/NAME unless --out is given.")
    hardware: Hardware = Field(default=Hardware(), description="The device and the precision of all models.")
    model: str = Field(description="gemma-3-270m, smollm2-135m-instruct, tiny-random, a Hub id, a folder, a GGUF file.")
    chat: ChatConfig = Field(default=ChatConfig(), description="What the model's chat template reads beside the text.")
    constitution: str | None = Field(
        default=None, description="A shipped constitution's name, or a YAML file; null: answers are only held to help."
    )
    data: str = Field(description="A shipped data set's name, a folder, a file, or a data set on the Hub.")
    columns: str = Field(default="", description="Columns of a file, e.g. prompt=question,chosen=good,rejected=bad.")
    votes: str | None = Field(
        default=None,
        description="A .jsonl file of further comparisons, e.g. from human raters.",
    )
    examples: DataConfig = Field(default=DataConfig(), description="How the data set is limited and split.")
    sft: SftConfig = Field(default=SftConfig(), description="Supervised fine-tuning; null: start from the model.")
    dpo: DpoConfig | None = Field(default=None, description="Direct preference optimisation on comparisons.")
    reward_model: RewardConfig | None = Field(default=None, description="A reward model trained on comparisons.")
    cost_model: CostConfig | None = Field(
        default=None, description="A second reward model for the principles that rl.constraint must keep."
    )
    judge: JudgeConfig | None = Field(default=None, description="The preference judge of constitutional AI.")
    revisions: RevisionsConfig | None = Field(default=None, description="Critiques and revisions of answers.")
    cai_sft: RevisedSftConfig | None = Field(default=None, description="Supervised fine-tuning on the revisions.")
    feedback: FeedbackConfig | None = Field(default=None, description="Answers compared by the judge.")
    preference_model: RewardConfig | None = Field(
        default=None,
        description="A reward model that also learns from the judge's comparisons; rl maximises it.",
    )
    ablation: bool = Field(default=False, description="Also evaluate the policies before the last one.")
    rl: RlRecipe | None = Field(default=None, description="Reinforcement learning: algorithm is rloo, grpo or ppo.")
    answers: AnswersConfig | None = Field(
        default=AnswersConfig(), description="How evaluation prompts are answered; null: they are not."
    )
    forms: FormsConfig | None = Field(default=None, description="Refusals on a grid of contents in every form.")
    public_prompts: PublicPromptsConfig | None = Field(
        default=None, description="Refusals on public sets of prompts, where a copy of them is found."
    )
    capability: CapabilityConfig | None = Field(
        default=CapabilityConfig(), description="Knowledge and perplexity; null: not measured."
    )
    sense: SenseConfig | None = Field(
        default=None, description="Do the answers make sense: relevance, loops, fluency, facts with known answers."
    )
    guard: GuardConfig | None = Field(
        default=None, description="The guard that enforces the constitution: its classifier, card, and what it catches."
    )
    suites: SuitesConfig | None = Field(
        default=None, description="Published suites, where a copy of them is found, and our own, before and after."
    )
    redteam: CampaignConfig | None = Field(
        default=None, description="Attacks on the models, alone and behind the guard, by every family that is known."
    )
    audit: AuditConfig | None = Field(
        default=None, description="The gate for inner alignment: what the aligned model's behaviour may hide."
    )
    report: ReportConfig = Field(default=ReportConfig(), description="The report's page.")

    _origin: Origin = PrivateAttr(default_factory=Origin)

    @field_validator("sft", mode="before")
    @classmethod
    def _from_the_model_itself(cls, value: Any) -> Any:
        return {"epochs": 0} if value is None else value

    @property
    def trains_a_policy(self) -> bool:
        """Whether a model comes out that is another than the one that went in; a reward model is none."""
        return bool(self.sft.epochs or self.cai_sft or self.dpo or self.rl)

    @property
    def trains_whole_modules(self) -> bool:
        """Whether an adapter of the recipe has ``modules_to_save``."""
        return any(config.lora.modules_to_save for config in (self.sft, self.cai_sft) if config is not None)

    def conflict(self, message: str, *keys: str, do: str = "") -> RecipeError:
        """The error for keys that do not go together, with the place where the last of them was written."""
        return RecipeError(message, where=self._origin.where(*keys), do=do)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def recipes() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``key=value`` settings (``sft.epochs=3``; values are YAML), in any order.

    Raises:
        RecipeError: no such recipe, a wrong key or value (with its line), or a setting that is not key=value.
    """
    path = Path(name)
    if str(name) in recipes():  # also where a run's folder or a file has that name
        path = RECIPES / f"{name}.yaml"
    if not path.exists():
        raise RecipeError(
            f"no recipe {str(name)!r}", expected="a YAML file or a shipped name", do=closest(str(name), recipes())
        )
    data, line_of = load_yaml(path, RecipeError)
    former = [key for key in _keys(data) if key in RENAMED]
    if former:
        _refuse_former_names(former, f"{path}:{line_of(tuple(former[0].split('.')))}")
    values = validate(Recipe, data, path, line_of, RecipeError).model_dump(mode="json")
    for key in ("model", "constitution", "data", "votes"):
        if values[key] is not None and (path.parent / values[key]).exists():
            values[key] = str(path.parent / values[key])
    if values["rl"] and values["rl"]["reward"] and (path.parent / values["rl"]["reward"].rpartition(":")[0]).is_file():
        values["rl"]["reward"] = str(path.parent / values["rl"]["reward"])
    origin = Origin(path, line_of, tuple(settings))
    # Sections first, so that the order does not matter; where one setting overwrites another, the later one wins.
    for setting in sorted(settings, key=lambda setting: not setting.partition("=")[2].lstrip().startswith("{")):
        _apply(values, setting)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        key, text = describe(error, Recipe)[0]
        raise RecipeError(text, where=origin.where(key)) from error
    recipe._origin = origin
    return recipe


def _keys(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key of nested mappings, dotted."""
    for name, value in values.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")


def _refuse_former_names(keys: Sequence[str], where: str) -> NoReturn:
    renamed = "\n".join(f"{key} was renamed to {RENAMED[key]}" for key in keys)
    raise RecipeError(renamed, where=where, do="write the new name")


def _apply(values: dict[str, Any], setting: str) -> None:
    """Put one setting into the values of a recipe; a section given as a mapping has the defaults for the rest."""
    key, equals, text = setting.partition("=")
    where, (*parents, last) = f"--set {setting}", key.split(".")
    if not equals:
        raise RecipeError("not of the form key=value", where=where, expected="a key of the recipe, e.g. sft.epochs=3")
    if key in RENAMED:
        _refuse_former_names([key], where)
    node: Any = values
    for depth, part in enumerate([*parents, last]):
        if node is None:
            section = ".".join(parents[:depth])
            raise RecipeError(
                f"the recipe has no section {section!r}",
                where=where,
                do=f"add it with its defaults: --set {section}={{}}",
            )
        known = _known(key.split(".")[:depth], node)
        free = isinstance(node, dict) and not _models(key.split(".")[:depth])  # a mapping whose keys are names
        if not isinstance(node, dict) or not (part in known or (free and part)):
            names = [".".join([*parents[:depth], name]) for name in known]
            raise RecipeError(
                f"no setting {key!r}",
                where=where,
                expected="a key of the recipe, e.g. sft.epochs=3",
                do=closest(key, names) if names else "",
            )
        if depth < len(parents):
            node = node.setdefault(part, {})
    node[last] = _with_defaults(_models([*parents, last]), parse(text))


def _known(path: Sequence[str], node: Any) -> list[str]:
    """The keys that may stand in the section at a path of the recipe, or the free keys of a mapping that is there."""
    own = [name for model in _models(path) for name in model.model_fields]
    return list(dict.fromkeys(own or (node if isinstance(node, dict) else ())))


def _models(path: Sequence[str]) -> list[type[Record]]:
    """The records that may stand at a path of the recipe: several for ``rl``, none where a plain value stands."""
    models: list[type[Record]] = [Recipe]
    for part in path:
        fields = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        models = [model for annotation in fields for model in records_in(annotation)]
    return models


def _with_defaults(models: Sequence[type[Record]], value: Any) -> Any:
    """A section with the defaults for the keys that it does not set, which later settings may then change in part."""
    if not isinstance(value, dict):
        return value
    if len(models) > 1:  # a union, told apart by its algorithm
        algorithm = value.get("algorithm")
        models = [model for model in models if algorithm in get_args(model.model_fields["algorithm"].annotation)]
    defaults = models[0].model_construct().model_dump(mode="json", warnings=False) if models else {}
    return {**defaults, **value}


def records_in(annotation: Any) -> Iterator[type[Record]]:
    """The records that a field of this type may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Record):
        yield annotation
    for argument in get_args(annotation):
        yield from records_in(argument)
