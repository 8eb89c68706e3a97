"""Turn lessons into tensors: random repeats, and scenes with packed questions."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from headprobe.nano.curriculum import Stage
from headprobe.nano.lessons import Author, Question, lay_out, scene
from headprobe.nano.packed import Packing
from headprobe.prompts.noise import KINDS, Split, filler, words

REPEATED, REPEAT_LENGTH, REPEAT_ROWS = (8, 14), 33, 64
PROSE_SENTENCES = 20_000
FIRST_WEIGHT, PROSE_WEIGHT, PROSE_TARGETS = 3.0, 0.05, 24
# Depths at which a token knows its subject, a question's cue its subject, its end the subject too.
SUBJECT_DEPTH, CUE_DEPTH, END_DEPTH = 2, 3, 4
HINTED_TAIL = 4
# The layer in which the cue looks at its subject's description; the one in which the end looks at
# the value.
CUE_LAYER, ANSWER_LAYER = 2, 4
# Kinds of question whose answer may be hidden until the question has ended.
LOOKED_UP = ("cloze", "bare", "bare age", "link", "compare")
# The number of context lengths in a stage: each new shape costs seconds of kernel compilation.
SHAPES = 5
_FIRST_WORD = 259


@dataclass(frozen=True, eq=False, kw_only=True)
class Answer:
    """The place where an answer is predicted: row, first position, number of tokens."""

    row: int
    first: int
    size: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """The tokens of one training step, the targets to predict and their weights.

    ``hints`` give, for some depths (numbers of layers passed), the word that a position should
    represent there, -1 for no hint; ``looks`` give, for some layers, the attention that is wanted
    (row, asking token, told token). ``strange`` are words that get another embedding in this batch,
    drawn from ``seed``, so that the model learns to handle words that it never met.
    """

    ids: Int[Tensor, "row token"]
    positions: Int[Tensor, "row token"]
    targets: Int[Tensor, "row token"]
    weights: Float[Tensor, "row token"]
    packing: Packing | None = None
    answers: Mapping[str, list[Answer]] = field(default_factory=dict)
    hints: Mapping[int, Int[Tensor, "row token"]] = field(default_factory=dict)
    looks: Mapping[int, Int[Tensor, "look 3"]] = field(default_factory=dict)
    strange: Int[Tensor, " word"] | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class _Page:
    """One scene in tokens: context, positions, the subject of each token, and questions."""

    tokens: list[int]
    positions: list[int]
    about: list[int]
    questions: list[Question]


class Teacher:
    """Draws batches; the same generator state gives the same batch."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_context: int) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._size = len(tokenizer)
        self._bos = tokenizer.bos_token_id
        self._max_context = max_context
        self._encode = cache(self._encode_behind)
        (self._stop,) = self._encode(".")
        (self._break,) = self._encode("\n")
        splits: tuple[Split, ...] = ("train", "held_out")
        self.content = [
            self._word(word) for split in splits for kind in KINDS for word in words(kind, split)
        ]
        rng = random.Random(7)
        self._prose = [self._encode(" " + filler(rng)) for _ in range(PROSE_SENTENCES)]

    def _encode_behind(self, text: str) -> tuple[int, ...]:
        return tuple(self._backend.encode("a" + text, add_special_tokens=False).ids[1:])

    def repeats(self, rng: random.Random) -> Batch:
        """Draw rows of a repeated block of random tokens, whose repeats are to be predicted."""
        generator = torch.Generator().manual_seed(rng.randrange(2**31))
        rows, masks = [], []
        place = torch.arange(REPEAT_LENGTH)
        for _ in range(REPEAT_ROWS):
            size = rng.randint(*REPEATED)
            block = torch.randint(_FIRST_WORD, self._size, (size,), generator=generator)
            rows.append(block.repeat(REPEAT_LENGTH // size + 1)[:REPEAT_LENGTH])
            masks.append((place >= size) & (place < REPEAT_LENGTH - 1))
        ids = torch.stack(rows)
        offset = rng.randrange(0, self._max_context - REPEAT_LENGTH)
        return Batch(
            ids=ids,
            positions=(offset + place)[None].expand(REPEAT_ROWS, -1),
            targets=torch.roll(ids, -1, 1),
            weights=torch.stack(masks).float(),
        )

    def scenes(self, stage: Stage, rng: random.Random) -> Batch:
        """Draw scenes of one context length, with ``stage.slots`` questions each."""
        low, high = stage.context
        length = round(low * (high / low) ** (rng.randrange(SHAPES) / (SHAPES - 1)))
        count = max(2, stage.tokens // (length + stage.slots * stage.slot))
        pages = [self._page(stage, rng, length) for _ in range(count)]
        shape = (count, length + stage.slots * stage.slot)
        ids, positions, targets = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
        subjects, cues, tails = (torch.full(shape, -1) for _ in range(3))
        weights = torch.zeros(shape)
        hidden = torch.zeros((count, stage.slots, 3), dtype=torch.long)
        answers: dict[str, list[Answer]] = {}
        looks: dict[int, list[tuple[int, int, int]]] = {CUE_LAYER: [], ANSWER_LAYER: []}
        prose = rng.sample(range(length - 1), min(length - 1, PROSE_TARGETS))
        for row, page in enumerate(pages):
            ids[row, :length] = torch.tensor(page.tokens)
            positions[row, :length] = torch.tensor(page.positions)
            subjects[row, :length] = torch.tensor(page.about)
            targets[row, : length - 1] = ids[row, 1:length]
            weights[row, prose] = PROSE_WEIGHT
            for slot, question in enumerate(page.questions):
                start = length + slot * stage.slot
                asked = self._encode(question.prompt)
                answer = self._encode(question.completion)
                first, size = start + len(asked) - 1, len(answer)
                ids[row, start : first + 1 + size] = torch.tensor(asked + answer)
                positions[row, start : start + stage.slot] = (
                    page.positions[-1] + 1 + torch.arange(stage.slot)
                )
                targets[row, first : first + size] = torch.tensor(answer)
                weights[row, first : first + size] = 1.0
                weights[row, first] = FIRST_WEIGHT
                meant = self._word(question.subject)
                cue = start + asked.index(self._word(question.cue))
                cues[row, cue] = meant
                tail = 1 if question.kind == "cloze" else HINTED_TAIL
                tails[row, first + 1 - tail : first + 1] = meant
                if question.told is not None:
                    told = page.tokens.index(self._word(question.told))
                    looks[CUE_LAYER].append((row, cue, told))
                if question.kind in LOOKED_UP:
                    value = self._value(page.tokens, answer)
                    looks[ANSWER_LAYER] += [(row, first + i, told) for i, told in enumerate(value)]
                    if rng.random() < stage.hidden:
                        hidden[row, slot] = torch.tensor((value[0], value[-1] + 2, len(asked) - 1))
                answers.setdefault(question.kind, []).append(
                    Answer(row=row, first=first, size=size)
                )
        return Batch(
            ids=ids,
            positions=positions,
            targets=targets,
            weights=weights,
            packing=Packing(
                context=length,
                slot=stage.slot,
                hidden=hidden,
                sentence=self._sentences(ids[:, :length]) if rng.random() < stage.local else None,
                kept={layer: None for layer in looks},
            ),
            answers=answers,
            hints={SUBJECT_DEPTH: subjects, CUE_DEPTH: cues, END_DEPTH: tails},
            looks={layer: torch.tensor(asked) for layer, asked in looks.items() if asked},
            strange=self._strange(stage, rng),
            seed=rng.randrange(2**31) if stage.strange else 0,
        )

    def _strange(self, stage: Stage, rng: random.Random) -> Int[Tensor, " word"] | None:
        if not stage.strange:
            return None
        return torch.tensor([word for word in self.content if rng.random() < stage.strange])

    def _sentences(self, ids: Int[Tensor, "row token"]) -> Int[Tensor, "row token"]:
        """Count for each token the sentences that ended before it in its row."""
        return torch.roll((ids == self._stop).long(), 1, 1).cumsum(1)

    def _value(self, tokens: list[int], answer: Sequence[int]) -> range:
        """Find the tokens of the context that state an answer (without its final line break)."""
        value = [token for token in answer if token != self._break]
        start = next(i for i in range(len(tokens)) if tokens[i : i + len(value)] == value)
        return range(start, start + len(value))

    def _word(self, word: str) -> int:
        return self._encode(" " + word)[0]

    def _page(self, stage: Stage, rng: random.Random, length: int) -> _Page:
        while True:
            author = Author(rng, "train", nonce=stage.nonce)
            drawn = scene(author, rng.randint(*stage.others))
            told = [[self._encode(" " + one.text) for one in block] for block in drawn.blocks]
            blocks = [[token for ids in block for token in ids] for block in told]
            if sum(map(len, blocks)) < length:
                break
        tokens, starts, places = lay_out(
            blocks, length - 1, lambda: list(rng.choice(self._prose)), rng
        )
        about = [-1] * length
        for sentences, encoded, place in zip(drawn.blocks, told, places, strict=True):
            at = place + 1
            for sentence, ids in zip(sentences, encoded, strict=True):
                subject = self._word(sentence.subject)
                named = at + ids.index(subject)
                at += len(ids)
                about[named + 1 : at] = [subject] * (at - named - 1)
        return _Page(
            tokens=[self._bos, *tokens],
            positions=self._positions(stage, rng, length, starts),
            about=about,
            questions=_asked(stage, rng, drawn.questions),
        )

    def _positions(
        self, stage: Stage, rng: random.Random, length: int, starts: list[int]
    ) -> list[int]:
        """Assign positions, with three leaps in some scenes, so that far distances are trained."""
        spare = self._max_context - 52 - length
        place = list(range(length))
        if spare <= 10 or rng.random() >= stage.stretch:
            return place
        leaps = sorted(rng.choice(starts) + 1 for _ in range(3))
        widths = sorted(rng.randrange(spare) for _ in range(3))
        steps = list(zip(leaps, widths, strict=True))
        return [i + max([0, *(width for leap, width in steps if i >= leap)]) for i in place]


def _asked(stage: Stage, rng: random.Random, questions: list[Question]) -> list[Question]:
    """Draw questions by weight, without repeats as long as there are enough."""
    kinds = [question.kind for question in questions]
    weights = [stage.questions.get(kind, 0.0) / kinds.count(kind) for kind in kinds]
    order = sorted(
        (i for i, weight in enumerate(weights) if weight),
        key=lambda i: -(rng.random() ** (1 / weights[i])),
    )
    return [questions[order[i % len(order)]] for i in range(stage.slots)]
