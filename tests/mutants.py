"""Mutation testing by hand: one-line faults, each with the one test that must fail when it is in the code.

    make mutants                              # all of them, with a table
    python tests/mutants.py leases stats      # those whose fault, file or test contains one of these words

The package is copied to a temporary folder, one mutant is applied to the copy, and its test runs against the copy; the
working tree is never changed. Before that, all these tests must pass unchanged. A mutant whose test still passes
*survives*: the test shows less than it claims, or the code is not needed. `tests/test_mutants.py` checks in the fast
tier that every mutant still fits the source.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "steersman"
TEST_TIMEOUT_S = 120  # a mutant that hangs is caught too
CAUGHT, SURVIVED = "caught", "SURVIVED"
HEAVY = ("torch", "transformers", "peft", "scipy.stats", "sqlalchemy", "starlette.testclient", "choix")


class Mutant(NamedTuple):
    """``old`` occurs once in ``file`` (relative to the package) and becomes ``new``; then ``test`` must fail."""

    fault: str
    file: str
    old: str
    new: str
    test: str  # a node id below tests/


MUTANTS = (
    # ── arithmetic ───────────────────────────────────────────────────────────────────────────────────────────────────
    Mutant(
        "targets are shifted by none instead of one",
        "functional.py",
        "shifted[:, :-1] = completion_mask[:, 1:]",
        "shifted[:, :-1] = completion_mask[:, :-1]",
        "unit/test_functional.py::test_a_position_is_scored_when_its_successor_belongs_to_the_completion",
    ),
    Mutant(
        "a hidden state is paired with the token before it",
        "functional.py",
        "token_ids.roll(-1, dims=1)",
        "token_ids.roll(1, dims=1)",
        "unit/test_functional.py::test_gather_pairs_each_hidden_state_with_the_token_after_it",
    ),
    Mutant(
        "the preference loss has its sign flipped",
        "functional.py",
        "nll = -torch.nn.functional.logsigmoid(margins)",
        "nll = torch.nn.functional.logsigmoid(margins)",
        "unit/test_functional.py::test_a_preference_costs_what_bradley_and_terry_say",
    ),
    Mutant(
        "absent answers take part in a ranking",
        "functional.py",
        " & (ranks > 0)[:, :, None]",
        "",
        "unit/test_functional.py::test_a_ranking_is_the_mean_of_its_pairs",
    ),
    Mutant(
        "PPO takes the larger surrogate: the clip does not bind",
        "functional.py",
        "-torch.minimum(ratio * advantages",
        "-torch.maximum(ratio * advantages",
        "unit/test_functional.py::test_the_surrogate_is_clipped_where_the_step_would_go_too_far",
    ),
    Mutant(
        "the k3 estimate has policy and reference swapped",
        "functional.py",
        "    k1 = logprobs - reference\n",
        "    k1 = reference - logprobs\n",
        "unit/test_functional.py::test_k3_estimates_the_divergence",
    ),
    Mutant(
        "leave-one-out advantages are scaled by the inverse",
        "functional.py",
        "(answers / (answers - 1))",
        "((answers - 1) / answers)",
        "unit/test_functional.py::test_advantages_against_the_mean_of_all_and_of_the_others",
    ),
    Mutant(
        "GAE reads rewards beyond the end of an answer",
        "functional.py",
        "present = mask.to(values.dtype)",
        "present = torch.ones_like(values)",
        "unit/test_functional.py::test_generalised_advantages_by_hand",
    ),
    Mutant(
        "importance weights are not truncated",
        "functional.py",
        ".clamp(max=cap)",
        "",
        "unit/test_functional.py::test_what_another_distribution_sampled_counts_as_the_policy_would_have_it",
    ),
    Mutant(
        "the critic's loss takes the smaller of clipped and plain",
        "functional.py",
        "0.5 * torch.maximum(",
        "0.5 * torch.minimum(",
        "unit/test_functional.py::test_a_critic_gains_nothing_by_a_step_that_is_too_long",
    ),
    Mutant(
        "DPO prefers the rejected answer",
        "train/dpo.py",
        "preference_nll(beta * (ratios.chosen - ratios.rejected))",
        "preference_nll(beta * (ratios.rejected - ratios.chosen))",
        "unit/train/test_dpo.py::test_the_losses_by_hand",
    ),
    # ── intervals ────────────────────────────────────────────────────────────────────────────────────────────────────
    Mutant(
        "the paired interval lacks Newcombe's continuity correction",
        "stats.py",
        "max(cross - n / 2, 0.0)",
        "max(cross, 0.0)",
        "unit/test_stats.py::test_paired_difference_by_hand_where_the_correction_bites",
    ),
    Mutant(
        "Wilson's interval is centred on the observed rate",
        "stats.py",
        "(p + z * z / (2 * n))",
        "(p + 0 * z)",
        "unit/test_stats.py::test_wilson_agrees_with_scipy_at_every_count",
    ),
    Mutant(
        "McNemar's test is one-sided",
        "stats.py",
        "min(1.0, 2 * tail)",
        "min(1.0, tail)",
        "unit/test_stats.py::test_mcnemar_by_brute_force",
    ),
    Mutant(
        "observations of one rater count as independent",
        "stats.py",
        "effect = max(1.0, variance / alone",
        "effect = min(1.0, variance / alone",
        "unit/test_stats.py::test_the_clustered_variance_by_hand",
    ),
    # ── the output layer and sampling ────────────────────────────────────────────────────────────────────────────────
    Mutant(
        "the fused loss returns its gradient with the wrong sign",
        "lm/head.py",
        "gradients.append(-(probabilities.to(h.dtype) @ weight))",
        "gradients.append(probabilities.to(h.dtype) @ weight)",
        "unit/lm/test_head.py::test_completion_nll_and_its_gradient_are_those_of_autograd",
    ),
    Mutant(
        "the fused KL has its arguments swapped",
        "lm/head.py",
        "difference = wanted - policy",
        "difference = policy - wanted",
        "unit/lm/test_head.py::test_divergence_and_its_gradient_are_those_of_autograd",
    ),
    Mutant(
        "the compact vocabulary's correction is not divided by its share",
        "lm/compact_vocabulary.py",
        "index_add(0, chosen, correction / self.full_share)",
        "index_add(0, chosen, correction)",
        "unit/lm/test_head.py::test_the_estimate_of_the_loss_and_its_gradient_are_unbiased",
    ),
    Mutant(
        "digits of a SmolLM2 stay together",
        "lm/gguf_file.py",
        '"smollm": Words(digits=True)',
        '"smollm": Words()',
        "unit/lm/test_gguf_bpe.py::test_tokens_are_those_of_llama_cpp",
    ),
    Mutant(
        "the token that ends a turn does not stop an answer",
        "lm/gguf_file.py",
        "eos_token_id = [eos, eot]",
        "eos_token_id = eos",
        "unit/lm/test_gguf_bpe.py::test_a_chat_is_written_by_the_files_template_and_stops_at_its_ids",
    ),
    Mutant(
        "the nucleus loses the token that crosses its edge",
        "lm/sampling.py",
        "before = best.double().cumsum(-1) - best",
        "before = best.double().cumsum(-1)",
        "unit/lm/test_sampling.py::test_draws_follow_the_exact_distribution",
    ),
    # ── runs on disk ─────────────────────────────────────────────────────────────────────────────────────────────────
    Mutant(
        "a stage's folder is published before its manifest is written",
        "store.py",
        "        write_json(partial / MANIFEST, manifest)\n        target = self._publish(partial)\n",
        "        target = self._publish(partial)\n        write_json(target / MANIFEST, manifest)\n",
        "unit/test_store.py::test_a_kill_at_any_step_of_finishing_leaves_the_old_or_the_new_outputs",
    ),
    Mutant(
        "an output is reused without looking at its digest",
        "store.py",
        "if not file.exists() or sha256_file(file) != expected:",
        "if not file.exists():",
        "unit/test_store.py::test_a_damaged_output_runs_the_stage_again",
    ),
    Mutant(
        "two processes may hold one run",
        "store.py",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        "unit/test_store.py::test_a_second_process_gets_run_busy_and_the_lock_dies_with_its_holder",
    ),
    Mutant(
        "a key depends on the order of its fields",
        "store.py",
        "sort_keys=True",
        "sort_keys=False",
        "unit/test_store.py::test_canonical_json_does_not_depend_on_the_order_of_keys",
    ),
    Mutant(
        "a torn last line is not cut before the next",
        "store.py",
        'os.truncate(path, content.rfind(b"\\n") + 1)',
        "os.truncate(path, len(content))",
        "unit/test_store.py::test_a_torn_last_event_is_ignored_and_cut_before_the_next",
    ),
    Mutant(
        "a resumed training draws other random numbers",
        "train/loop.py",
        '    torch.set_rng_state(tensors["rng/torch"])\n',
        "",
        "unit/train/test_loop.py::test_going_on_from_a_checkpoint_is_bit_equal",
    ),
    Mutant(
        "a gradient that is not finite is stepped with",
        "train/loop.py",
        "if not (math.isfinite(loss) and math.isfinite(norm)):",
        "if not math.isfinite(loss):",
        "unit/train/test_loop.py::test_a_loss_or_gradient_that_is_not_finite_leaves_the_weights",
    ),
    # ── data and the constitution ────────────────────────────────────────────────────────────────────────────────────
    Mutant(
        "a bad row is dropped in silence",
        "data/formats.py",
        "faults[number] = [error.found]",
        "continue",
        "unit/data/test_formats.py::test_each_fault_is_named_once_with_its_line",
    ),
    Mutant(
        "lines are counted from 0",
        "data/formats.py",
        "enumerate(_rows(path), start=1)",
        "enumerate(_rows(path), start=0)",
        "unit/data/test_formats.py::test_each_fault_is_named_once_with_its_line",
    ),
    Mutant(
        "a byte-order mark is part of the first row",
        "data/formats.py",
        '"utf-8-sig"',
        '"utf-8"',
        "unit/data/test_formats.py::test_gzip_blank_lines_windows_line_ends_and_a_byte_order_mark_are_no_trouble",
    ),
    Mutant(
        "a priority does not settle a collision",
        "constitution/lint.py",
        "if constitution.winner(one.id, other.id):",
        "if not constitution.winner(one.id, other.id):",
        "unit/constitution/test_lint.py::test_a_chain_of_priorities_settles_a_collision",
    ),
    Mutant(
        "errors come after notes",
        "constitution/lint.py",
        '("error", "warning", "note").index',
        '("note", "warning", "error").index',
        "unit/constitution/test_lint.py::test_errors_come_before_warnings_and_notes",
    ),
    # ── sense ────────────────────────────────────────────────────────────────────────────────────────────────────────
    Mutant(
        "a prompt of the same topic is exchanged",
        "evals/sense.py",
        "if row.topic != mine.topic]",
        "if row is not mine]",
        "unit/evals/test_sense.py::test_prompts_are_exchanged_with_those_of_other_topics_only",
    ),
    Mutant(
        "the margin is over the mildest exchanged prompt",
        "evals/sense.py",
        "return self.own - max(others) if",
        "return self.own - min(others) if",
        "unit/evals/test_sense.py::test_an_exchanged_prompt_poses_as_the_answers_own_against_others_alone",
    ),
    Mutant(
        "an exchanged prompt poses against itself",
        "evals/sense.py",
        "self.others[count] - max(self.others[:count])",
        "self.others[count] - max(self.others[: count + 1])",
        "unit/evals/test_sense.py::test_an_exchanged_prompt_poses_as_the_answers_own_against_others_alone",
    ),
    Mutant(
        "an answer that was cut off makes sense",
        "evals/sense.py",
        'sense = found["on_question"] and found["ended"] and',
        'sense = found["on_question"] and',
        "unit/evals/test_sense.py::test_an_answer_makes_sense_if_nothing_is_wrong",
    ),
    Mutant(
        "the terminator of an answer is scored",
        "evals/sense.py",
        "completion_ids(answer)[:-1] if",
        "completion_ids(answer) if",
        "unit/evals/test_sense.py::test_margins_are_those_of_plain_transformers",
    ),
    Mutant(
        "a resumed stage keeps a half batch of scores",
        "evals/sense.py",
        "start = len(done) // config.batch_size * config.batch_size",
        "start = 0",
        "unit/evals/test_sense.py::test_a_killed_stage_goes_on_to_the_same_bytes",
    ),
    Mutant(
        "the corrected rate forgets false positives",
        "evals/sense.py",
        "max(0.0, (rate - f) / (s - f))",
        "max(0.0, rate / s)",
        "unit/evals/test_sense.py::test_the_corrected_rate_has_neither_misses_nor_false_alarms",
    ),
    Mutant(
        "a fact may stand anywhere in an answer",
        "evals/facts.py",
        "sentences[:SENTENCES]",
        "sentences",
        "unit/evals/test_facts.py::test_wrong_answers",
    ),
    Mutant(
        "half a word is a right answer",
        "evals/facts.py",
        "_whole_words(accepted) in text",
        "accepted in text",
        "unit/evals/test_facts.py::test_wrong_answers",
    ),
    Mutant(
        "facts are all questions",
        "evals/facts.py",
        "*spread(commands, limit // 2)",
        "*spread(questions, limit // 2)",
        "unit/evals/test_facts.py::test_any_number_of_facts_has_both_forms",
    ),
    Mutant(
        "a sentence that comes again is no loop",
        "data/loops.py",
        "times > 1 and len",
        "times > 9 and len",
        "unit/data/test_loops.py::test_loops_are_found",
    ),
    Mutant(
        "only short runs repeat",
        "data/loops.py",
        "range(SHORTEST_RUN, LONGEST_RUN + 1)",
        "range(SHORTEST_RUN, LONGEST_RUN)",
        "unit/data/test_loops.py::test_loops_are_found",
    ),
    # ── raters, endpoints, pages ─────────────────────────────────────────────────────────────────────────────────────
    Mutant(
        "a lease never ends",
        "rating/statements.py",
        'assignments.c.lease_until < bindparam("now")',
        'assignments.c.lease_until < -bindparam("now", type_=Integer)',
        "unit/rating/test_store.py::test_an_abandoned_question_returns",
    ),
    Mutant(
        "an invitation can be used twice",
        "rating/accounts.py",
        "            raters.c.joined_at.is_(None),\n",
        "",
        "unit/rating/test_store.py::test_a_link_works_once_and_is_stored_as_a_hash",
    ),
    Mutant(
        "an invitation's token is stored as it is",
        "rating/accounts.py",
        '"grp": group, "invitation": sha256_text(token)',
        '"grp": group, "invitation": token',
        "unit/rating/test_store.py::test_a_link_works_once_and_is_stored_as_a_hash",
    ),
    Mutant(
        "inline scripts may run where people rate",
        "rating/security.py",
        "script-src 'self'; ",
        "script-src 'self' 'unsafe-inline'; ",
        "unit/rating/test_app.py::test_scripts_in_model_text_are_text",
    ),
    Mutant(
        "other sites may post",
        "rating/security.py",
        "if origin not in (None, public) and",
        "if origin in (None, public) and",
        "unit/rating/test_hostile_requests.py::test_other_sites_cannot_post",
    ),
    Mutant(
        "a failing request is tried once more than its limit",
        "lm/endpoint/client.py",
        "for attempt in range(attempts):",
        "for attempt in range(attempts + 1):",
        "unit/lm/test_endpoint_faults.py::test_one_request_that_always_fails_costs_nobody_else_an_answer",
    ),
    Mutant(
        "an endpoint may repeat the key into a message",
        "lm/endpoint/client.py",
        'return text.replace(self.key, "[key]") if len(self.key) >= MIN_KEY_LENGTH else text',
        "return text",
        "unit/lm/test_endpoint_faults.py::test_the_key_is_in_no_file_and_no_message",
    ),
    Mutant(
        "the report does not escape model text",
        "report/charts.py",
        "return escape(visible(text), quote=True)",
        "return visible(text)",
        "unit/report/test_page.py::test_model_text_is_escaped",
    ),
    Mutant(
        "control characters reach the report",
        "report/charts.py",
        "return escape(visible(text), quote=True)",
        "return escape(text, quote=True)",
        "unit/report/test_page.py::test_model_text_is_escaped",
    ),
    # ── forms, public prompts, distillation, sweeps ─────────────────────────────────────────────────────────────────
    Mutant(
        "forms are permuted across contents in the chance term",
        "evals/forms.py",
        "of.var(axis=1).sum()",
        "of.var(axis=0).sum()",
        "unit/evals/test_forms.py::test_what_chance_gives_is_the_mean_over_all_permutations",
    ),
    Mutant(
        "the effect of form keeps what chance gives",
        "evals/forms.py",
        "spread(of) - times * chance(of)",
        "spread(of)",
        "unit/evals/test_forms.py::test_what_chance_gives_is_the_mean_over_all_permutations",
    ),
    Mutant(
        "a content that lacks a form counts as answered",
        "evals/forms.py",
        "table[~np.isnan(table).any(axis=1)]",
        "np.nan_to_num(table)",
        "unit/evals/test_forms.py::test_a_content_that_lacks_a_form_is_left_out",
    ),
    Mutant(
        "a limit cuts a grid in the middle of a content",
        "data/sources.py",
        "whole_contents(data.forms, config",
        "spread(data.forms, config",
        "unit/data/test_sources.py::test_the_stage_writes_its_files_and_their_counts",
    ),
    Mutant(
        "a form's rate is compared with that of all rows, its own included",
        "data/forms.py",
        "wilson(refused - sum(own), total - len(own))",
        "wilson(refused, total)",
        "unit/data/test_forms.py::test_commands_refused_and_questions_answered_are_found",
    ),
    Mutant(
        "grids are not looked at for leaks",
        "data/check.py",
        "[*evaluation, *forms, *development]",
        "[*evaluation]",
        "unit/data/test_check.py::test_grids_leak_like_evaluation_prompts_and_their_forms_are_no_twins",
    ),
    Mutant(
        "public prompts are the first ones of a file",
        "evals/public_prompts.py",
        'sorted(texts - {""}, key=sha256_text)',
        "[text for text in dict.fromkeys(_text(row, wanted.column) for row in rows) if text in texts]",
        "unit/evals/test_public_prompts.py::test_a_limit_takes_the_same_prompts_whatever_their_order",
    ),
    Mutant(
        "the teacher's texts begin alike at the first position that predicts",
        "train/distillation.py",
        "default=1) - 1]",
        "default=1)]",
        "unit/train/test_distillation.py::test_what_is_shared_ends_before_the_first_position_that_predicts",
    ),
    Mutant(
        "the teacher reads answers behind the bare prompt",
        "train/distillation.py",
        "for before in (None, preamble)",
        "for before in (None, None)",
        "unit/train/test_distillation.py::test_the_states_come_from_behind_the_few_shot_prompt",
    ),
    Mutant(
        "a text of the base model weighs 1 in a step's normaliser",
        "train/sft.py",
        "sum(row.weight * len(row.reference) for row in replayed)",
        "sum(len(row.reference) for row in replayed)",
        "unit/train/test_distillation.py::test_a_step_with_two_weights_is_that_of_the_separately_weighted_sums",
    ),
    Mutant(
        "the interval over seeds lacks the root of their number",
        "sweep.py",
        "stdev(values) / math.sqrt(count)",
        "stdev(values)",
        "unit/test_sweep.py::test_the_interval_by_hand",
    ),
    Mutant(
        "a sweep compares figures by their place",
        "sweep.py",
        "_values(found[baseline], figure.label)",
        "[run[runs[0].index(figure)].value for run in found[baseline]]",
        "unit/test_sweep.py::test_figures_are_compared_by_their_names",
    ),
)


# ── running them ─────────────────────────────────────────────────────────────────────────────────────────────────────
def tested(package_parent: Path, *tests: str) -> tuple[int, str]:
    """Run tests, given below tests/, on the package in a folder; this process imports it, so it can do so once.

    Returns:
        pytest's exit status and what it printed.
    """
    sys.path.insert(0, str(package_parent))
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(package_parent), "PYTHONDONTWRITEBYTECODE": "1"}
    os.chdir(ROOT)
    words = ["-x", "-p", "no:cacheprovider", "-p", "no:xdist", f"--timeout={TEST_TIMEOUT_S}"]
    words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plug-ins that were imported before
    with redirect_stdout(StringIO()) as said, redirect_stderr(said):
        status = pytest.main([*words, *(f"tests/{test}" for test in tests)])
    return int(status), said.getvalue()


def outcome(mutant: Mutant) -> tuple[str, float]:
    """What becomes of a mutant, and in how many seconds."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="steersman-mutant-") as folder:
        copy = Path(shutil.copytree(PACKAGE, Path(folder) / "steersman", ignore=shutil.ignore_patterns("__pycache__")))
        file = copy / mutant.file
        source = file.read_text(encoding="utf-8")
        if source.count(mutant.old) != 1:
            return f"its text occurs {source.count(mutant.old)} times", 0.0
        changed = source.replace(mutant.old, mutant.new)
        compile(changed, mutant.file, "exec")
        file.write_text(changed, encoding="utf-8")
        status, said = tested(copy.parent, mutant.test)
    seconds = time.perf_counter() - start
    if status == pytest.ExitCode.TESTS_FAILED and re.search(r"^FAILED tests/", said, flags=re.MULTILINE):
        return CAUGHT, seconds
    return (SURVIVED if status == pytest.ExitCode.OK else f"pytest: {status}\n{said[-2000:]}"), seconds


def main(words: Sequence[str]) -> int:
    """Run the mutants that hold one of the words (all without any); 0 if each was caught."""
    chosen = [m for m in MUTANTS if not words or any(word in " ".join((m.fault, m.file, m.test)) for word in words)]
    tests = list(dict.fromkeys(mutant.test for mutant in chosen))
    print(f"{len(chosen)} mutants; first their {len(tests)} tests without any ...", flush=True)
    for name in HEAVY:
        import_module(name)
    results = []
    # Forks of a process that has imported what takes long, but not the package: each imports its own copy, and ends.
    with get_context("fork").Pool(len(os.sched_getaffinity(0)), maxtasksperchild=1) as pool:
        status, said = pool.apply(tested, (PACKAGE.parent, *tests))
        if status:
            print(said)
            return 1
        for mutant, (result, seconds) in zip(chosen, pool.imap(outcome, chosen, chunksize=1), strict=True):
            print(f"{result:8}  {seconds:4.0f} s  {mutant.file:24} {mutant.fault}", flush=True)
            results.append(result)
    caught = results.count(CAUGHT)
    print(f"{caught} of {len(chosen)} mutants caught")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
