"""Faults in directions, in what is baked of them into weights and in files of them, for `mutants.py`."""

from __future__ import annotations

from mutants_core import Mutant

_TESTS = "unit/interp"

INTERP_DIRECTIONS = (
    Mutant(
        "a direction is added to embeddings as if nothing multiplied them",
        "interp/baking.py",
        "(push / _embedding_scale(model, table, push))",
        "push",
        f"{_TESTS}/test_baking.py::test_addition_is_a_bias_where_norms_come_first",
    ),
    Mutant(
        "what a block multiplies its layers' outputs by is forgotten",
        "interp/writes.py",
        "return block.scale * torch.einsum",
        "return torch.einsum",
        f"{_TESTS}/test_activations.py::test_many_more_families_are_taken_apart_by_arithmetic",
    ),
    Mutant(
        "what attention and MLP write keeps the ablated direction",
        "interp/directions.py",
        'inner = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")',
        'inner = ("hook_resid_pre", "hook_resid_pre", "hook_resid_pre")',
        f"{_TESTS}/test_directions.py::test_nothing_holds_or_writes_what_is_ablated",
    ),
    Mutant(
        "the means are read one token too early",
        "interp/directions.py",
        "seen.at(name, position).double()",
        "seen.at(name, position - 1).double()",
        f"{_TESTS}/test_directions.py::test_means_are_those_of_hugging_faces_hidden_states",
    ),
    Mutant(
        "directions are baked past the gain of a post-norm",
        "interp/baking.py",
        "form.centre(gain * r.double())",
        "form.centre(1 * r.double())",
        f"{_TESTS}/test_baking.py::test_nothing_writes_a_baked_direction",
    ),
    Mutant(
        "biases of output projections keep the direction",
        "interp/baking.py",
        "        _remove(bias, s, u)\n",
        "        pass\n",
        f"{_TESTS}/test_baking.py::test_nothing_writes_a_baked_direction",
    ),
    Mutant(
        "the output layer loses the direction with the embeddings that it is tied to",
        "interp/baking.py",
        "    if shares:\n",
        "    if False:\n",
        f"{_TESTS}/test_baking.py::test_tied_embeddings_may_stay_and_then_bring_the_direction_in",
    ),
    Mutant(
        "harmless prompts that are refused count as harmless",
        "interp/refusal.py",
        "zip(bad, scores_bad.tolist(), strict=True) if score > self.zero]",
        "zip(bad, scores_bad.tolist(), strict=True)]",
        f"{_TESTS}/test_refusal_selection.py::test_prompts_of_the_wrong_sign_are_dropped_and_counted",
    ),
    Mutant(
        "a direction that does not induce refusal passes",
        "interp/refusal.py",
        "if found.steering < self.zero + self.config.least_steering else",
        "if found.steering < -1e9 else",
        f"{_TESTS}/test_refusal_selection.py::test_where_all_are_filtered_or_nothing_is_refused_it_says_so",
    ),
    Mutant(
        "control vectors are numbered by the layer that reads them",
        "interp/saved_vectors.py",
        'f"direction.{one.layer - 1}"',
        'f"direction.{one.layer}"',
        f"{_TESTS}/test_saved_vectors.py::test_added_behind_the_block_that_the_file_names_it_is_our_addition",
    ),
    Mutant(
        "a left-out question is part of the persona vector that it is measured with",
        "interp/personas.py",
        "(differences.sum(0) - differences)",
        "(differences.sum(0) - 0 * differences)",
        f"{_TESTS}/test_personas.py::test_a_left_out_question_has_no_part_in_the_vector_that_it_is_measured_with",
    ),
)
