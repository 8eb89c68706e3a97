"""Compose lessons for the nano model: scenes of facts in filler prose, with questions.

A scene holds two people who are told apart by their age, work or home, and a liking or a home of
each; around them stand other people, goods and events. Its questions range from a
bare look-up to linking ("the person who is 23 years old") and comparing ("the older of the two").
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headprobe.prompts import noise
from headprobe.prompts.noise import (
    AGE,
    DATE,
    DESCRIBED_BY,
    HOME,
    LIKES,
    OLDER,
    PRICE,
    WHO,
    WORK,
    YOUNGER,
    Relation,
    Split,
)
from headprobe.prompts.template import INSTRUCTION

AGES = range(11, 90)
LEAST_AGE_GAP = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class Question:
    """A question with its answer, the kind of reasoning that it takes, and its subject.

    ``cue`` is the word of the question that identifies ``subject``: its name, or a description of
    it; for a description ``told`` is the word of the context that states the description. A
    ``cloze`` is no question but a statement that breaks off before its value.
    """

    kind: str
    text: str
    answer: str
    subject: str
    cue: str
    told: str | None = None

    @property
    def prompt(self) -> str:
        """The text that the model reads after the context."""
        return f" {self.text}" if self.kind == "cloze" else INSTRUCTION.format(question=self.text)

    @property
    def completion(self) -> str:
        """The text that the model should write: the answer, and the line break that ends it."""
        return f" {self.answer}" if self.kind == "cloze" else f" {self.answer}\n"


def _cloze(statement: str, subject: str, value: str, name: str) -> Question:
    text = statement.partition("{value}")[0].format(subject=subject).strip()
    return Question(kind="cloze", text=text, answer=value, subject=name, cue=text.split()[-1])


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A statement, and the word that names its subject."""

    text: str
    subject: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """Blocks of sentences (a block stays together, in order) and the questions they answer."""

    blocks: list[list[Sentence]]
    questions: list[Question]


@dataclass(frozen=True, eq=False, kw_only=True)
class Pair:
    """Two people told apart by one attribute, with a fact about each.

    ``attributes`` and ``facts`` are sentences, ``[first person, second person]``; ``described`` are
    the phrases that pick each person out; ``answers`` the values that the facts state.
    """

    attribute: str
    attributes: list[Sentence]
    facts: list[Sentence]
    answers: list[str]
    names: list[str]
    values: list[str]
    described: list[str]
    question: str
    clozes: list[Question]


class Author:
    """Draws the words of a scene without repeating any.

    ``nonce`` is the fraction of words that are drawn from the whole language instead of from their
    own kind: a model trained on such names can look up words that it never saw as names.
    """

    def __init__(self, rng: random.Random, split: Split, nonce: float = 0.0) -> None:
        self.rng = rng
        self.split = split
        self.nonce = nonce
        self._used: set[str] = set()
        self._any = [w for kind in noise.KINDS for w in noise.words(kind, split)]

    def word(self, kind: str) -> str:
        """Draw a word of a kind (or a nonce) that the scene does not hold yet."""
        pool: Sequence[str] = noise.words(kind, self.split)
        if self.rng.random() < self.nonce:
            pool = self._any
        while True:
            word = self.rng.choice(pool)
            if word not in self._used:
                self._used.add(word)
                return word

    def number(self, numbers: range) -> str:
        """Draw a number that the scene does not hold yet."""
        while True:
            number = str(self.rng.choice(numbers))
            if number not in self._used:
                self._used.add(number)
                return number

    def likings(self) -> str:
        """Draw the things that a person likes: one kind of thing, or two."""
        one = f"{self.word('quality')} {self.word('thing')}"
        if self.rng.random() < 0.7:
            return one
        return f"{one} and {self.word('quality')} {self.word('thing')}"

    def value(self, relation: Relation) -> str:
        """Draw a value for a relation."""
        if relation is LIKES:
            return self.likings()
        if relation is HOME:
            return f"{self.word('place')} {self.rng.choice(noise.LANDFORMS)}"
        if relation is WORK:
            return self.word("job")
        if relation is AGE:
            return self.number(AGES)
        if relation is PRICE:
            return f"{self.number(range(1, 100))} coins"
        return f"{self.rng.choice(noise.MONTHS)} {self.number(range(1, 31))}"

    def two_values(self, attribute: Relation) -> tuple[str, str]:
        """Draw two values that tell people apart; ages differ clearly, the higher one first."""
        first, second = self.value(attribute), self.value(attribute)
        if attribute is not AGE:
            return first, second
        while abs(int(first) - int(second)) < LEAST_AGE_GAP:
            second = self.value(attribute)
        return (first, second) if int(first) > int(second) else (second, first)

    def wording(self, relation: Relation) -> tuple[str, str]:
        """Draw a (statement, question) pair of templates that the split may use."""
        return self.rng.choice(relation.wordings(self.split))

    def pair(self) -> Pair:
        """Draw two people who are told apart by age, work or home."""
        attribute = self.rng.choice((AGE, AGE, WORK, WORK, HOME))
        relation = self.rng.choice((LIKES, LIKES, HOME) if attribute is not HOME else (LIKES,))
        names = [self.word("person"), self.word("person")]
        values = list(self.two_values(attribute))
        answers = [self.value(relation), self.value(relation)]
        told = self.rng.choice(attribute.statements)
        statement, question = self.wording(relation)
        return Pair(
            attribute=attribute.name,
            attributes=[
                Sentence(text=told.format(subject=n, value=v), subject=n)
                for n, v in zip(names, values, strict=True)
            ],
            facts=[
                Sentence(text=statement.format(subject=n, value=a), subject=n)
                for n, a in zip(names, answers, strict=True)
            ],
            answers=answers,
            names=names,
            values=values,
            described=[DESCRIBED_BY[attribute.name].format(value=v) for v in values],
            question=question,
            clozes=[
                *(_cloze(told, n, v, n) for n, v in zip(names, values, strict=True)),
                *(_cloze(statement, n, a, n) for n, a in zip(names, answers, strict=True)),
            ],
        )


