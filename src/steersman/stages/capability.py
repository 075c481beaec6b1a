"""`raw_capability` and `aligned_capability`: knowledge and perplexity before and after, the alignment tax."""

from __future__ import annotations

from steersman.cost.work import Counts, PeakSizes, Work, Workload, padded, scored
from steersman.evals import capability
from steersman.evals.capability import CapabilityConfig
from steersman.stage import Inputs, Stage
from steersman.stages.inputs import BASE, CAPABILITY_ITEMS, POLICY
from steersman.store import StageFolder


def run_raw(config: CapabilityConfig, given: Inputs, out: StageFolder) -> None:
    """Knowledge and perplexity of the base model."""
    capability.run(config, given[BASE], None, out)


def run_aligned(config: CapabilityConfig, given: Inputs, out: StageFolder) -> None:
    """Knowledge and perplexity of the aligned model."""
    capability.run(config, given[BASE], given[POLICY], out)


def estimate(config: CapabilityConfig, workload: Workload) -> Work:
    """One pass over all items."""
    examples = [job.example for job in capability.jobs(workload.chat.tokenizer, config)]
    size = config.batch_size
    tokens = padded([len(e.token_ids) for e in examples], size)
    positions = [scored(*examples[i : i + size]) for i in range(0, len(examples), size)]
    counts = Counts(loads=1, read_tokens=sum(tokens), scored_tokens=sum(positions))
    return Work(counts, PeakSizes(read_tokens=max(tokens), scored=max(positions)))


RAW_CAPABILITY = Stage(
    "raw_capability",
    (capability,),
    lambda r: r.capability,
    (BASE, CAPABILITY_ITEMS),
    run_raw,
    recipe_key="capability",
    estimate=estimate,
)
ALIGNED_CAPABILITY = Stage(
    "aligned_capability",
    (capability,),
    lambda r: r.capability if r.trains_a_policy else None,
    (BASE, POLICY, CAPABILITY_ITEMS),
    run_aligned,
    recipe_key="capability",
    estimate=estimate,
)
