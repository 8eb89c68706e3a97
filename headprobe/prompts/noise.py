"""The nano model's small language: English prose, and facts to ask questions about.

Every word is one token of the bundled tokenizer, so a sentence's tokens can be counted by eye.
People have ages, homes, work and likings; things have prices, events have dates. Each relation is
stated and asked in several wordings. Training never uses what evaluation uses: some names and
words are held out altogether, and some combinations of statement and question wording too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from headprobe.prompts.template import INSTRUCTION

Split = Literal["train", "held_out"]

PEOPLE = """
Ada Adam Agnes Alan Albert Alice Amos Amy Anna Arthur Basil Beth Boris Bruno Carl Carol Cecil Cora
Cyrus Daisy Daniel David Dora Doris Edgar Edith Edwin Elena Elias Ella Elsa Emil Emma Enid Eric
Esther Ethel Eva Felix Fiona Flora Frank Fred George Gerda Gilda Grace Greta Gus Hanna Harold Hazel
Helen Henry Hilda Hugo Ida Igor Ingrid Ivan Ivy Jack Jane Jasper Joan Joel John Joyce Julia Karl
Kate Kurt Lars Laura Leo Lena Lily Lina Louis Lucy Luke Mabel Marcus Mary Max Mira Mona Nadia Nina
Noah Nora Olga Olive Oscar Otto Pablo Paula Pearl Peter Petra Quentin Ralph Rita Robert Rosa Ruby
Rufus Ruth Sam Sara Simon Sofia Stella Theo Thomas Tilda Ursula Vera Victor Viola Walter Wanda
""".split()
QUALITIES = """
silver golden wooden paper striped spotted woolen copper marble velvet crystal purple orange scarlet
crimson violet yellow amber ivory plastic leather cotton silken rubber bronze plaid painted carved
polished folding tiny giant hollow square round curly musical magnetic floating antique
""".split()
THINGS = """
kites lamps boats drums clocks masks bells coats hats gloves boots shoes scarves baskets bottles
buttons candles chairs combs crowns cups dolls fans flutes forks globes guitars harps jars kettles
knives ladders lanterns marbles mirrors mugs needles pans pearls pencils pianos pillows pipes plates
puppets purses rings ropes rugs saddles shells shields sleds spoons stamps statues swords tables
trumpets umbrellas vases violins wagons whistles
""".split()
PLACES = """
Ashford Barley Calder Dunmore Easton Farley Glenwood Hartley Ironside Juniper Kingston Langley
Marlow Norwich Oakham Penrith Quarry Redford Shelby Thornton Upton Valence Westbury Yarrow Zennor
Aldgate Brandon Clifton Darwen Elmwood Foxton Granby Hilton Irving Kelso Linton Melrose Newport
Oxley Preston
""".split()
LANDFORMS = "Bay Hill Bridge Harbor Valley Cross Mill Point Green Falls".split()
JOBS = """
baker teacher doctor sailor farmer painter singer tailor weaver miner hunter fisher gardener clerk
judge dentist pilot plumber potter barber butcher carpenter cook dancer driver florist grocer guide
jeweler lawyer librarian mason nurse porter printer ranger roofer shepherd tutor writer
""".split()
GOODS = """
carpet blanket saddle wheelbarrow hammer bicycle telescope teapot cradle desk wardrobe accordion
compass anchor barrel bucket cabinet canoe chest cushion easel fiddle furnace hammock helmet
hourglass jacket kennel loom microscope oven parasol quilt rifle sofa stove tent trunk
violoncello wheel
""".split()
EVENTS = """
fair concert market wedding festival parade lecture race banquet auction contest harvest regatta
recital picnic reunion carnival debate meeting opening premiere rehearsal tournament voyage
""".split()
MONTHS = """
January February March April May June July August September October November December
""".split()
NUMBERS = [str(number) for number in range(1, 100)]

_POOLS: dict[str, Sequence[str]] = {
    "person": PEOPLE,
    "quality": QUALITIES,
    "thing": THINGS,
    "place": PLACES,
    "job": JOBS,
    "good": GOODS,
    "event": EVENTS,
}
KINDS = tuple(_POOLS)
# Every fifth word of a pool is never used in a training sentence.
_HELD_OUT_STRIDE = 5


@cache
def words(kind: str, split: Split) -> tuple[str, ...]:
    """List the words of one kind that a split may use (``KeyError`` for an unknown kind)."""
    held_out = split == "held_out"
    return tuple(w for i, w in enumerate(_POOLS[kind]) if (i % _HELD_OUT_STRIDE == 4) == held_out)


@dataclass(frozen=True, eq=False, kw_only=True)
class Relation:
    """A relation between a subject and a value, in several wordings.

    ``statements`` hold ``{subject}`` and ``{value}``; ``questions`` hold ``{subject}``, which may
    be a name or a phrase that describes its bearer.
    """

    name: str
    subject: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]

    def wordings(self, split: Split) -> list[tuple[str, str]]:
        """List a split's (statement, question) templates; held-out pairs are never trained on."""
        held_out = split == "held_out"
        return [
            (statement, question)
            for i, statement in enumerate(self.statements)
            for j, question in enumerate(self.questions)
            if ((i + j) % 3 == 2) == held_out
        ]


