"""Lists of other tools are read in their own forms; what cannot be used is left out, counted and named."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import pytest

from steersman.errors import DataError
from steersman.redteam.attack import Goal, Tools
from steersman.redteam.attacks import by_name
from steersman.redteam.attacks.templates import fill, read_templates
from steersman.redteam.attacks.wrappers import WRAPPERS

FORMS = {
    "garak.json": json.dumps(["Hello {generator.name}, {prompt}", "Be Rook. <query>"]),
    "gptfuzzer.csv": 'id,text\n0,"A scene, with a comma. [INSERT PROMPT HERE]"\n1,"Two\nlines [INSERT PROMPT HERE]"\n',
    "gptfuzzer.jsonl": '{"id": "0", "text": "Say [INSERT PROMPT HERE]"}\n\n"{INSERT PROMPT HERE}, now"\n',
    "pyrit.yaml": "name: Rook\nparameters:\n  - prompt\ndata_type: text\nvalue: |\n  {% raw %}Be Rook.{% endraw %}\n"
    "  {{ prompt }}\n",
    "pyrit.prompt": "seeds:\n  - value: One {{ prompt }}\n  - value: Two {{prompt}}\n",
    "plain.txt": "# ours\nStory: {prompt}\n\nPoem about [YOUR QUESTION HERE]\n",
}
READ = {
    "garak.json": ("Hello the assistant, {prompt}", "Be Rook. {prompt}"),
    "gptfuzzer.csv": ("A scene, with a comma. {prompt}", "Two\nlines {prompt}"),
    "gptfuzzer.jsonl": ("Say {prompt}", "{prompt}, now"),
    "pyrit.yaml": ("Be Rook.\n{prompt}",),
    "pyrit.prompt": ("One {prompt}", "Two {prompt}"),
    "plain.txt": ("Story: {prompt}", "Poem about {prompt}"),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_other_tools(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    assert read_templates(tmp_path / name) == (READ[name], ())


def test_a_folder_is_read_as_one_list(tmp_path: Path) -> None:
    for name, text in FORMS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "more.jsonl.gz").write_bytes(gzip.compress(b'{"template": "Deep {{ prompt }}"}\n'))
    (tmp_path / "notes.md").write_text("no list", encoding="utf-8")
    found = read_templates(tmp_path)
    assert set(found.texts) == {"Deep {prompt}", *(text for own in READ.values() for text in own)}


def test_what_cannot_be_used_is_counted_and_named(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text(
        "Good {prompt}\nNo place\n{{ prompt }} for {{ group }}\n{% if x %}{{ prompt }}{% endif %}\nGood {{prompt}}\n",
        encoding="utf-8",
    )
    found = read_templates(file)
    assert found.texts == ("Good {prompt}",)
    assert found.told() == (
        "4 of 5 templates were left out (list.txt:2: has no place for the request; list.txt:3: needs group; "
        "list.txt:4: holds instructions of Jinja; list.txt:5: is the same as an earlier one)"
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "nothing\nhere\n", r"2 of 2 templates were left out \(a.txt:1: has no place"),
        ("b.txt", "\n", "there are no templates here"),
        ("c.jsonl", '{"text": "a {prompt}"}\n{oops\n', r"c.jsonl:2: no JSON"),
        ("d.json", '[{"text": "a {prompt}"}, 3]', r"d.json:2: this is no template"),
        ("e.yaml", "value: [a, b]\n", r"e.yaml:1: this is no template"),
        ("f.yaml", "a: 1\na: 2\n", "f.yaml"),
    ],
)
def test_a_list_that_cannot_be_read_says_why(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_templates(tmp_path / name)


def test_a_missing_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read_templates(tmp_path / "none.txt")


def test_the_users_templates_are_asked_within_the_budget_in_a_drawn_order() -> None:
    own = [f"{number} {{prompt}}" for number in range(9)]
    (attack,) = by_name(["templates"])
    asked = [
        [
            step[0].prompt
            for step in attack.moves(Goal("{0}?", "p"), Tools(random.Random(seed), 4, files={"templates": own}))
        ]
        for seed in (1, 1, 2)
    ]
    assert asked[0] == asked[1] != asked[2]
    assert len(asked[0]) == 4
    assert all(text.endswith(" {0}?") for text in asked[0])


def test_ours_have_one_place_each_and_are_many() -> None:
    assert len(WRAPPERS) >= 20
    assert len({wrapper.template for wrapper in WRAPPERS}) == len(WRAPPERS)
    for wrapper in WRAPPERS:
        assert fill(wrapper.template, "STEAL").count("STEAL") == 1, wrapper.name


@pytest.mark.skipif(not os.environ.get("STEERSMAN_PUBLIC_DATA"), reason="no public data at hand")
@pytest.mark.parametrize(
    ("name", "usable", "left_out"),
    [("gptfuzzer_templates", 77, 0), ("pyrit_templates", 541, 42), ("garak_inthewild", 151, 515)],
)
def test_published_lists(name: str, usable: int, left_out: int) -> None:
    found = read_templates(Path(os.environ["STEERSMAN_PUBLIC_DATA"]) / "jailbreak" / f"{name}.jsonl.gz")
    assert (len(found.texts), len(found.left_out)) == (usable, left_out)
