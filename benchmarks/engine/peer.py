"""TRL's side of `compare.py`, in an environment of its own: TRL's trainers on the same ids, stepped by standard input.

    python peer.py WORK.json ADAPTER [--defaults]

The settings are the honest best for a CPU (fp32, SDPA, fused AdamW, no gradient checkpointing, no logging to disk);
``--defaults`` leaves TRL's gradient checkpointing on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false", TRL_EXPERIMENTAL_SILENCE="1"
)

import peft
import torch
import transformers
import trl
from datasets import Dataset
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from workload import KTO_WEIGHTS, UPDATES, desirable, reward

COMMON = {
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "num_train_epochs": 1,
    "use_cpu": True,
    "bf16": False,
    "fp16": False,
    "optim": "adamw_torch_fused",
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "dataloader_num_workers": 0,
    "dataloader_pin_memory": False,
    "logging_steps": 1,
    "remove_unused_columns": False,
}


def common(work: dict[str, Any], rows: int, defaults: bool) -> dict[str, Any]:
    """Settings of every trainer: the rows of a step, and whether it keeps its gradient checkpointing."""
    return COMMON | {
        "output_dir": tempfile.mkdtemp(),
        "learning_rate": work["learning_rate"],
        "per_device_train_batch_size": rows,
        "gradient_checkpointing": defaults,
    }


def say(**fields: Any) -> None:
    """One line back."""
    print(json.dumps(fields), file=ANSWERS, flush=True)


def said(loss: float | None, gradient_norm: float | None, seconds: float) -> None:
    """What a step has to say."""
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(loss=loss, gradient_norm=gradient_norm, seconds=seconds, peak_mb=peak_mb)


class Stepped(TrainerCallback):
    """Before a step, wait to be asked; after it, say how long it took and what the trainer logged."""

    def __init__(self) -> None:
        self.start, self.seconds = 0.0, 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Wait for a line."""
        if not sys.stdin.readline():
            sys.exit(0)
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop the clock before anything is logged."""
        self.seconds = time.perf_counter() - self.start

    def on_log(self, _: Any, __: Any, ___: Any, logs: dict[str, Any] | None = None, **____: Any) -> None:
        """Logged after every step."""
        logs = logs or {}
        if "grad_norm" in logs:
            said(logs.get("loss"), logs["grad_norm"], self.seconds)


def policy_of(work: dict[str, Any], adapter: Path) -> tuple[Any, Any]:
    """The base model with the common starting adapter, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(work["base"], dtype=torch.float32, attn_implementation="sdpa")
    policy = peft.PeftModel.from_pretrained(model, adapter, is_trainable=True)
    return policy, AutoTokenizer.from_pretrained(work["base"])


def in_order(trainer: Any) -> Any:
    """The rows as they come: both sides see the same steps."""
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(trainer.train_dataset)
    return trainer


def sft(work: dict[str, Any], adapter: Path, defaults: bool) -> None:
    """TRL's SFTTrainer on ids and labels."""
    policy, tokenizer = policy_of(work, adapter)
    rows = []
    for groups in work["steps"]:
        for g in groups:
            ids, start = g["prompt"] + g["completions"][0], len(g["prompt"])
            rows.append({"input_ids": ids, "labels": [-100] * start + ids[start:]})
    config = trl.SFTConfig(
        **common(work, work["rows"], defaults),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = trl.SFTTrainer(
        policy, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[Stepped()]
    )
    ready()
    in_order(trainer).train()


def rollouts(work: dict[str, Any], adapter: Path, defaults: bool) -> None:
    """What TRL's GRPOTrainer does without vLLM: `generate` on a batch with every prompt repeated."""
    policy, _ = policy_of(work, adapter)
    policy.eval()
    ready()
    for number, _ in enumerate(sys.stdin):
        groups = work["steps"][number % len(work["steps"])]
        ids = torch.tensor([g["prompt"] for g in groups for _ in range(work["group"])])
        start = time.perf_counter()
        with torch.no_grad():
            out = policy.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                min_new_tokens=work["completion"],
                max_new_tokens=work["completion"],
                disable_compile=True,
            )
        seconds = time.perf_counter() - start
        assert out.shape[1] == work["prompt"] + work["completion"]
        said(None, None, seconds)


def dpo(work: dict[str, Any], adapter: Path, defaults: bool) -> None:
    """TRL's DPOTrainer on ids; with a PEFT model the reference is read in every step.

    In the benchmark that is the base model; for the loops of a stage the starting adapter, as TRL has it.
    """
    policy, tokenizer = policy_of(work, adapter)
    rows = [
        {"prompt_ids": g["prompt"], "chosen_ids": g["completions"][0], "rejected_ids": g["completions"][1]}
        for groups in work["steps"]
        for g in groups
    ]
    config = trl.DPOConfig(
        **common(work, work["rows"], defaults),
        max_length=None,
        beta=0.1,
        loss_type=["ipo" if work["method"] == "ipo-stage" else "sigmoid"],
    )
    data = Dataset.from_list(rows)
    with prepared(trl.DPOTrainer):
        trainer = trl.DPOTrainer(
            policy, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[Stepped()]
        )
    if work["method"] == "dpo":
        base_as_reference(policy)
    ready()
    in_order(trainer).train()


