"""The refusal direction on tiny models that were taught to refuse, against the paper's procedure written out."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import pytest
import torch

from decoder_families import LAYERS, family
from steersman.errors import DataError
from steersman.interp.activations import read
from steersman.interp.anatomy import anatomy_of
from steersman.interp.directions import Differences, Direction, ablating, levelling, means, random_directions
from steersman.interp.refusal import (
    Candidate,
    RefusalConfig,
    clear_of,
    common_stream,
    first_logprobs,
    mean_kl,
    measure,
    nearest,
    preference,
    refusal_direction,
    refusal_scores,
    refusal_tokens,
    spread,
    zero_of,
)
from steersman.lm.head import head_of

BAD, GOOD, NO, YES, ALSO = range(10, 25), range(30, 45), 50, 52, 53
TEMPLATE = [60, 61, 62]


class Numbers:
    """A chat format whose words are token ids."""

    def prompt_ids(self, text: str) -> list[int]:
        return [1, *(int(word) for word in text.split() if word.isdecimal()), *TEMPLATE]


CHAT: Any = Numbers()


def prompts(words: range, seed: int, count: int = 60) -> list[str]:
    """Questions of two to four words, one of which decides."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(0, 15, (4,), generator=generator).tolist() for _ in range(count)]
    return [f"{words[a]} {3 + b % 4} {words[c]}" + (f" {3 + d % 4}" if d % 2 else "") for a, b, c, d in drawn]


def taught(name: str) -> Any:
    """A model that says NO to harmful words and YES, or to some ALSO, to others."""
    model, generator = family(name), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data /= 4 if parameter.ndim == 2 else 1
    texts = [(text, NO) for text in prompts(BAD, 1, 200)]
    texts += [(text, ALSO if str(GOOD[0]) in text else YES) for text in prompts(GOOD, 2, 200)]
    rows = [(CHAT.prompt_ids(text), answer) for text, answer in texts]
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(70):
        picked = [rows[i] for i in torch.randint(0, len(rows), (24,), generator=generator).tolist()]
        loss = torch.zeros(())
        for length in {len(ids) for ids, _ in picked}:
            some = [(ids, answer) for ids, answer in picked if len(ids) == length]
            logits = model(input_ids=torch.tensor([ids for ids, _ in some]), logits_to_keep=1).logits[:, -1]
            loss = loss + torch.nn.functional.cross_entropy(
                logits, torch.tensor([answer for _, answer in some]), reduction="sum"
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=[pytest.param("Llama"), pytest.param("Gemma3", marks=pytest.mark.slow)])
def refusing(request: pytest.FixtureRequest) -> Any:
    return taught(request.param)


def published(model: Any, harmful: list[list[int]], harmless: list[list[int]], one: Direction) -> tuple[float, ...]:
    """Ablation, steering and KL as andyrdt/refusal_direction computes them, with hooks of its own."""
    blocks, r = anatomy_of(model).blocks, one.vector

    def logits(rows: list[list[int]]) -> torch.Tensor:
        with torch.no_grad():
            return torch.stack([model(input_ids=torch.tensor([row])).logits[0, -1] for row in rows]).double()

    def score(found: torch.Tensor) -> float:
        mass = found.softmax(-1)[:, [NO]].sum(-1)
        return float((torch.log(mass + 1e-8) - torch.log(1 - mass + 1e-8)).mean())

    def without(x: torch.Tensor) -> torch.Tensor:
        return x - (x @ r)[..., None] * r

    def before(_: Any, given: tuple[Any, ...]) -> Any:
        return (without(given[0]), *given[1:])

    def behind(_: Any, __: Any, made: Any) -> Any:
        return (without(made[0]), *made[1:]) if isinstance(made, tuple) else without(made)

    plain = logits(harmless).softmax(-1)
    with ExitStack() as stack:
        for block in blocks:
            stack.callback(block.module.register_forward_pre_hook(before).remove)
            for writer in (block.attention_writer, block.mlp_writer):
                stack.callback(writer.register_forward_hook(behind).remove)
        ablation, changed = score(logits(harmful)), logits(harmless).softmax(-1)
    push = one.norm * r
    handle = blocks[one.layer].module.register_forward_pre_hook(lambda _, given: (given[0] + push, *given[1:]))
    steering = score(logits(harmless))
    handle.remove()
    return ablation, steering, float((plain * (plain.log() - changed.log())).sum(-1).mean())


