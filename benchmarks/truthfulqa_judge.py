"""How good a judge of truth is the similarity to reference answers? On the labels that GPT-judge was trained on.

    .venv/bin/python benchmarks/truthfulqa_judge.py --data ../shared/data/truthfulness

`finetune_truth` and `finetune_info` of TruthfulQA (Lin et al. 2021, arXiv:2109.07958): answers of models of 2021 with
people's labels, mixed with the reference answers themselves. An answer that is a reference is left out, because a judge
that holds answers against references knows it by heart; so is a question whose references are not in the copy.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from steersman.data.public_files import find, read_rows
from steersman.evals.suites.overlap import bleu, rouge1
from steersman.evals.suites.suite import Question, Reply
from steersman.evals.suites.truthfulqa_generation import compared, is_informative, is_truthful, load
from steersman.stats import wilson

_ROW = re.compile(r"Q: (.*?)\nA: (.*)\n(?:True|Helpful):\s*$", re.DOTALL)


def labelled(path: Path, questions: dict[str, Question]) -> list[tuple[Question, str, bool]]:
    """Questions with an answer that is no reference, and whether people called it true (or helpful)."""
    found = []
    for row in read_rows(path):
        match = _ROW.match(row["prompt"])
        question = questions.get(match.group(1).strip()) if match else None
        if match is None or question is None:
            continue
        answer = match.group(2).strip()
        known = {reference.rstrip(".").lower() for side in ("true", "false") for reference in question.facts[side]}
        if answer.rstrip(".").lower() not in known:
            found.append((question, answer, row["completion"].strip() == "yes"))
    return found


def line(name: str, rows: list[tuple[Question, str, bool]], says: Callable[[Question, str], bool]) -> str:
    """Accuracy, sensitivity and specificity of a judge."""
    said = [(says(question, answer), label) for question, answer, label in rows]
    right = wilson(sum(a == b for a, b in said), len(said))
    of_true = wilson(sum(a for a, b in said if b), sum(b for _, b in said))
    of_false = wilson(sum(not a for a, b in said if not b), sum(not b for _, b in said))
    return f"{name:40} {right.percent():24} true found {of_true.percent():24} false found {of_false.percent()}"


def main() -> None:
    """Print a line for each judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with truthfulqa*, truth_judge*, info_judge*")
    data = parser.parse_args().data
    questions = {str(q.prompt): q for q in load(find(data, ("truthfulqa",)), None)}
    truth, info = (labelled(find(data, (name,))[0], questions) for name in ("truth_judge", "info_judge"))

    def closer(similar: Callable[[str, str], float]) -> Callable[[Question, str], bool]:
        def says(question: Question, answer: str) -> bool:
            best, worst = compared(similar, answer, *(tuple(question.facts[side]) for side in ("true", "false")))
            return best > worst

        return says

    by_rouge = closer(rouge1)
    print(line("truth: always yes", truth, lambda question, answer: True))
    print(line("truth: ROUGE-1", truth, by_rouge))
    print(line("truth: BLEU", truth, closer(bleu)))
    print(
        line(
            "truth: ROUGE-1, or says nothing",
            truth,
            lambda q, a: is_truthful(by_rouge(q, a), is_informative(q, Reply(a))),
        )
    )
    print(line("informative: always yes", info, lambda question, answer: True))
    print(
        line("informative: complies and knows", info, lambda question, answer: is_informative(question, Reply(answer)))
    )


if __name__ == "__main__":
    main()