def _order(pair: Pair, rng: random.Random) -> list[Sentence]:
    """Order a pair's sentences: the attributes before, between or after the two facts."""
    told = pair.attributes[:]
    facts = pair.facts[:]
    rng.shuffle(told)
    rng.shuffle(facts)
    at = rng.randrange(3)
    return [*facts[:at], *told, *facts[at:]]


def _pair_questions(pair: Pair, author: Author) -> list[Question]:
    people = list(zip(pair.names, pair.values, pair.described, pair.answers, strict=True))
    asked = pair.clozes[:]
    for name, _, _, answer in people:
        asked.append(_question("bare", pair.question, name, answer, name=name, cue=name))
    for name, value, described, answer in people:
        cue = value.split()[0]
        who = WHO[pair.attribute].format(value=value)
        asked.append(Question(kind="who", text=who, answer=name, subject=name, cue=cue, told=cue))
        asked.append(
            _question("link", pair.question, described, answer, name=name, cue=cue, told=cue)
        )
    if pair.attribute != "age":
        return asked
    people.sort(key=lambda person: -int(person[1]))
    for (name, age, _, answer), subject in zip(people, (OLDER, YOUNGER), strict=True):
        how_old = author.rng.choice(AGE.questions)
        cue = subject.split()[1]
        asked += [
            _question("bare age", how_old, name, age, name=name, cue=name),
            _question("compare age", how_old, subject, age, name=name, cue=cue, told=age),
            _question(
                "compare who", "Who is {subject}?", subject, name, name=name, cue=cue, told=age
            ),
            _question("compare", pair.question, subject, answer, name=name, cue=cue, told=age),
        ]
    return asked


def _question(
    kind: str,
    template: str,
    subject: str,
    answer: str,
    *,
    name: str,
    cue: str,
    told: str | None = None,
) -> Question:
    text = template.format(subject=subject)
    return Question(kind=kind, text=text, answer=answer, subject=name, cue=cue, told=told)


def _other(author: Author) -> tuple[Sentence, list[Question]]:
    """Draw a fact about a person, thing or event outside the pair, and its questions."""
    relation = author.rng.choice((LIKES, LIKES, HOME, WORK, PRICE, DATE))
    statement, question = author.wording(relation)
    word = author.word(relation.subject)
    value = author.value(relation)
    subject = word if relation.subject == "person" else f"the {word}"
    opening = subject[0].upper() + subject[1:] if subject is not word else word
    said = statement.format(subject=opening, value=value)
    asked = [
        _cloze(statement, opening, value, word),
        _question("bare", question, subject, value, name=word, cue=word),
    ]
    if relation is LIKES:
        who, cue = WHO["likes"].format(value=value), value.split()[0]
        asked.append(Question(kind="who", text=who, answer=word, subject=word, cue=cue, told=cue))
    return Sentence(text=said, subject=word), asked


def scene(author: Author, others: int, together: float = 0.7) -> Scene:
    """Draw a scene of one pair and ``others`` further facts.

    ``together`` is the probability that the pair's sentences stand together.
    """
    pair = author.pair()
    sentences = _order(pair, author.rng)
    whole = author.rng.random() < together
    blocks = [sentences] if whole else [[sentence] for sentence in sentences]
    questions = _pair_questions(pair, author)
    for _ in range(others):
        said, asked = _other(author)
        blocks.append([said])
        questions += asked
    author.rng.shuffle(blocks)
    return Scene(blocks=blocks, questions=questions)


def lay_out(
    blocks: list[list[int]], length: int, fillers: Callable[[], list[int]], rng: random.Random
) -> tuple[list[int], list[int], list[int]]:
    """Spread blocks of tokens, in their order, over prose of exactly ``length`` tokens in all.

    The first or the last sentence of prose is cut to fit, as in a haystack that is cut to length.

    Returns:
        The tokens, the starts of all pieces of prose and blocks, and the starts of the blocks.
    """
    room = length - sum(map(len, blocks))
    if room < 0:
        raise ValueError(f"expected blocks of at most {length} tokens, got {length - room}")
    prose: list[list[int]] = []
    while room > 0:
        sentence = fillers()[:room]
        prose.append(sentence)
        room -= len(sentence)
    cut_front = rng.random() < 0.5 and len(prose) > 0
    cut = prose.pop() if prose else []
    places = sorted(rng.randrange(len(prose) + 1) for _ in blocks)
    if rng.random() < 0.15 and blocks:
        places[rng.choice((0, -1))] = rng.choice((0, len(prose)))
        places.sort()
    pieces = [(piece, False) for piece in prose]
    for block, place in reversed(list(zip(blocks, places, strict=True))):
        pieces.insert(place, (block, True))
    pieces.insert(0 if cut_front else len(pieces), (cut, False))
    tokens: list[int] = []
    starts: list[int] = []
    block_starts: list[int] = []
    for piece, is_block in pieces:
        starts.append(len(tokens))
        if is_block:
            block_starts.append(len(tokens))
        tokens += piece
    return tokens, starts, block_starts