def test_it_is_found_and_takes_refusal_away_and_random_ones_do_not(refusing: Any) -> None:
    loose = RefusalConfig(most_kl=50, candidates=None)
    found = refusal_direction(refusing, CHAT, prompts(BAD, 3), prompts(GOOD, 4), loose)
    assert next(iter(found.tokens)) == NO
    assert found.direction is not None
    best = found.candidates[0]
    assert best.ablation < 0 < found.harmful_score
    assert best.steering > 0 > found.harmless_score
    assert all(preference(best) <= preference(other) for other in found.candidates)
    assert {one.layer for one in found.candidates} <= set(range(int(0.8 * LAYERS)))  # none of the last fifth
    head, rows = head_of(refusing), [CHAT.prompt_ids(text) for text in prompts(BAD, 5, 16)]
    for one in random_directions(found.direction, 5):
        with ablating(refusing, one.vector):
            assert float(refusal_scores(first_logprobs(refusing, head, rows), [NO]).mean()) > best.ablation + 1


def test_its_numbers_are_those_of_the_published_procedure(refusing: Any) -> None:
    harmful, harmless = ([CHAT.prompt_ids(text) for text in prompts(kind, 6, 8)] for kind in (BAD, GOOD))
    head = head_of(refusing)
    found = refusal_direction(refusing, CHAT, prompts(BAD, 3), prompts(GOOD, 4), RefusalConfig(most_kl=50))
    assert found.direction is not None
    ours = measure(refusing, head, found.direction, [NO], harmful, harmless, first_logprobs(refusing, head, harmless))
    assert tuple(ours) == pytest.approx(published(refusing, harmful, harmless, found.direction), rel=1e-3, abs=1e-4)


def test_where_all_are_filtered_or_nothing_is_refused_it_says_so(refusing: Any) -> None:
    strict = RefusalConfig(most_kl=50, least_steering=1e6, candidates=3, clear="never")
    found = refusal_direction(refusing, CHAT, prompts(BAD, 3), prompts(GOOD, 4), strict)
    assert found.direction is None
    assert found.reason == "no single direction: of 3 candidates none passes the filters"
    assert {one.out for one in found.candidates} == {"does not induce refusal"}
    narrow = refusal_direction(refusing, CHAT, prompts(BAD, 3), prompts(GOOD, 4), RefusalConfig(most_kl=1e-9))
    assert {one.out for one in narrow.candidates} == {"changes harmless answers"}
    none = refusal_direction(refusing, CHAT, prompts(GOOD, 3), prompts(GOOD, 4))
    assert none.direction is None
    assert none.reason.startswith("no refusal")
    with pytest.raises(DataError, match="3 different harmful prompts"):
        refusal_direction(refusing, CHAT, ["10", "11", "12", "12"], prompts(GOOD, 4))


def test_the_nearest_one_takes_refusal_away_where_none_passes(refusing: Any) -> None:
    harmful, harmless = prompts(BAD, 3), prompts(GOOD, 4)
    narrow = RefusalConfig(most_kl=1e-9, candidates=4, clear="never")
    found = refusal_direction(refusing, CHAT, harmful, harmless, narrow)
    assert found.direction is None
    one, measured = nearest(refusing, CHAT, found, harmful, harmless, "near")
    assert (one.position, one.layer) in {(tried.position, tried.layer) for tried in found.candidates}
    assert measured.ablation < found.harmful_score - 1
    # By its own means, on other prompts: harmful ones are brought to where harmless ones are, which stay there.
    rows = [[CHAT.prompt_ids(text) for text in prompts(kind, 8, 16)] for kind in (BAD, GOOD)]
    ends = [means(refusing, side, (one.position,), range(LAYERS))[0] @ one.vector.double() for side in rows]
    head = head_of(refusing)
    plain = [refusal_scores(first_logprobs(refusing, head, side), [NO]) for side in rows]
    with levelling(refusing, one.vector, ends[1], ends[0] - ends[1]):
        changed = [refusal_scores(first_logprobs(refusing, head, side), [NO]) for side in rows]
    assert float(changed[0].mean()) < float(plain[0].mean()) - 1
    assert float((changed[1] - plain[1]).abs().mean()) < float((changed[0] - plain[0]).abs().mean()) / 2