def kto(work: dict[str, Any], adapter: Path, defaults: bool) -> None:
    """TRL's KTOTrainer on ids; a step's foreign answers are those of the neighbouring prompt.

    Unpaired, each prompt has its first completion alone.
    """
    unpaired = work["method"] == "kto-unpaired-stage"
    sides, weights = ((0,), KTO_WEIGHTS) if unpaired else ((0, 1), (1.0, 1.0))
    policy, tokenizer = policy_of(work, adapter)
    rows = [
        {
            "prompt_ids": own["prompt"],
            "completion_ids": own["completions"][side],
            "KL_completion_ids": other["completions"][side],
            "label": desirable(number) if unpaired else side == 0,
        }
        for groups in work["steps"]
        for number, (own, other) in enumerate(zip(groups, [groups[-1], *groups[:-1]], strict=True))
        for side in sides
    ]
    config = trl.KTOConfig(
        **common(work, len(sides) * work["rows"], defaults),
        max_length=None,
        beta=0.1,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
    )
    with prepared(trl.KTOTrainer):
        trainer = trl.KTOTrainer(
            policy,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Stepped()],
        )
    ready()
    in_order(trainer).train()


def scorer_of(work: dict[str, Any], adapter: Path) -> Any:
    """A sequence classifier with one label, its score trained beside the common starting adapter."""
    model = AutoModelForSequenceClassification.from_pretrained(
        work["base"], dtype=torch.float32, attn_implementation="sdpa", num_labels=1
    )
    model.config.pad_token_id = 0
    with torch.no_grad():
        model.score.weight.copy_(torch.tensor(work["score"])[None])
    start = load_file(adapter / "adapter_model.safetensors")
    settings = peft.LoraConfig.from_pretrained(adapter)
    settings.task_type, settings.modules_to_save, settings.inference_mode = "SEQ_CLS", ["score"], False
    policy = peft.get_peft_model(model, settings)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_" in name:
                parameter.copy_(start[name.replace(".default.", ".")])
    return policy


def reward_model(work: dict[str, Any], adapter: Path, defaults: bool) -> None:
    """TRL's RewardTrainer."""
    policy = scorer_of(work, adapter)
    rows = [
        {"chosen_ids": g["prompt"] + g["completions"][0], "rejected_ids": g["prompt"] + g["completions"][1]}
        for groups in work["steps"]
        for g in groups
    ]
    config = trl.RewardConfig(
        **common(work, work["rows"], defaults),
        max_length=None,
    )
    trainer = trl.RewardTrainer(
        policy,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(work["base"]),
        callbacks=[Stepped()],
    )
    ready()
    in_order(trainer).train()


def grpo(work: dict[str, Any], adapter: Path, defaults: bool) -> None:
    """TRL's GRPOTrainer without vLLM; for the update alone, its sampling is replaced by the workload's completions."""
    sampling = {"generation_kwargs": {"min_new_tokens": work["completion"]}, "temperature": 1.0, "top_k": 0}
    trainer, groups = over_groups(trl.GRPOTrainer, trl.GRPOConfig, work, adapter, defaults, **sampling)
    if work["method"] == "grpo-update":
        given_completions(trainer, groups, work["group"])
    ready()
    trainer.train()


def rloo(work: dict[str, Any], adapter: Path, defaults: bool) -> None:
    """TRL's RLOOTrainer on the workload's completions."""
    trainer, groups = over_groups(trl.RLOOTrainer, trl.RLOOConfig, work, adapter, defaults)
    given_completions(trainer, groups, work["group"])
    ready()
    trainer.train()


def over_groups(
    method: Any, settings: Any, work: dict[str, Any], adapter: Path, defaults: bool, **more: Any
) -> tuple[Any, list[dict[str, Any]]]:
    """A trainer of groups of completions that takes the workload's prompts, in order, and its reward; and the groups.

    Args:
        method: TRL's trainer.
        settings: the class of its settings.
        more: settings that are this method's own.
    """
    policy, tokenizer = policy_of(work, adapter)
    groups = [g for step in work["steps"] for g in step]
    config = settings(
        **common(work, work["rows"] * work["group"], defaults),
        num_generations=work["group"],
        steps_per_generation=1,
        max_completion_length=work["completion"],
        beta=0.05,
        shuffle_dataset=False,
        **more,
    )

    def rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [reward(ids) for ids in completion_ids]

    trainer = method(
        policy,
        reward_funcs=rewards,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": str(i)} for i in range(len(groups))]),
        processing_class=tokenizer,
        callbacks=[Stepped()],
    )
    base_as_reference(policy)
    trainer._tokenize_prompts = lambda prompts: ([groups[int(p)]["prompt"] for p in prompts], None, {})
    return trainer, groups