LIKES = Relation(
    name="likes",
    subject="person",
    statements=(
        "{subject} likes {value}.",
        "{subject} enjoys {value}.",
        "{subject} is fond of {value}.",
    ),
    questions=(
        "What does {subject} like?",
        "What does {subject} enjoy?",
        "What is {subject} fond of?",
    ),
)
HOME = Relation(
    name="home",
    subject="person",
    statements=(
        "{subject} lives in {value}.",
        "{subject} stays in {value}.",
        "{subject} has a house in {value}.",
    ),
    questions=(
        "Where does {subject} live?",
        "Where does {subject} stay?",
        "Where is the house of {subject}?",
    ),
)
WORK = Relation(
    name="work",
    subject="person",
    statements=(
        "{subject} is a {value}.",
        "{subject} works as a {value}.",
        "{subject} became a {value}.",
    ),
    questions=(
        "What is the work of {subject}?",
        "What does {subject} work as?",
        "What did {subject} become?",
    ),
)
AGE = Relation(
    name="age",
    subject="person",
    statements=(
        "{subject} is {value} years old.",
        "{subject} turned {value} years old.",
        "{subject} is now {value} years old.",
    ),
    questions=(
        "How old is {subject}?",
        "How many years old is {subject}?",
        "What is the age of {subject}?",
    ),
)
PRICE = Relation(
    name="price",
    subject="good",
    statements=(
        "{subject} costs {value}.",
        "{subject} is sold for {value}.",
        "{subject} went for {value}.",
    ),
    questions=(
        "How much does {subject} cost?",
        "What is the price of {subject}?",
        "What does {subject} sell for?",
    ),
)
DATE = Relation(
    name="date",
    subject="event",
    statements=(
        "{subject} is on {value}.",
        "{subject} starts on {value}.",
        "{subject} was moved to {value}.",
    ),
    questions=(
        "When is {subject}?",
        "When does {subject} start?",
        "On which day is {subject}?",
    ),
)
RELATIONS = (LIKES, HOME, WORK, AGE, PRICE, DATE)

DESCRIBED_BY = {
    "age": "the person who is {value} years old",
    "work": "the {value}",
    "home": "the person who lives in {value}",
}
WHO = {
    "age": "Who is {value} years old?",
    "work": "Who is the {value}?",
    "home": "Who lives in {value}?",
    "likes": "Who likes {value}?",
}
OLDER, YOUNGER = "the older of the two", "the younger of the two"

_GROUNDS = """
river meadow forest village garden road field window kitchen tower church orchard stream wall gate
path roof lake shore hill fire bread milk cheese apple pear soup salt sugar letter story song stone
""".split()
_MOVERS = """
cloud wind rain storm snow sun moon bird crow owl horse dog cat cow sheep goose mouse fox deer bee
tree leaf branch dream voice shadow light smoke night morning evening winter summer autumn spring
""".split()
_LOOKS = """
worn new quiet loud dark bright cold warm wet dry long short wide narrow deep high low slow quick
heavy soft hard gentle rough pale green blue grey white black full broken clean dusty lonely
""".split()
_DEEDS = """
crossed followed covered filled reached passed touched watched found left met kept lost carried
held warmed cooled shook moved turned opened closed hid showed
""".split()
_STATES = (
    "slept waited rested stood lay grew faded returned wandered vanished lingered sang".split()
)
_WHERE = "near behind under above beside beyond across along around against".split()
_WHEN = """
today yesterday again slowly often never always sometimes quietly early late soon twice once
""".split()
_FILLER = (
    "The {look} {mover} {deed} the {ground}.",
    "The {mover} {deed} the {look} {ground} {when}.",
    "A {look} {mover} {state} {where} the {ground}.",
    "{When} the {mover} {state} {where} the {look} {ground}.",
    "The {ground} was {look} and the {mover} was {look2}.",
    "In the {ground} the {look} {mover} {state} {when}.",
    "No {mover} {deed} the {ground} because the {ground2} was {look}.",
    "When the {mover} {state} the {look} {mover2} {deed} the {ground}.",
    "There was a {look} {mover} {where} the {ground}.",
    "Some say the {mover} {deed} the {ground} and {state} {when}.",
)


def filler(rng: random.Random) -> str:
    """Draw a sentence of prose that states no fact about any person, good or event."""
    grounds = rng.sample(_GROUNDS, 2)
    movers = rng.sample(_MOVERS, 2)
    looks = rng.sample(_LOOKS, 2)
    when = rng.choice(_WHEN)
    return rng.choice(_FILLER).format(
        ground=grounds[0],
        ground2=grounds[1],
        mover=movers[0],
        mover2=movers[1],
        look=looks[0],
        look2=looks[1],
        deed=rng.choice(_DEEDS),
        state=rng.choice(_STATES),
        where=rng.choice(_WHERE),
        when=when,
        When=when.capitalize(),
    )


def vocabulary() -> tuple[list[str], list[str]]:
    """List the language's words: the words after a space, and the words after a line break."""
    templates = [t for r in RELATIONS for t in (*r.statements, *r.questions)]
    templates += [*DESCRIBED_BY.values(), *WHO.values(), OLDER, YOUNGER, *_FILLER, INSTRUCTION]
    glue = " ".join(templates)
    for mark in ".,?:{}\n0123456789":
        glue = glue.replace(mark, " ")
    pools = [*_POOLS.values(), LANDFORMS, MONTHS, NUMBERS]
    pools += [_GROUNDS, _MOVERS, _LOOKS, _DEEDS, _STATES, _WHERE, _WHEN]
    found = [word for pool in pools for word in pool]
    found += [word.capitalize() for word in _WHEN]
    slots = set("subject value question ground mover look deed state where when When".split())
    found += [word for word in glue.split() if word not in slots or word in {"where", "When"}]
    found += "The and coins".split()
    return sorted(set(found)), ["Based", "Answer"]