def test_prompts_of_the_wrong_sign_are_dropped_and_counted(refusing: Any) -> None:
    mixed = [*prompts(BAD, 3, 40), *prompts(GOOD, 7, 6)]
    found = refusal_direction(refusing, CHAT, mixed, prompts(GOOD, 4, 40), RefusalConfig(most_kl=50))
    assert (found.dropped_harmful, found.dropped_harmless) == (6, 0)
    assert found.fitted[0] + found.validated[0] == len(set(mixed)) - 6


def test_refusal_tokens_are_counted() -> None:
    bad, good = torch.tensor([0.30, 0.60, 0.06, 0.005, 0.0]), torch.tensor([0.10, 0.0, 0.01, 0.0, 0.89])
    found = refusal_tokens(bad, good, RefusalConfig())  # the first only three times as often, the fourth seldom
    assert list(found) == [1, 2]
    assert found[2] == pytest.approx((0.06, 0.01))


def test_zero_is_the_middle_where_refusals_begin_in_many_ways() -> None:
    assert zero_of(torch.tensor([2.0, 1.0, -1.0]), torch.tensor([-5.0])) == 0
    assert zero_of(torch.tensor([0.5, -1.0, -1.0]), torch.tensor([-4.0, -5.0])) == pytest.approx(-2.5)
    assert zero_of(torch.tensor([-9.0]), torch.tensor([-5.0])) == 0  # no refusal at all


def test_what_all_tokens_share_is_taken_out_in_a_second_round(refusing: Any) -> None:
    rows = [CHAT.prompt_ids(text) for text in prompts(GOOD, 8, 9)]
    common = common_stream(refusing, rows)
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(LAYERS)]
    alone = [read(refusing, [row], names).sites for row in rows]
    for layer, name in enumerate(names):
        torch.testing.assert_close(common[layer], alone[0][name][0, 0].double(), rtol=1e-4, atol=1e-4)
        others = torch.cat([one[name][0, 1:] for one in alone]).double().mean(0)
        torch.testing.assert_close(common[LAYERS + layer], others, rtol=1e-4, atol=1e-4)
    vectors = torch.randn(2, 3, common.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cleared = clear_of(vectors, common)
    assert float((cleared @ common.T).abs().max()) < 1e-2 * float(common.norm(dim=-1).max())
    torch.testing.assert_close(clear_of(cleared, common), cleared)
    assert 0.1 < float(cleared.norm() / vectors.norm()) < 1
    strict = RefusalConfig(most_kl=1e-9, candidates=2)
    found = refusal_direction(refusing, CHAT, prompts(BAD, 3), prompts(GOOD, 4), strict)
    assert sorted(one.cleared for one in found.candidates) == [False, False, True, True]
    always = RefusalConfig(most_kl=50, candidates=2, clear="always", least_steering=-50)
    found = refusal_direction(refusing, CHAT, prompts(BAD, 3), prompts(GOOD, 4), always)
    assert [one.cleared for one in found.candidates] == [True, True]
    assert found.direction is not None
    assert found.direction.norm == pytest.approx(found.candidates[0].norm)


def test_scores_and_divergences_by_hand() -> None:
    chances = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    scores = refusal_scores(chances.log(), [0, 1])
    assert scores.tolist() == pytest.approx([math.log(4), math.log(0.25)], rel=1e-5)
    other = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
    by_hand = (0.2 * math.log(0.5) + 0.8 * math.log(0.8 / 0.6)) / 2
    assert mean_kl(chances.log(), other.log()) == pytest.approx(by_hand, rel=1e-5)
    assert math.isfinite(float(refusal_scores(torch.tensor([[0.0, -math.inf]]), [0])[0]))


def test_candidates_are_as_different_as_can_be() -> None:
    vectors = torch.tensor([[[0.0, 0, 0], [1, 0, 0]], [[5, 0.1, 0], [0, 2, 0]]], dtype=torch.float64)
    every = Differences(vectors, (-2, -1), (0, 1), "", "")
    assert spread(every, 2) == [(-1, 0), (-1, 1)]
    assert spread(every, 3) == spread(every, None) == [(-2, 1), (-1, 0), (-1, 1)]  # the one of zeros never


def test_those_that_pass_come_first() -> None:
    outs = [Candidate(-1, 0, score, 0.0, 0.0, 1.0, out) for score, out in ((1.0, ""), (-9.0, "x"), (0.5, ""))]
    assert [one.ablation for one in sorted(outs, key=preference)] == [0.5, 1.0, -9.0]
