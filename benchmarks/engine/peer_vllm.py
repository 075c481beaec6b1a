"""vLLM's side of `compare.py`: rollouts alone, in an environment of its own, stepped by standard input.

    python peer_vllm.py WORK.json ADAPTER

All cores are its own, the adapter is a LoRA request, and a prompt that rows share is read once (its prefix cache).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.update(
    HF_HUB_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    VLLM_DO_NOT_TRACK="1",
    VLLM_HOST_IP="127.0.0.1",
    VLLM_LOGGING_LEVEL="ERROR",
    VLLM_CPU_NUM_OF_RESERVED_CPU="0",  # otherwise it leaves one of the two cores idle
)


def peak_mb() -> float:
    """The largest memory of this process and of those that it started, added up."""
    import psutil

    own = psutil.Process()
    found = 0
    for process in (own, *own.children(recursive=True)):
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        found += next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return found / 1024


def main() -> None:
    """Load, say that it is ready, and step when asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("adapter", type=Path)
    arguments = parser.parse_args()
    answers, sys.stdout = sys.stdout, sys.stderr  # vLLM prints; answers go alone

    def say(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    import torch
    import vllm
    from vllm.lora.request import LoRARequest

    work = json.loads(arguments.work.read_text(encoding="utf-8"))
    engine = vllm.LLM(
        model=work["base"],
        dtype="float32",
        max_model_len=work["prompt"] + work["completion"],
        kv_cache_memory_bytes=2**29,
        enable_lora=True,
        max_lora_rank=16,
        max_loras=1,
        generation_config="vllm",
    )
    lora = LoRARequest("start", 1, str(arguments.adapter))
    say(ready=True, torch=torch.__version__, vllm=vllm.__version__)
    for number, _ in enumerate(sys.stdin):
        groups = work["steps"][number % len(work["steps"])]
        prompts = [{"prompt_token_ids": g["prompt"]} for g in groups for _ in range(work["group"])]
        length = work["completion"]
        params = [
            vllm.SamplingParams(
                temperature=1.0,
                seed=i,
                min_tokens=length,
                max_tokens=length,
                ignore_eos=True,
                logprobs=0,
                detokenize=False,
            )
            for i in range(len(prompts))
        ]
        start = time.perf_counter()
        found = engine.generate(prompts, params, use_tqdm=False, lora_request=lora)
        seconds = time.perf_counter() - start
        assert all(len(request.outputs[0].token_ids) == length for request in found)
        say(loss=None, gradient_norm=None, seconds=seconds, peak_mb=peak_mb())


if __name__ == "__main__":
    main()
