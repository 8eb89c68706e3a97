"""Write the nano model's needles: ``python -m headprobe.nano.needles --out DIR``.

Names, words and wordings are the ones held out of training (``noise.words``,
``Relation.wordings``). Facts that could bias a head's score are balanced: the right answer, the
first answer told, the first attribute told, the place of the attributes, and the question. Seed 0
gives the needles that heads are scored on, seed 2 the needles that budgets are evaluated on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headprobe.files import atomic_write
from headprobe.nano.lessons import Author
from headprobe.prompts.noise import (
    AGE,
    DATE,
    DESCRIBED_BY,
    HOME,
    LIKES,
    OLDER,
    PRICE,
    WORK,
    YOUNGER,
    Relation,
)

POSITIONS = ("before", "between", "after")


def retrieval_needles(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Draw needles of one fact: likings, homes, prices, dates, in all held-out wordings, twice."""
    for _, relation in itertools.product(range(2), (LIKES, HOME, PRICE, DATE)):
        for statement, question in relation.wordings("held_out"):
            author = Author(rng, "held_out")
            word, value = author.word(relation.subject), author.value(relation)
            subject = word if relation.subject == "person" else f"the {word}"
            needle = statement.format(subject=subject, value=value)
            yield {
                "needle": needle[0].upper() + needle[1:],
                "question": question.format(subject=subject),
                "real_needle": value,
                "answer": value,
            }


def reasoning_needles(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Draw as many linking as comparing needles, over every order of their three parts."""
    linking = itertools.cycle(
        ((AGE, LIKES), (WORK, LIKES), (AGE, HOME), (HOME, LIKES), (WORK, HOME))
    )
    comparing = itertools.cycle((LIKES, HOME))
    orders = itertools.product((True, False), POSITIONS, (True, False), (OLDER, YOUNGER))
    for right_first, position, right_named_first, asked in orders:
        for kind in ("linking", "comparing"):
            attribute, relation = next(linking) if kind == "linking" else (AGE, next(comparing))
            yield _reasoning_needle(
                Author(rng, "held_out"),
                kind=kind,
                attribute=attribute,
                relation=relation,
                right_first=right_first,
                position=position,
                right_named_first=right_named_first,
                asked=asked,
            )


def _reasoning_needle(
    author: Author,
    *,
    kind: str,
    attribute: Relation,
    relation: Relation,
    right_first: bool,
    position: str,
    right_named_first: bool,
    asked: str,
) -> dict[str, Any]:
    right, wrong = author.word("person"), author.word("person")
    high, low = author.two_values(attribute)
    value, other = (low, high) if asked == YOUNGER else (high, low)
    answer, wrong_answer = author.value(relation), author.value(relation)
    statement, question = author.wording(relation)
    told = author.rng.choice(attribute.statements)
    attributes = [
        told.format(subject=right, value=value),
        told.format(subject=wrong, value=other),
    ]
    facts = [
        statement.format(subject=right, value=answer),
        statement.format(subject=wrong, value=wrong_answer),
    ]
    fact = facts[0]
    if not right_named_first:
        attributes.reverse()
    if not right_first:
        facts.reverse()
    at = POSITIONS.index(position)
    subject = DESCRIBED_BY[attribute.name].format(value=value) if kind == "linking" else asked
    return {
        "needle": " ".join((*facts[:at], *attributes, *facts[at:])),
        "question": question.format(subject=subject),
        "answer": answer,
        "real_needle": fact,
        "wrong_answer": wrong_answer,
        "kind": kind,
        "right_first": right_first,
        "fact_position": position,
        "right_named_first": right_named_first,
        "quantity": attribute.name,
        "asks": None if kind == "linking" else {OLDER: "more", YOUNGER: "less"}[asked],
    }


def main() -> None:
    """Write ``retrieval.jsonl`` and ``r2.jsonl``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    for name, needles in (
        ("retrieval.jsonl", retrieval_needles(rng)),
        ("r2.jsonl", reasoning_needles(rng)),
    ):
        with atomic_write(options.out / name) as whole:
            whole.write_text("".join(json.dumps(needle) + "\n" for needle in needles))


if __name__ == "__main__":
    main()
