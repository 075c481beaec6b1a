"""Faults in the lens, attributions, patching and circuits, for `mutants.py`."""

from __future__ import annotations

from mutants_core import Mutant

_TESTS = "unit/interp"

INTERP_CIRCUITS = (
    Mutant(
        "heads are not looked for where they are taken from",
        "interp/activations.py",
        "        _check_heads(model, layer, ids)\n",
        "        pass\n",
        "unit/interp/test_activations.py::test_heads_that_are_not_where_they_are_looked_for_are_refused",
    ),
    Mutant(
        "a norm that does not name its epsilon has none",
        "interp/anatomy.py",
        "if eps is None:",
        "if False:",
        "unit/interp/test_activations.py::test_many_more_families_are_taken_apart_by_arithmetic",
    ),
    Mutant(
        "a head's write leaves out the norm behind the attention",
        "interp/writes.py",
        "return norm.linear(heads, scale), norm.linear(bias, scale) + norm.bias",
        "return heads, norm.linear(bias, scale) + norm.bias",
        f"{_TESTS}/test_attribution.py::test_all_that_is_written_sums_up_to_the_logit_difference",
    ),
    Mutant(
        "keys and values belong to one head of their group",
        "interp/writes.py",
        'share = 1 if kind == "q" else heads // groups',
        "share = 1",
        f"{_TESTS}/test_circuits.py::test_pruning_keeps_ways_from_the_input_to_the_logits",
    ),
    Mutant(
        "the MLP of a parallel block reads the attention beside it",
        "interp/writes.py",
        "before.append(first if anatomy.parallel else len(writers))",
        "before.append(len(writers))",
        f"{_TESTS}/test_circuits.py::test_all_edges_out_of_one_writer_are_patching_of_its_activation",
    ),
    Mutant(
        "heads are mixed behind the norm instead of in front of it",
        "interp/edges.py",
        "added += _plainly(norm, mixed) - _plainly(norm, own)",
        "added += mixed - own",
        f"{_TESTS}/test_circuits.py::test_all_edges_out_of_one_writer_are_patching_of_its_activation",
    ),
    Mutant(
        "integrated gradients begin at the clean text",
        "interp/circuits.py",
        "corrupt + step / steps * (clean - corrupt)",
        "clean + step / steps * (corrupt - clean)",
        f"{_TESTS}/test_circuits.py::test_scores_are_slopes_of_single_edges",
    ),
    Mutant(
        "the likeliest token has rank 0",
        "interp/lens.py",
        "1 + (logprobs > wanted",
        "0 + (logprobs > wanted",
        f"{_TESTS}/test_lens.py::test_each_layer_is_normed_by_its_own_scale_and_the_last_one_once",
    ),
    Mutant(
        "pairs that hardly differ are kept",
        "interp/pairs.py",
        "if gap >= least",
        "if gap >= 0",
        f"{_TESTS}/test_pairs.py::test_pairs_that_cannot_be_used_are_left_out_and_counted",
    ),
    Mutant(
        "noising reports what is left as lost",
        "interp/patching.py",
        'back if mode == "denoising" else 1 - back',
        "back",
        f"{_TESTS}/test_patching.py::test_patched_activations_are_those_of_plain_hooks",
    ),
)
