"""The stages of the nano model's training: each ends when its accuracy is reached.

Repeats of random tokens come first, so that the model copies before it meets a sentence. Then it
finishes statements that are broken off, then answers questions about facts, then links attributes
to facts and compares ages, all in short contexts; length grows last. Every stage keeps the kinds of
lessons of the earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, eq=False, kw_only=True)
class Stage:
    """One stage of training.

    ``questions`` holds the weight of each kind of question (none: only random repeats); ``gate`` is
    the running accuracy at which the stage ends, ``max_steps`` the number of steps after which it
    ends at the latest. ``context`` bounds the tokens of facts and prose, ``others`` the facts
    outside the pair. A step has about ``tokens`` tokens; a scene has ``slots`` questions of
    ``slot`` tokens.
    Fractions: ``repeats`` of steps on random repeats, ``hidden`` of look-ups whose answer is hidden
    from the question, ``local`` of batches whose sentences see only themselves (see ``packed``),
    ``strange`` of words that get another embedding for a batch, ``nonce`` of words that stand for a
    word of another kind, ``stretch`` of scenes whose positions are spread over all positions.
    ``rate`` is the learning rate, which falls to zero over the stage with ``decay``; the
    embedding's rate is ``word_rate`` times as high.
    """

    name: str
    gate: Mapping[str, float]
    max_steps: int
    questions: Mapping[str, float]
    context: tuple[int, int] = (0, 0)
    others: tuple[int, int] = (0, 0)
    rate: float = 1e-3
    word_rate: float = 0.0
    tokens: int = 2560
    slots: int = 8
    slot: int = 36
    repeats: float = 0.1
    hidden: float = 1.0
    strange: float = 0.7
    local: float = 1.0
    stretch: float = 0.0
    nonce: float = 0.5
    min_steps: int = 100
    decay: bool = False


_FACTS = {"cloze": 1.0, "bare": 1.0, "bare age": 1.0, "who": 1.0}
_ALL = _FACTS | {"link": 2.0, "compare age": 1.0, "compare who": 1.0, "compare": 2.0}

_LONG = Stage(
    name="length 2048",
    questions=_ALL,
    gate={},
    min_steps=700,
    max_steps=700,
    context=(128, 2040),
    others=(0, 6),
    tokens=6144,
    slots=12,
    hidden=0.5,
    strange=0.5,
    local=0.0,
    stretch=0.3,
)
_POLISH = replace(
    _LONG,
    name="polish",
    questions=_ALL | {"link": 4.0, "compare": 3.0},
    min_steps=1300,
    max_steps=1300,
    decay=True,
    strange=0.3,
    stretch=0.1,
)

STAGES = (
    Stage(
        name="repeats",
        questions={},
        gate={"repeats": 0.97},
        max_steps=1500,
        min_steps=200,
        rate=3e-3,
        word_rate=1.0,
    ),
    Stage(
        name="cloze",
        questions={"cloze": 1.0},
        gate={"cloze": 0.93},
        max_steps=1500,
        context=(56, 96),
        others=(1, 3),
        slot=14,
        rate=1.5e-3,
        strange=0.0,
    ),
    Stage(
        name="facts",
        questions=_FACTS,
        gate={"bare": 0.8, "bare age": 0.9, "who": 0.78},
        max_steps=1500,
        context=(64, 120),
        others=(1, 3),
        rate=1.5e-3,
        strange=0.0,
    ),
    Stage(
        name="reasoning",
        questions=_ALL,
        gate={"bare": 0.84, "link": 0.8, "compare": 0.65},
        max_steps=2000,
        context=(80, 140),
        others=(0, 3),
    ),
    Stage(
        name="length 512",
        questions=_ALL,
        gate={"bare": 0.9, "link": 0.85, "compare": 0.85},
        max_steps=200,
        context=(96, 512),
        others=(0, 5),
        tokens=4096,
        local=0.3,
        stretch=0.5,
    ),
    _LONG,
    _POLISH,
    replace(
        _POLISH,
        name="comparing",
        questions=_ALL | {"link": 3.0, "compare age": 3.0, "compare": 6.0},
        min_steps=700,
        max_steps=700,
        rate=8e-4,
    ),
    replace(
        _POLISH,
        name="strange words",
        questions=_ALL | {"link": 3.0, "compare age": 2.0, "compare": 4.0},
        min_steps=600,
        max_steps=600,
        rate=8e-4,
        strange=0.8,
    ),
)
