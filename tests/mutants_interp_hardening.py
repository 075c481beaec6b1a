"""Faults in hardening and in the tamper curve, for `mutants.py`."""

from __future__ import annotations

from mutants_core import Mutant

_HERE = "unit/interp/hardening"

INTERP_HARDENING = (
    Mutant(
        "ReFAT's harmful rows are read without the ablation",
        "interp/hardening/refat.py",
        "    with hooks(state.model, edits):\n        refusing",
        "    with hooks(state.model, []):\n        refusing",
        f"{_HERE}/test_refat.py::test_the_loss_is_ablated_on_harmful_rows_alone",
    ),
    Mutant(
        "ReFAT's directions stay those of the first step",
        "interp/hardening/refat.py",
        "wanted = step - step % self.config.every_steps",
        "wanted = 0",
        f"{_HERE}/test_refat.py::test_directions_are_found_afresh_on_schedule_and_follow_the_model",
    ),
    Mutant(
        "what attention writes keeps the direction",
        "interp/hardening/direction.py",
        '("hook_attn_out", "hook_mlp_out")',
        '("hook_mlp_out",)',
        f"{_HERE}/test_refat.py::test_taken_out_everywhere_no_layer_reads_it",
    ),
    Mutant(
        "rerouting turns answers round, and not only away",
        "interp/hardening/rerouting.py",
        "cosine.relu().mean()",
        "cosine.mean()",
        f"{_HERE}/test_rerouting.py::test_losses_by_hand",
    ),
    Mutant(
        "the retain loss starts at nothing",
        "interp/hardening/rerouting.py",
        "max(progress, config.floor)",
        "progress",
        f"{_HERE}/test_rerouting.py::test_coefficients_are_those_of_the_authors_with_a_floor",
    ),
    Mutant(
        "the push points at refusing",
        "interp/hardening/preventative.py",
        "return layer, -streams",
        "return layer, streams",
        f"{_HERE}/test_preventative_and_tampering.py::test_the_push_is_added_after_its_layer_and_points_away_from_harm",
    ),
    Mutant(
        "a model that was tampered with for the curve keeps its MLP's detour",
        "lm/adapters.py",
        "    model = policy.unload()\n    fused_layers.leave_fused(model)\n",
        "    model = policy.unload()\n",
        f"{_HERE}/test_preventative_and_tampering.py::test_what_is_left_falls_and_the_model_is_as_before",
    ),
)
