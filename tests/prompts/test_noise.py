import itertools
import random
import re

import pytest

from headprobe.prompts.haystacks import split_sentences
from headprobe.prompts.noise import (
    DESCRIBED_BY,
    KINDS,
    OLDER,
    RELATIONS,
    WHO,
    YOUNGER,
    Relation,
    filler,
    vocabulary,
    words,
)
from headprobe.prompts.template import INSTRUCTION

every_relation = pytest.mark.parametrize("relation", RELATIONS, ids=lambda r: r.name)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def prose(sentences: int) -> list[str]:
    rng = random.Random(0)
    return [filler(rng) for _ in range(sentences)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_fifth_word_of_a_kind_is_held_out(kind: str) -> None:
    trained, held_out = words(kind, "train"), words(kind, "held_out")
    assert set(trained).isdisjoint(held_out)
    assert len(set(trained)) == len(trained)
    assert len(held_out) == (len(trained) + len(held_out)) // 5
    assert len(held_out) >= 4


def test_a_word_is_of_one_kind_so_that_held_out_words_are_met_nowhere() -> None:
    for one, other in itertools.combinations(KINDS, 2):
        ours = {*words(one, "train"), *words(one, "held_out")}
        assert ours.isdisjoint({*words(other, "train"), *words(other, "held_out")})
    templates = [t for r in RELATIONS for t in (*r.statements, *r.questions)]
    templates += [*DESCRIBED_BY.values(), *WHO.values(), OLDER, YOUNGER, INSTRUCTION]
    said = words_of(" ".join([*templates, *prose(2000)]))
    for kind in KINDS:
        assert said.isdisjoint(words(kind, "held_out"))


def test_a_kind_that_there_is_not_is_an_error() -> None:
    with pytest.raises(KeyError):
        words("colour", "train")


@every_relation
def test_held_out_wordings_are_new_pairs_of_known_halves(relation: Relation) -> None:
    trained, held_out = relation.wordings("train"), relation.wordings("held_out")
    every = set(itertools.product(relation.statements, relation.questions))
    assert set(trained) | set(held_out) == every
    assert len(trained) + len(held_out) == len(every)
    assert {statement for statement, _ in trained} == set(relation.statements)
    assert {question for _, question in trained} == set(relation.questions)
    assert {statement for statement, _ in held_out} == set(relation.statements)


@every_relation
def test_statements_and_questions_have_their_slots_and_marks(relation: Relation) -> None:
    for statement in relation.statements:
        assert re.fullmatch(r"\{subject\} .*\{value\}.*\.", statement)
    for question in relation.questions:
        assert question.count("{subject}") == 1
        assert question.endswith("?")


def test_filler_states_no_fact_of_any_relation() -> None:
    telling = [
        re.sub(r"\\\{(subject|value)\\\}", ".+", re.escape(statement))
        for relation in RELATIONS
        for statement in relation.statements
    ]
    facts = re.compile("|".join(telling))
    named = {w for kind in KINDS for split in ("train", "held_out") for w in words(kind, split)}
    for sentence in prose(2000):
        assert not facts.fullmatch(sentence)
        assert named.isdisjoint(words_of(sentence))
        assert not re.search(r"\d", sentence)


def test_filler_is_one_sentence_at_a_time_and_hardly_repeats() -> None:
    drawn = prose(2000)
    assert [list(split_sentences([sentence])) for sentence in drawn] == [[s] for s in drawn]
    assert all("{" not in sentence for sentence in drawn)
    assert all(sentence[0].isupper() for sentence in drawn)
    assert len(set(drawn)) > 1900


def test_every_word_that_can_be_said_is_in_the_vocabulary() -> None:
    after_space, after_break = vocabulary()
    templates = [t for r in RELATIONS for t in (*r.statements, *r.questions)]
    templates += [*DESCRIBED_BY.values(), *WHO.values(), OLDER, YOUNGER]
    said = [re.sub(r"\{\w+\}", "", template) for template in templates] + prose(2000)
    said += [w for kind in KINDS for split in ("train", "held_out") for w in words(kind, split)]
    assert words_of(" ".join(said)) <= set(after_space)
    opening = INSTRUCTION.format(question="").split("\n")
    assert [line.split()[0].rstrip(":") for line in opening if line] == after_break
    assert len(set(after_space)) == len(after_space)
