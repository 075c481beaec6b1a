"""What both sides of the comparison are given: the same weights, the same starting adapter, the same token ids.

Token ids are drawn at random from those that occur in Steersman's own demonstrations, so that a compact vocabulary has
the size that it has in real work. Values do not change the speed; lengths are exact, nothing is padded.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEMONSTRATIONS = ROOT / "src" / "steersman" / "data" / "library" / "assistant" / "demonstrations.jsonl"
RANK, ALPHA, STEPS, LEARNING_RATE = 16, 32, 12, 1e-4
UPDATES = 3  # of PPO on one batch
KTO_WEIGHTS = 1.5, 0.8  # of desirable and undesirable answers, of unpaired rows

# rows a step, prompt tokens, completion tokens, completions of one prompt
SHAPES = {
    "sft-100-100": {"method": "sft", "rows": 8, "prompt": 100, "completion": 100, "group": 1},
    "sft-30-200": {"method": "sft", "rows": 8, "prompt": 30, "completion": 200, "group": 1},
    "rollouts": {"method": "rollouts", "rows": 4, "prompt": 30, "completion": 64, "group": 8},
    "dpo-200-100": {"method": "dpo", "rows": 4, "prompt": 200, "completion": 100, "group": 2},
    "reward-200-100": {"method": "reward", "rows": 4, "prompt": 200, "completion": 100, "group": 2},
    "grpo-update": {"method": "grpo-update", "rows": 4, "prompt": 30, "completion": 64, "group": 8},
    "grpo": {"method": "grpo", "rows": 4, "prompt": 30, "completion": 64, "group": 8},
}


def desirable(number: int) -> bool:
    """The label of a step's row, where each has the first completion alone."""
    return number % 3 > 0


def reward(token_ids: list[int]) -> float:
    """Any number that both sides compute alike."""
    return sum(token_ids) % 97 / 97


def build(name: str, base: Path, folder: Path, steps: int = STEPS, **changes: Any) -> dict[str, Any]:
    """The workload's steps as token ids, written to FOLDER/NAME.json; ``changes`` replace what the shape says."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = [json.loads(line)["completion"] for line in DEMONSTRATIONS.read_text(encoding="utf-8").splitlines()]
    seen = sorted({i for text in texts for i in tokenizer(text, add_special_tokens=False)["input_ids"]})
    shape, rng = {"learning_rate": LEARNING_RATE, **SHAPES[name], **changes}, random.Random(name)

    def ids(count: Any) -> list[int]:
        return rng.choices(seen, k=count)

    def group() -> dict[str, Any]:
        prompt = [tokenizer.bos_token_id, *ids(shape["prompt"] - 1)]
        return {"prompt": prompt, "completions": [ids(shape["completion"]) for _ in range(shape["group"])]}

    groups = [[group() for _ in range(shape["rows"])] for _ in range(steps)]
    hidden = json.loads((base / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    score = [rng.gauss(0.0, 0.02) for _ in range(hidden)]
    work = {"name": name, **shape, "base": str(base), "vocabulary": seen, "score": score, "steps": groups}
    (folder / f"{name}.json").write_text(json.dumps(work), encoding="utf-8")
    return work


def start_adapter(base: Path, folder: Path) -> Path:
    """A LoRA adapter with B away from 0, so that step 0 tests its gradients in full; both sides load it."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    target = folder / "adapter"
    if not target.exists():
        torch.manual_seed(0)
        config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
        policy = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        with torch.no_grad():
            for parameter_name, parameter in policy.named_parameters():
                if "lora_B" in parameter_name:
                    parameter.normal_(0.0, 0.002)
        policy.save_pretrained(target)
    return target
