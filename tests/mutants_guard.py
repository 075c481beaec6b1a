"""Faults in the guard and its gateway, for `mutants.py`."""

from __future__ import annotations

from mutants_core import Mutant

GUARD = (
    # ── operation ────────────────────────────────────────────────────────────────────────────────────────────────────
    Mutant(
        "the audit log does not look at the spelling of a line",
        "guard/gateway/audit_chain.py",
        "and canonical_ascii(record) == line ",
        "and True ",
        "unit/guard/gateway/test_audit.py::test_every_flipped_bit_of_a_record_or_a_head_is_found",
    ),
    Mutant(
        "a cut end of the audit log is not seen",
        "guard/gateway/audit_chain.py",
        "    if kept.head.seq > chain.head.seq:",
        "    if False:",
        "unit/guard/gateway/test_audit.py::test_every_cut_of_the_end_is_found",
    ),
    Mutant(
        "an answer does not wait for the disk",
        "guard/gateway/audit_file.py",
        "            os.fsync(self._file)\n            self._size",
        "            self._size",
        "unit/guard/gateway/test_audit_disk.py::test_a_record_counts_when_it_is_on_the_disk_and_the_head_after_it",
    ),
    Mutant(
        "half a record stays when the disk is full",
        "guard/gateway/audit_file.py",
        "            os.ftruncate(self._file, self._size)",
        "            os.ftruncate(self._file, self._size + 10)",
        "unit/guard/gateway/test_audit_disk.py::test_a_full_disk",
    ),
    Mutant(
        "a cancellation is lost that comes with a rail's result",
        "guard/workers.py",
        "            await waiter",
        "            await asyncio.wait_for(waiter, timeout_s)",
        "unit/guard/test_faults.py::test_a_cancellation_that_comes_with_a_rails_result_is_not_lost",
    ),
    Mutant(
        "the key of the gateway reaches the upstream",
        "guard/gateway/operation.py",
        "        if now.needs_keys:",
        "        if False:",
        "unit/guard/gateway/test_operation.py::test_a_key_lets_in_and_never_reaches_the_upstream",
    ),
    Mutant(
        "an answer is sent that could not be written down",
        "guard/gateway/operation.py",
        '            raise Refused(503, "audit_unavailable", error.found, retry_after_s=1) from None',
        "            return",
        "unit/guard/gateway/test_operation.py::test_a_full_disk_stops_the_answer_or_is_said",
    ),
    Mutant(
        "a place in the queue is lost with its client",
        "guard/gateway/limits.py",
        "            if turn.done() and not turn.cancelled():\n                self.leave()",
        "            if False:\n                self.leave()",
        "unit/guard/gateway/test_limits.py::test_the_place_that_came_as_its_owner_left_goes_to_the_next",
    ),
    Mutant(
        "a reload gives a new budget",
        "guard/gateway/limits.py",
        "limiter = self._limiters.setdefault(tenant, Limiter())",
        "limiter = self._limiters[tenant] = Limiter()",
        "unit/guard/gateway/test_limits.py::test_new_limits_forget_nothing_and_a_restart_neither",
    ),
    Mutant(
        "a broken file of tenants takes the guard away",
        "guard/gateway/tenants.py",
        "            self._retry_at = time.monotonic() + RETRY_S",
        "            self.now = Tenants(())\n            self._retry_at = time.monotonic() + RETRY_S",
        "unit/guard/gateway/test_tenants.py::test_a_changed_file_takes_effect_and_a_broken_one_changes_nothing",
    ),
    Mutant(
        "equal times hide a changed guard",
        "guard/gateway/tenants.py",
        "            if abs(time.time() - status.st_mtime) < SETTLED_S:",
        "            if False:",
        "unit/guard/gateway/test_tenants.py::test_equal_time_and_size_do_not_hide_a_change",
    ),
    # ── the core and its rails ───────────────────────────────────────────────────────────────────────────────────────
    Mutant(
        "a rail that raises says nothing",
        "guard/guard.py",
        """            return [_failed(rail, why, outcome.ms)]
        return [verdict.model_copy""",
        """            return []
        return [verdict.model_copy""",
        "unit/guard/test_guard.py::test_a_rail_that_raises_blocks",
    ),
    Mutant(
        "a call that hangs keeps its thread",
        "guard/workers.py",
        "            if now > job.started.result() + job.limit_s:",
        "            if False:",
        "unit/guard/test_guard.py::test_a_rail_that_hangs_holds_up_nobody",
    ),
    Mutant(
        "half a word is judged",
        "guard/rails/text.py",
        "if f.end + self.look_ahead <= len(text) or f.start < passed]",
        "if f.end <= len(text) or f.start < passed]",
        "unit/guard/rails/test_patterns.py::test_an_answer_that_goes_on_is_judged_up_to_its_last_whole_word",
    ),
    Mutant(
        "a key of many lines waits for its end",
        "guard/rails/text.py",
        "<= len(text) or f.start < passed]",
        "<= len(text)]",
        "unit/guard/rails/test_secrets.py::test_a_key_of_many_lines_is_redacted_while_it_is_written",
    ),
    Mutant(
        "repetitions of a pattern have no end",
        "guard/rails/patterns.py",
        "    short = _PIECE.sub(_with_an_end, text)",
        "    short = text",
        "unit/guard/rails/test_patterns.py::test_repetitions_get_an_end",
    ),
    Mutant(
        "an answer may hold what a tool said of somebody else",
        "guard/rails/personal_data.py",
        'part.role == "user" and value',
        "value",
        "unit/guard/rails/test_personal_data.py::test_people_may_send_their_own_data_and_get_it_back",
    ),
    # ── the classifier ───────────────────────────────────────────────────────────────────────────────────────────────
    Mutant(
        "a topic is in two parts",
        "guard/exchanges.py",
        "        leader[max(topic, other)] = min(topic, other)\n",
        "",
        "unit/guard/test_exchanges.py::test_no_topic_and_no_prompt_is_in_two_parts",
    ),
    Mutant(
        "a threshold is chosen on rows that break the principle",
        "guard/train.py",
        "threshold=Threshold.choose(scores[~breaks], rate)",
        "threshold=Threshold.choose(scores[breaks], rate)",
        "unit/guard/test_classifier.py::test_thresholds_come_from_harmless_rows_of_the_calibration",
    ),
    Mutant(
        "NaN in the weights is taken",
        "guard/scorer.py",
        "if not np.isfinite(found).all():",
        "if False:",
        "unit/guard/test_classifier.py::test_damaged_weights_are_refused",
    ),
    Mutant(
        "a guard of another constitution is taken",
        "guard/rails/classifier.py",
        'if about["constitution_digest"] != constitution.digest:',
        "if False:",
        "unit/guard/test_classifier.py::test_another_constitution_is_refused",
    ),
    Mutant(
        "a threshold lets more pass than it declares",
        "guard/calibration.py",
        "allowed = math.floor(rate * (len(ordered) + 1)) - 1",
        "allowed = math.floor(4 * rate * (len(ordered) + 1))",
        "unit/guard/test_calibration.py::test_the_declared_rate_holds_on_new_rows",
    ),
    # ── serving ──────────────────────────────────────────────────────────────────────────────────────────────────────
    Mutant(
        "served rows are drawn by the first one's settings",
        "serving/draws.py",
        "groups[config.temperature, *cut, bool(changes[i])].append(i)",
        "groups[1.0, 0, 1.0, False].append(i)",
        "unit/serving/test_engine.py::test_settings_of_its_own_for_every_row",
    ),
    Mutant(
        "a stop string leaks while it is served in pieces",
        "serving/sequences.py",
        "end = len(raw) if finish else len(raw) - self._held_back(raw)",
        "end = len(raw)",
        "unit/serving/test_app.py::test_stop_strings_end_an_answer_and_never_leak",
    ),
    Mutant(
        "a served sequence sees the keys of the one whose place it took",
        "serving/slots.py",
        "        self.mask[at] = torch.nn.functional.pad(other.mask, (max(0, -missing), 0))",
        "        self.mask[at] = 1",
        "unit/serving/test_engine.py::test_an_answer_is_that_of_the_sampler_alone",
    ),
    Mutant(
        "a long prompt is read at once while others are served",
        "serving/engine.py",
        "if first.rest > budget and lane.cached:",
        "if False:",
        "unit/serving/test_engine.py::test_a_long_prompt_does_not_hold_up_who_is_answered",
    ),
    Mutant(
        "a served probe does not see what was read before",
        "serving/engine.py",
        "    if before is None or before.watched is None:",
        "    if True:",
        "unit/serving/test_engine.py::test_a_probe_reads_every_token_once",
    ),
    Mutant(
        "a client that has gone is served to the end",
        "serving/service.py",
        "                ticket.cancelled.set()",
        "                pass",
        "unit/serving/test_app.py::test_nothing_is_sampled_for_a_client_that_has_gone",
    ),
    Mutant(
        "the beginning of a tool's call is served as text",
        "serving/replies.py",
        "end = len(self.text) if form is None or self.finish else",
        "end = len(self.text) if True else",
        "unit/serving/test_tool_calls.py::test_calls_are_found_or_the_text_stays",
    ),
    Mutant(
        "NaN of the probe lets a served answer go on",
        "cli/in_process.py",
        "not all(score < self.stop_at for score in scores)",
        "any(score >= self.stop_at for score in scores)",
        "unit/serving/test_in_process.py::test_a_probe_ends_an_answer",
    ),
)
