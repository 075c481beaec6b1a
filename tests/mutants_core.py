"""Faults in arithmetic, intervals, sampling, runs on disk and data, for `mutants.py`; and what a fault is."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """``old`` occurs once in ``file`` (relative to the package) and becomes ``new``; then ``test`` must fail."""

    fault: str
    file: str
    old: str
    new: str
    test: str  # a node id below tests/


CORE = (
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
        "packed rows are read from their neighbours' places",
        "lm/packing.py",
        "start[order] = layout.last + 1",
        "start[order] = layout.last",
        "unit/train/test_packing.py::test_a_batch_holds_every_row_once_and_hardly_any_padding",
    ),
    Mutant(
        "a long question takes the system text with it",
        "lm/chat_format.py",
        "return ids[:start] + ids[start +",
        "return ids[:0] + ids[",
        "unit/lm/test_chat_format.py::test_system_text_and_the_end_of_the_question_stay",
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
    Mutant(
        "KTO's bad answers have the weight of good ones",
        "train/kto.py",
        "(1 - desirable) * weights[1]",
        "(1 - desirable) * weights[0]",
        "unit/train/test_kto.py::test_step_and_gradients_are_those_of_the_formula",
    ),
    Mutant(
        "KTO's baseline is measured on a prompt's own answers",
        "train/kto.py",
        "[groups[-1], *groups[:-1]]",
        "groups",
        "unit/train/test_kto.py::test_step_and_gradients_are_those_of_the_formula",
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
        '"command-r"), Words(digits=True))',
        '"command-r"), Words())',
        "unit/lm/test_gguf_bpe.py::test_tokens_are_those_of_llama_cpp",
    ),
    Mutant(
        "SentencePiece's merges go from the lowest score up",
        "lm/gguf_file.py",
        "ranked += [(-scores[index], index",
        "ranked += [(scores[index], index",
        "unit/lm/test_gguf_sentencepiece.py::test_tokens_are_those_of_llama_cpp",
    ),
    Mutant(
        "Llama 3's scaling is not read",
        "lm/gguf_file.py",
        'header.factors("rope_freqs.weight")',
        'header.factors("rope_freqs")',
        "unit/lm/test_gguf_sentencepiece.py::test_scaled_rotary_positions_of_a_llama",
    ),
    Mutant(
        "the token that ends a turn does not stop an answer",
        "lm/gguf_file.py",
        "eos_token_id = [eos, eot]",
        "eos_token_id = eos",
        "unit/lm/test_gguf_bpe.py::test_a_chat_is_written_by_the_files_template_and_stops_at_its_ids",
    ),
    Mutant(
        "a model that reads ahead is taken for a decoder",
        "lm/head.py",
        "rows.last_hidden_state[1, :4]",
        "rows.last_hidden_state[0, :4]",
        "unit/lm/test_head.py::test_a_model_that_reads_ahead_is_refused",
    ),
    Mutant(
        "an n-gram may come twice if its last token is the first after it",
        "lm/no_repeat.py",
        "range(len(ids) - n + 1)",
        "range(len(ids) - n)",
        "unit/lm/test_no_repeat.py::test_no_ngram_comes_twice_and_the_logprobs_stay_the_models_own",
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
        "yield number, [], [error.found]",
        "continue",
        "unit/data/test_formats.py::test_each_fault_is_named_once_with_its_line",
    ),
    Mutant(
        "lines are counted from 0",
        "data/formats.py",
        "enumerate(found_rows, start=1)",
        "enumerate(found_rows, start=0)",
        "unit/data/test_formats.py::test_each_fault_is_named_once_with_its_line",
    ),
    Mutant(
        "a byte-order mark is part of the first row",
        "data/tables.py",
        '"utf-8-sig" if number == 1',
        '"utf-8" if number == 1',
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
    # ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────
    Mutant(
        "a call that the template leaves out is learnt as if it were there",
        "lm/chat_template.py",
        "for left_out in range(len(calls)):",
        "for left_out in range(0):",
        "unit/lm/test_chat_tools.py::test_what_a_template_leaves_out_is_refused",
    ),
    Mutant(
        "the calls that lead to the last answer are not learnt",
        "train/sft.py",
        "max(questions, default=len(messages))",
        "len(messages)",
        "unit/lm/test_chat_tools.py::test_the_last_answer_is_learnt_with_the_calls_that_lead_to_it",
    ),
    Mutant(
        "a template writes the clock's day",
        "lm/chat_settings.py",
        "if CLOCK in template:",
        "if not template:",
        "unit/lm/test_chat_tools.py::test_the_day_is_the_recipes_and_not_the_clocks",
    ),
    # ── exports ──────────────────────────────────────────────────────────────────────────────────────────────────────
    Mutant(
        "the text after the system message is that of a later turn",
        "lm/ollama.py",
        "self.after_system if system and i == 1 else self.user",
        "self.user",
        "unit/lm/test_ollama.py::test_the_go_template_writes_what_the_chat_template_writes",
    ),
    Mutant(
        "a new repository on the Hub is public",
        "lm/hub.py",
        "private=not public",
        "private=public",
        "unit/lm/test_hub.py::test_a_folder_is_uploaded_private_unless_asked_otherwise",
    ),
    # ── adapters ──
    Mutant(
        "layers above a trained embedding are taken for frozen",
        "lm/adapters.py",
        "if adapted and not config.modules_to_save else 0",
        "if adapted else 0",
        "unit/train/test_kinds_of_adapters.py::test_layers_below_a_module_that_learns_whole_are_not_frozen",
    ),
    Mutant(
        "the reference's hidden states meet the policy's output layer",
        "train/rl/actor.py",
        "divergence(reference, policy, reference_head, head)",
        "divergence(reference, policy, head, head)",
        "unit/train/test_kinds_of_adapters.py::test_reinforcement_starts_at_no_divergence_from_whole_ends",
    ),
    Mutant(
        "the output layer is read before its copy that learns is there",
        "train/sft.py",
        "TokenLoss(head_in_use(head, model), ",
        "TokenLoss(head, ",
        "unit/train/test_kinds_of_adapters.py::test_training_follows_the_gradient_of_whole_ends",
    ),
    Mutant(
        "invisible characters hide a refusal",
        "typography.py",
        'Step(_dressed, _INVISIBLE, lambda found: ""),',
        "Step(_dressed, _INVISIBLE, lambda found: found[0]),",
        "unit/test_typography.py::test_a_word_has_one_spelling",
    ),
    Mutant(
        "a translated refusal counts as the model's own",
        "evals/detectors/refusal.py",
        "for_words = bool(ASKS_FOR_WORDS.search(reply.prompt))",
        "for_words = False",
        "unit/evals/detectors/test_refusal.py::test_a_negation_or_somebody_elses_refusal_is_compliance",
    ),
    Mutant(
        "what a model thinks counts as its answer",
        "reasoning.py",
        'kept += "" if inside else text[place:]',
        "kept += text[place:]",
        "unit/test_typography.py::test_reasoning_is_cut_out",
    ),
)
