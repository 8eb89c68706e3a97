import itertools
import json
import re
from collections import Counter
from typing import Any

import pytest

from headprobe.models.bundled import bundled
from headprobe.prompts.haystacks import split_sentences
from headprobe.prompts.needles import read_needles

ESSAYS = sorted(bundled("haystack", "english").iterdir())
CORPORA = ("english", "nano", "english/held-out", "nano/held-out")
every_corpus = pytest.mark.parametrize("corpus", CORPORA)
every_english = pytest.mark.parametrize("corpus", [c for c in CORPORA if "english" in c])
every_file = pytest.mark.parametrize(
    ("corpus", "name", "least"),
    [
        (corpus, name, least)
        for corpus in CORPORA
        for name, least in (("retrieval.jsonl", 12), ("r2.jsonl", 24))
    ],
)


def rows(corpus: str, name: str = "r2.jsonl") -> list[dict[str, Any]]:
    lines = bundled("needles", corpus, name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def sentences_of(row: dict[str, Any]) -> list[str]:
    return list(split_sentences([row["needle"]]))


def facts_of(row: dict[str, Any]) -> tuple[str, str]:
    """The right answer's sentence and the wrong answer's."""
    (right,) = (s for s in sentences_of(row) if row["answer"] in s)
    (wrong,) = (s for s in sentences_of(row) if row["wrong_answer"] in s)
    return right, wrong


def attributes_of(row: dict[str, Any]) -> str:
    return " ".join(s for s in sentences_of(row) if s not in facts_of(row))


def name_in(fact: str, other: str, attributes: str) -> str:
    """Who or what a fact is about: the capitalised words it shares with the attributes alone."""
    names = re.findall(r"\b[A-Z][a-z]+(?: [A-Z][a-z]+)*", fact)
    options = [n for n in names for n in (n, *n.split()) if n in attributes and n not in other]
    return max(options, key=len)


def order_of_names(row: dict[str, Any]) -> tuple[int, int]:
    """Where the attributes name the right one and the wrong one."""
    right, wrong = facts_of(row)
    told = attributes_of(row)
    return told.index(name_in(right, wrong, told)), told.index(name_in(wrong, right, told))


@every_file
def test_every_needle_file_is_read_and_holds_enough(corpus: str, name: str, least: int) -> None:
    needles = read_needles(bundled("needles", corpus, name))
    assert len(needles) >= least
    assert len({needle.text for needle in needles}) == len(needles)
    for needle, row in zip(needles, rows(corpus, name), strict=True):
        assert needle.text[needle.start : needle.stop] == row["real_needle"]
        assert needle.text.count(row["real_needle"]) == 1
        assert needle.answer == row["answer"]
        assert needle.answer in row["real_needle"]
        assert needle.answer not in needle.question
        assert needle.question.endswith("?")
        assert needle.text.endswith(".")


@every_corpus
def test_a_reasoning_needle_has_two_answers_each_in_a_sentence_of_its_own(corpus: str) -> None:
    for row in rows(corpus):
        right, wrong = facts_of(row)
        assert right == row["real_needle"] != wrong
        assert row["answer"] not in attributes_of(row)
        assert row["wrong_answer"] not in attributes_of(row)


@every_corpus
def test_what_the_fields_say_of_a_reasoning_needle_is_so(corpus: str) -> None:
    for row in rows(corpus):
        right, wrong = facts_of(row)
        told = sentences_of(row)
        assert row["right_first"] == (told.index(right) < told.index(wrong))
        facts = {told.index(right), told.index(wrong)}
        others = set(range(len(told))) - facts
        place = {
            "before": max(others) < min(facts),
            "between": min(facts) < min(others) <= max(others) < max(facts),
            "after": max(facts) < min(others),
        }
        assert place[row["fact_position"]]
        ours, theirs = order_of_names(row)
        assert row["right_named_first"] == (ours < theirs)


@every_corpus
def test_comparing_needles_ask_for_the_end_of_the_scale_that_they_say(corpus: str) -> None:
    comparing = [row for row in rows(corpus) if row["kind"] == "comparing"]
    assert comparing
    for row in comparing:
        first, second = map(int, re.findall(r"\d+", attributes_of(row)))
        right, wrong = (first, second) if row["right_named_first"] else (second, first)
        assert row["asks"] == ("more" if right > wrong else "less")


FACTORS: dict[str, list[Any]] = {
    "kind": ["linking", "comparing"],
    "right_first": [True, False],
    "fact_position": ["before", "between", "after"],
    "right_named_first": [True, False],
}


@every_corpus
@pytest.mark.parametrize("factors", list(itertools.combinations(FACTORS, 2)), ids=" ".join)
def test_reasoning_needles_are_balanced_over_every_two_factors(
    corpus: str, factors: tuple[str, str]
) -> None:
    counts = Counter(tuple(row[factor] for factor in factors) for row in rows(corpus))
    cells = list(itertools.product(*(FACTORS[factor] for factor in factors)))
    assert set(counts) == set(cells)
    assert set(counts.values()) == {len(rows(corpus)) / len(cells)}


@every_corpus
@pytest.mark.parametrize("factor", ["right_first", "fact_position", "right_named_first"])
def test_comparing_asks_for_more_and_for_less_equally_often(corpus: str, factor: str) -> None:
    comparing = [row for row in rows(corpus) if row["kind"] == "comparing"]
    asks = Counter(row["asks"] for row in comparing)
    assert asks["more"] == asks["less"] == len(comparing) / 2
    counts = Counter((row["asks"], row[factor]) for row in comparing)
    assert len(counts) == 2 * len(FACTORS[factor])
    assert max(counts.values()) - min(counts.values()) <= 1


@every_english
def test_english_needles_vary_in_names_numbers_answers_and_what_is_compared(corpus: str) -> None:
    needles = rows(corpus)
    names: list[str] = []
    for row in needles:
        right, wrong = facts_of(row)
        told = attributes_of(row)
        names += [name_in(right, wrong, told), name_in(wrong, right, told)]
    assert len(set(names)) == len(names) == 2 * len(needles)
    answers = [row[which] for row in needles for which in ("answer", "wrong_answer")]
    assert len(set(answers)) == len(answers)
    numbers = [n for row in needles for n in re.findall(r"\d+", row["needle"])]
    assert len(set(numbers)) == len(numbers)
    assert len({row["quantity"] for row in needles}) >= 12
    assert len({row["question"] for row in needles}) == len(needles)


@every_corpus
def test_a_guess_by_length_or_by_place_is_right_half_the_time(corpus: str) -> None:
    needles = rows(corpus)
    longer = sum(len(row["answer"]) > len(row["wrong_answer"]) for row in needles)
    assert 0.3 <= longer / len(needles) <= 0.7


def test_the_essays_are_long_enough_and_repeat_no_sentence() -> None:
    texts = [essay.read_text(encoding="utf-8") for essay in ESSAYS]
    assert sum(len(text.split()) for text in texts) >= 15_000
    sentences = list(split_sentences(texts))
    assert [s for s, count in Counter(sentences).items() if count > 1] == []
    assert all(essay.suffix == ".txt" for essay in ESSAYS)


def test_the_essays_sentences_read_as_sentences() -> None:
    for essay in ESSAYS:
        for sentence in split_sentences([essay.read_text(encoding="utf-8")]):
            assert re.match(r"[A-Z\"“]", sentence), sentence
            assert re.search(r"[.!?][\"”']?$", sentence), sentence
            assert 2 <= len(sentence.split()) <= 90, sentence


@every_english
def test_the_essays_answer_no_needle(corpus: str) -> None:
    prose = " ".join(essay.read_text(encoding="utf-8") for essay in ESSAYS).lower()
    for name in ("retrieval.jsonl", "r2.jsonl"):
        for row in rows(corpus, name):
            assert row["answer"].lower() not in prose
    said = set(re.findall(r"\w+", prose))
    for row in rows(corpus):
        right, wrong = facts_of(row)
        told = attributes_of(row)
        for name in (name_in(right, wrong, told), name_in(wrong, right, told)):
            assert not set(name.lower().split()) <= said


@pytest.mark.parametrize("name", ["retrieval.jsonl", "r2.jsonl"])
@pytest.mark.parametrize("corpus", ["english", "nano"])
def test_held_out_needles_are_others(corpus: str, name: str) -> None:
    known, held_out = rows(corpus, name), rows(f"{corpus}/held-out", name)
    for field in ("needle",) if name == "retrieval.jsonl" else ("needle", "real_needle"):
        assert {row[field] for row in known}.isdisjoint({row[field] for row in held_out})


@pytest.mark.parametrize("name", ["retrieval.jsonl", "r2.jsonl"])
def test_english_held_out_needles_tell_of_others_in_other_words(name: str) -> None:
    known, held_out = rows("english", name), rows("english/held-out", name)
    for field in {"answer", "question", "quantity", "wrong_answer"} & known[0].keys():
        assert {row[field] for row in known}.isdisjoint({row[field] for row in held_out})
    names = [set(re.findall(r"(?<!^)(?<!\. )[A-Z]\w+", row["needle"])) for row in held_out]
    told = " ".join(row["needle"] for row in known)
    assert not [name for name in set().union(*names) if re.search(rf"\b{name}\b", told)]
