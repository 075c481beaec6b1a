"""All attacks. A family is a file; its members are the frozen values in its ``ATTACKS``."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from steersman.errors import UserError, closest
from steersman.redteam.attack import Attack
from steersman.redteam.attacks import (
    best_of_n,
    direct,
    encodings,
    fuzzer,
    gcg,
    many_shot,
    multi_turn,
    pair,
    payload_splitting,
    prefix_injection,
    prompt_extraction,
    prompt_injection,
    refusal_direction,
    tap,
    tense,
    translation,
    wrappers,
)

ATTACKS: tuple[Attack, ...] = tuple(
    chain.from_iterable(
        module.ATTACKS
        for module in (
            direct,
            encodings,
            wrappers,
            tense,
            translation,
            many_shot,
            prefix_injection,
            payload_splitting,
            prompt_injection,
            prompt_extraction,
            multi_turn,
            best_of_n,
            fuzzer,
            pair,
            tap,
            gcg,
            refusal_direction,
        )
    )
)
FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(attack.family for attack in ATTACKS))


def by_name(names: Iterable[str]) -> tuple[Attack, ...]:
    """The attacks with these names, or of the families with these names, each once, in the order of `ATTACKS`.

    Raises:
        UserError: a name is neither; all of these are listed, with those that come close.
    """
    wanted = list(dict.fromkeys(names))
    known = {attack.name for attack in ATTACKS} | set(FAMILIES)
    if unknown := [name for name in wanted if name not in known]:
        near = "; ".join(closest(name, sorted(known)) for name in unknown)
        raise UserError(
            f"there is no attack or family {', '.join(map(repr, unknown))}",
            where="attacks",
            expected=f"one of the families {', '.join(FAMILIES)}, or an attack in one of them",
            do=near if "known:" not in near else "see docs/attacks.md",
        )
    return tuple(attack for attack in ATTACKS if attack.name in wanted or attack.family in wanted)