def given_completions(trainer: Any, groups: list[dict[str, Any]], size: int) -> None:
    """Let a trainer take the workload's completions instead of sampling."""
    state = {"row": 0}

    def given(prompt_ids: list[list[int]], *_: Any, **__: Any) -> Any:
        start = state["row"]
        state["row"] += len(prompt_ids) // size
        found = [completion for g in groups[start : state["row"]] for completion in g["completions"]]
        return found if isinstance(trainer, trl.RLOOTrainer) else (found, None)  # GRPO's come with log-probs, or None

    trainer._generate_single_turn = given


def base_as_reference(policy: Any) -> None:
    """TRL keeps a copy of the starting adapter as reference; with B = 0 it is the base model, as on our side."""
    copies = [parameter for name, parameter in policy.named_parameters() if ".ref." in name and "lora_B" in name]
    assert copies
    with torch.no_grad():
        for parameter in copies:
            parameter.zero_()


def ppo(work: dict[str, Any], adapter: Path, defaults: bool) -> None:
    """TRL 1.10's PPOTrainer: the updates of one batch, whose completions and scores are the workload's.

    The critic starts as a scorer with the common adapter; the reference is the base model.
    """
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    policy, tokenizer = policy_of(work, adapter)
    base = AutoModelForCausalLM.from_pretrained(work["base"], dtype=torch.float32, attn_implementation="sdpa")
    scorer, rewarded = scorer_of(work, adapter), torch.nn.Module()
    groups = work["steps"][0]
    prompts = [group["prompt"] for group in groups for _ in group["completions"]]

    def given(model: Any, queries: Any, _: int, pad_id: int, __: Any) -> Any:
        """Completions for queries in any order, and the logits from which they were drawn."""
        waiting = {tuple(group["prompt"]): iter(group["completions"]) for group in groups}
        completions = [next(waiting[tuple(query)]) for query in queries.tolist()]
        ids = torch.cat([queries, torch.tensor(completions)], 1)
        return ids, ppo_trainer.forward(model, ids, pad_id).logits[:, queries.shape[1] - 1 : -1]

    def scored(model: Any, ids: Any, pad_id: int, length: int) -> Any:
        if model is not rewarded:
            return get_reward(model, ids, pad_id, length)
        return None, torch.tensor([reward(row[length:]) for row in ids.tolist()]), None

    get_reward = ppo_trainer.get_reward
    ppo_trainer.batch_generation, ppo_trainer.get_reward = given, scored
    config = PPOConfig(
        **common(work, len(prompts), defaults) | {"disable_tqdm": None, "logging_steps": 100},
        total_episodes=len(prompts),
        num_ppo_epochs=UPDATES,
        num_mini_batches=1,
        num_sample_generations=0,
        local_rollout_forward_batch_size=len(prompts),
        response_length=work["completion"],
        temperature=1.0,
        kl_coef=0.05,
    )
    rows = Dataset.from_list([{"input_ids": prompt} for prompt in prompts])
    trainer = PPOTrainer(config, tokenizer, policy, base, rewarded, rows, scorer)
    backward, update, losses = trainer.accelerator.backward, trainer.optimizer.step, []

    def watched_backward(loss: Any) -> None:
        losses.append(loss.item())
        backward(loss)

    def watched_update() -> None:
        """Every update is a step that is asked for."""
        if not sys.stdin.readline():
            sys.exit(0)
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        said(losses[-1], float(torch.nn.utils.get_total_norm(gradients)), 0.0)
        update()

    trainer.accelerator.backward, trainer.optimizer.step = watched_backward, watched_update
    ready()
    trainer.train()


@contextmanager
def prepared(trainer: Any) -> Iterator[None]:
    """Let a trainer take its data as tokenised already."""
    was = trainer._prepare_dataset
    trainer._prepare_dataset = lambda self, dataset, *_: dataset
    try:
        yield
    finally:
        trainer._prepare_dataset = was


METHODS = {
    "sft": sft,
    "rollouts": rollouts,
    "dpo": dpo,
    "dpo-stage": dpo,
    "ipo-stage": dpo,
    "kto-stage": kto,
    "kto-unpaired-stage": kto,
    "reward": reward_model,
    "reward-stage": reward_model,
    "grpo": grpo,
    "grpo-update": grpo,
    "rloo-update": rloo,
    "ppo-update": ppo,
}


def ready() -> None:
    """Say so, with the versions."""
    say(ready=True, torch=torch.__version__, trl=trl.__version__, transformers=transformers.__version__)


def main() -> None:
    """Load, say that it is ready, and step when asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--defaults", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    work = json.loads(arguments.work.read_text(encoding="utf-8"))
    METHODS[work["method"]](work, arguments.adapter, arguments.defaults)


if __name__ == "__main__":
    ANSWERS, sys.stdout = sys.stdout, sys.stderr  # TRL prints its logs; answers go alone
    main()
