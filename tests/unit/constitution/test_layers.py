"""Publisher, user and default: every combination of settings, what a model is told, what is refused and why."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from tests.unit.constitution.conftest import principle
from tests.unit.constitution.test_contested import contested

from steersman.constitution.document import Constitution, Principle
from steersman.constitution.layers import Deployment, load_deployment, resolve
from steersman.errors import ConstitutionError

CLUB = "The Club"


def document(*principles: Principle) -> Constitution:
    return Constitution(name="feast", title="F", publisher="Us", version="1", persona="Plain.", principles=principles)


def club(**choices: str) -> Deployment:
    return Deployment(publisher=CLUB, constitution="feast", choices=choices)


def expected(override: str, precedence: str, publisher: str | None, user: str | None) -> tuple[str, str]:
    """Choice and layer, in the words of the documentation."""
    may_publisher, may_user = override in ("publisher", "user"), override == "user"
    publisher, user = (publisher if may_publisher else None), (user if may_user else None)
    if publisher and user:
        return (user, "user") if precedence == "user" else (publisher, "publisher")
    return (publisher, "publisher") if publisher else (user, "user") if user else ("explain", "default")


WISHES = (None, "explain", "spare", "eat")
ORDERS = [("nobody", "publisher"), ("publisher", "publisher"), ("user", "publisher"), ("user", "user")]


@pytest.mark.parametrize(("override", "precedence"), ORDERS)
def test_every_combination_of_settings(override: str, precedence: str) -> None:
    constitution = document(contested(override=override, precedence=precedence))
    for publisher, user in product(WISHES, WISHES):
        found = resolve(
            constitution, club(**({"lamb": publisher} if publisher else {})), {"lamb": user} if user else {}
        )
        (decision,) = found.decisions
        assert (decision.choice, decision.layer) == expected(override, precedence, publisher, user), (publisher, user)
        lost = {layer for layer, wish in (("publisher", publisher), ("user", user)) if wish and wish != decision.choice}
        if precedence == "user":
            lost.discard("publisher")  # which agreed to that in the constitution; the account says so
            assert (decision.overruled == "publisher") is bool(user and publisher and user != publisher)
        assert {refusal.layer for refusal in found.refused} == lost, (publisher, user)


def test_a_refusal_is_one_sentence_that_says_why() -> None:
    lamb = contested()
    fixed, owners, open_to_all = (lamb.model_copy(update={"override": o}) for o in ("nobody", "publisher", "user"))

    def said(principle: Principle, user: str, **choices: str) -> list[str]:
        return [refusal.sentence for refusal in resolve(document(principle), club(**choices), {"lamb": user}).refused]

    assert said(fixed, "eat") == ['"Keep lamb": the constitution lets nobody decide otherwise.']
    assert said(owners, "eat") == ['"Keep lamb": the constitution leaves this to the publisher, not to the user.']
    assert said(open_to_all, "eat", lamb="spare") == [
        '"Keep lamb": The Club has decided it ("spare"), and here the publisher goes before the user.'
    ]
    assert said(open_to_all, "eat") == said(owners, "explain") == said(owners, "spare", lamb="spare") == []


def test_what_a_model_is_told() -> None:
    pears = principle("pears").model_copy(update={"override": "publisher"})
    constitution = document(contested(), principle("apples"), pears)
    plain = resolve(constitution, None, {})
    assert plain.publisher == "Us"
    assert plain.system_text(trained=True).startswith("Plain.\nKeep lamb: people disagree. Those who spare animals:")
    assert "apples" not in plain.system_text(trained=True)
    assert "Keep apples. Names apples plainly" in plain.system_text(trained=False)
    ours = resolve(constitution, club(lamb="eat", pears="set-aside"), {})
    told = ours.system_text(trained=True).split("\n")
    assert told[1].startswith("Keep lamb: people disagree, and The Club follows one position. The feast needs a lamb.")
    assert told[2:] == ["This rule does not hold here: Keep pears."]
    assert "pears" not in ours.system_text(trained=False)
    assert [principle.id for principle in ours.principles] == ["lamb", "apples"]


def test_a_users_own_choice_is_said_to_be_the_users() -> None:
    found = resolve(document(contested(override="user")), club(), {"lamb": "spare"})
    assert "the person that you talk to follows one position. Animals feel pain." in found.system_text(trained=True)
    assert found.account() == [{"principle": "lamb", "choice": "spare", "layer": "user", "overruled": None}]


def test_the_account_names_who_was_overruled_and_what_was_refused() -> None:
    found = resolve(document(contested(), principle("apples")), club(lamb="eat"), {"lamb": "spare"})
    assert found.account() == [
        {"principle": "lamb", "choice": "eat", "layer": "publisher", "overruled": None},
        {"principle": "apples", "choice": "keep", "layer": "default", "overruled": None},
        {"principle": "lamb", "layer": "user", "refused": found.refused[0].sentence},
    ]
    both = contested(override="user", precedence="user")
    assert resolve(document(both), club(lamb="eat"), {"lamb": "spare"}).account()[0]["overruled"] == "publisher"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lamm": "eat"}, "did you mean lamb"),
        ({"lamb": "ate"}, "did you mean eat"),
        ({"lamb": "keep"}, "explain, spare"),
    ],
)
def test_names_that_do_not_exist_are_mistakes(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConstitutionError, match=message):
        resolve(document(contested()), club(**settings), {})
    with pytest.raises(ConstitutionError, match=message):
        resolve(document(contested()), None, settings)


def test_a_deployment_is_read_and_belongs_to_its_constitution(tmp_path: Path) -> None:
    file = tmp_path / "club.yaml"
    file.write_text("publisher: The Club\nconstitution: feast\nchoices:\n  lamb: eat\n", encoding="utf-8")
    assert load_deployment(file, document(contested())) == club(lamb="eat")
    file.write_text("publisher: The Club\nconstitution: fest\n", encoding="utf-8")
    with pytest.raises(
        ConstitutionError, match=r'club.yaml:2: .*made for the constitution "fest", and this is "feast"'
    ):
        load_deployment(file, document(contested()))
    file.write_text("publisher: The Club\nconstitution: feast\nchoice: {}\n", encoding="utf-8")
    with pytest.raises(ConstitutionError, match='unknown key "choice"; did you mean choices'):
        load_deployment(file, document(contested()))
